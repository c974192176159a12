"""Imitation of a teacher who knows what is wrong with a task (DAgger; Ross, Gordon & Bagnell 2011).

The network acts, the teacher says at every interval what it would have done, and the network is fitted to all that was
said so far; so it also learns where its own mistakes lead.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd

from bss_service.core.arrays import Float32
from envs.research.actors import of_artefact
from envs.research.export import of_ppo
from envs.research.files import written_whole
from envs.research.rollouts import Episode, Pool
from envs.research.training.gradient import CLIP, HIDDEN, calm, moments, set_moments
from envs.spaces import action_space, observation_space
from envs.tasks import Distribution

EPISODES: Final = 192  # an iteration
FIT_STEPS: Final = 1500  # of gradient descent an iteration
BATCH: Final = 1024
DEVIATION: Final = 0.05  # that the network acts with
EPSILON: Final = 1e-8


class Imitation:
    """A network, what it was told so far, and how far it has come."""

    def __init__(
        self, tasks: Distribution, *, seed: int, pool: Pool, episodes: int = EPISODES, fit_steps: int = FIT_STEPS
    ) -> None:
        """The first parameters are drawn from the seed."""
        self.tasks, self.seed, self.pool = tasks, seed, pool
        self.episodes, self.fit_steps = episodes, fit_steps
        self.iteration = 0
        self.intervals = 0
        self.observations = RunningMeanStd(shape=observation_space().shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = ActorCriticPolicy(observation_space(), action_space(), lambda _: 1e-3, net_arch=HIDDEN)
        calm(self.policy)
        self.lessons: list[tuple[Float32, Float32, Float32]] = []  # observations, advice, importance

    def advance(self) -> dict[str, float]:
        """One iteration; figures to show."""
        rng = np.random.default_rng([self.seed, self.iteration])
        tasks = [(self.tasks.draw(rng), int(rng.integers(2**63))) for _ in range(self.episodes)]
        acting = partial(of_artefact, self.artefact("imitation", {}))
        results = self.pool([Episode(task, seed, acting, taught=True) for task, seed in tasks])
        self.lessons += [(result.observations, result.advice, result.importance) for result in results]
        self.intervals += sum(len(result.observations) for result in results)
        seen, actions, weights = (np.concatenate(parts) for parts in zip(*self.lessons, strict=True))
        if self.iteration == 0:
            self.observations.mean, self.observations.var = seen.mean(axis=0), seen.var(axis=0)
        loss = self._fit(seen, actions, weights, int(rng.integers(2**31)))
        self.iteration += 1
        return {"best_validation_accuracy": float(np.mean([r.validation_accuracy for r in results])), "loss": loss}

    def artefact(self, name: str, training: dict[str, Any]) -> bytes:
        """The policy as it is now."""
        normaliser = SimpleNamespace(clip_obs=CLIP, epsilon=EPSILON, obs_rms=self.observations)
        return of_ppo(SimpleNamespace(policy=self.policy), normaliser, name=name, training=training)

    def save(self, path: Path) -> None:
        """Write everything that the next iteration depends on, in one act."""
        state: dict[str, Any] = {
            "iteration": self.iteration,
            "intervals": self.intervals,
            "parameters": self.policy.state_dict(),
            "observations": moments(self.observations),
            "told": [torch.from_numpy(np.concatenate(parts)) for parts in zip(*self.lessons, strict=True)],
        }
        with written_whole(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """What `save` wrote; numbers only, nothing in it is run."""
        state = torch.load(path, weights_only=True)
        self.iteration, self.intervals = state["iteration"], state["intervals"]
        self.policy.load_state_dict(state["parameters"])
        set_moments(self.observations, state["observations"])
        seen, actions, weights = (part.numpy() for part in state["told"])
        self.lessons = [(seen, actions, weights)]

    def close(self) -> None:
        """Nothing is left open."""

    def _fit(self, seen: Float32, actions: Float32, weights: Float32, seed: int) -> float:
        """Weighted least squares from the network's mean to what the teacher said; the mean last loss."""
        scale = np.sqrt(self.observations.var + EPSILON)
        inputs = torch.from_numpy(np.clip((seen - self.observations.mean) / scale, -CLIP, CLIP).astype(np.float32))
        targets, importance = torch.from_numpy(actions), torch.from_numpy(weights)
        generator = torch.Generator().manual_seed(seed)
        actor = [*self.policy.mlp_extractor.policy_net.parameters(), *self.policy.action_net.parameters()]
        optimizer = torch.optim.Adam(actor, lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, self.fit_steps)
        losses = []
        for _ in range(self.fit_steps):
            chosen = torch.randint(len(inputs), (BATCH,), generator=generator)
            hidden = self.policy.mlp_extractor.forward_actor(inputs[chosen])
            loss = (importance[chosen] * (self.policy.action_net(hidden) - targets[chosen]) ** 2).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        with torch.no_grad():
            self.policy.log_std.fill_(float(np.log(DEVIATION)))
        return float(np.mean(losses[-100:]))
