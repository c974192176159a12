"""PPO and SAC of stable-baselines3 on the student environments, with checkpoints that a run resumes from exactly.

Every iteration begins all environments anew, from a seed that depends on the run's seed and the iteration's number
alone. So a checkpoint needs no half-trained students: parameters, optimisers, the normaliser and, for SAC, the replay
buffer are all that the next iteration depends on.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from bss_service.core.action import DIMENSION, RANGES, Action
from envs.research.export import of_ppo, of_sac
from envs.research.files import written_whole
from envs.research.rollouts import Progress, unheard
from envs.tasks import Distribution
from envs.workers import StudentsVecEnv

ENVS: Final = 32
STEPS: Final = 60  # of each environment an iteration: two episodes or three
HIDDEN: Final = [64, 64]
NEVER: Final = 2**62
CLIP: Final = 5.0  # of normalised observations
SETTLED: Final = 1e6  # observations that a normaliser counts for once a network has been fitted to it
# Training begins at plain shuffling that leaves out little: noise of this size around it explores each component.
START: Final = Action(share=0.95, floor=0.02, ema=0.5, coverage="subset", rank_by="weight")
# Where evidence is to be acted on: what `evidence` does in the middle of a run.
JUDGED_START: Final = Action(belief=0.45, probes=0.12, pull=1.0)
CRITIC_FIRST: Final = 6
REFINING_DEVIATION: Final = 0.1  # with which PPO begins where an imitation ends
NUMBERS_DEVIATION: Final = 0.3
CHOICES_DEVIATION: Final = 0.1


class Gradient:
    """A PPO or SAC model, the environments that it learns in, and how far it has come."""

    def __init__(
        self,
        algorithm: str,
        tasks: Distribution,
        *,
        seed: int,
        workers: int,
        envs: int = ENVS,
        steps: int = STEPS,
        progress: Progress = unheard,
    ) -> None:
        """algorithm: "ppo", "ppo-evidence" or "sac". The model's first parameters are drawn from the seed.

        ppo-evidence begins at what `evidence` does, and is rewarded for what it gains over plain shuffling.
        """
        self.seed, self.steps, self.progress = seed, steps, progress
        self.critic_first = 0  # iterations in which the actor waits for the critic
        self.iteration = 0
        judged = algorithm == "ppo-evidence"
        self.envs = StudentsVecEnv(envs, workers, tasks, twins=judged)
        self.normaliser = VecNormalize(self.envs, clip_obs=CLIP)
        self.model: BaseAlgorithm = (_sac if algorithm == "sac" else _ppo)(self.normaliser, seed, steps)
        if judged:
            calm(self.model.policy, JUDGED_START)  # type: ignore[arg-type]  # PPO's is one
        self.model.set_logger(Logger(folder=None, output_formats=[]))

    @property
    def _seen(self) -> RunningMeanStd:
        """Of observations; only an observation that is a dictionary would have several."""
        rms = self.normaliser.obs_rms
        assert isinstance(rms, RunningMeanStd)
        return rms

    @property
    def intervals(self) -> int:
        """Intervals trained so far."""
        return self.iteration * self.envs.num_envs * self.steps

    def advance(self) -> dict[str, float]:
        """One iteration; figures to show."""
        set_random_seed(int(np.random.default_rng([self.seed, self.iteration]).integers(2**31)))
        first = int(np.random.default_rng([self.seed, self.iteration, 1]).integers(2**31 - self.envs.num_envs))
        self.envs.seed(first)
        self.model._last_obs = None  # so that `learn` begins all environments anew
        self._let_actor_learn(self.iteration >= self.critic_first)
        episodes = _Episodes(self.steps, self.progress)
        fresh = self.iteration == 0
        self.model.learn(
            self.envs.num_envs * self.steps, callback=episodes, log_interval=NEVER, reset_num_timesteps=fresh
        )
        self.iteration += 1
        logged = self.model.logger.name_to_value
        figures = {name: float(value) for name, value in logged.items() if name.startswith("train/")}
        return {"best_validation_accuracy": episodes.mean(), **figures}

    def artefact(self, name: str, training: dict[str, Any]) -> bytes:
        """The policy as it is now."""
        write = of_ppo if isinstance(self.model, PPO) else of_sac
        return write(self.model, self.normaliser, name=name, training=training)

    def _let_actor_learn(self, learns: bool) -> None:
        """An actor that begins with an imitation's network would only be spoilt by a critic that knows nothing yet."""
        if isinstance(self.model, PPO):
            policy: Any = self.model.policy
            for part in (policy.mlp_extractor.policy_net, policy.action_net, policy.log_std):
                part.requires_grad_(learns)

    def save(self, path: Path) -> None:
        """Write everything that the next iteration depends on, in one act."""
        state: dict[str, Any] = {
            "iteration": self.iteration,
            "timesteps": self.model.num_timesteps,
            "updates": self.model._n_updates,
            "parameters": self.model.get_parameters(),
            "observations": moments(self._seen),
            "returns": moments(self.normaliser.ret_rms),
        }
        if isinstance(self.model, SAC):
            state["replay"] = _replay(self.model)
        with written_whole(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """What `save` wrote; numbers only, nothing in it is run."""
        state = torch.load(path, weights_only=True)
        self.iteration = state["iteration"]
        self.model.num_timesteps, self.model._n_updates = state["timesteps"], state["updates"]
        self.model.set_parameters(state["parameters"])
        set_moments(self._seen, state["observations"])
        set_moments(self.normaliser.ret_rms, state["returns"])
        if isinstance(self.model, SAC):
            _set_replay(self.model, state["replay"])

    def begin_with(self, path: Path) -> None:
        """Take over the network and the normaliser of an imitation, to go on from there with PPO."""
        state = torch.load(path, weights_only=True)
        policy: Any = self.model.policy
        policy.load_state_dict(state["parameters"])
        with torch.no_grad():
            policy.log_std.fill_(float(np.log(REFINING_DEVIATION)))
        self.critic_first = CRITIC_FIRST
        set_moments(self._seen, state["observations"])
        self._seen.count = SETTLED

    def close(self) -> None:
        """End the processes of the environments."""
        self.normaliser.close()


class _Episodes(BaseCallback):
    """Collects how the episodes of an iteration ended, and tells of each tenth of it."""

    def __init__(self, steps: int, progress: Progress) -> None:
        """steps: of each environment in the iteration."""
        super().__init__()
        self.steps, self.progress = steps, progress
        self.accuracies: list[float] = []

    def _on_step(self) -> bool:
        if self.n_calls % max(1, self.steps // 10) == 0:
            envs = self.training_env.num_envs
            self.progress(f"{self.n_calls * envs} of {self.steps * envs} intervals")
        self.accuracies += [
            float(info["best_validation_accuracy"])
            for info in self.locals["infos"]
            if "best_validation_accuracy" in info
        ]
        return True

    def mean(self) -> float:
        return float(np.mean(self.accuracies)) if self.accuracies else float("nan")


def start(action: Action) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and logarithm of the deviation, (A,) each, of the actions of a network that has learnt nothing."""
    numbers = len(RANGES)
    deviation = torch.tensor([NUMBERS_DEVIATION] * numbers + [CHOICES_DEVIATION] * (DIMENSION - numbers))
    return torch.from_numpy(action.to_vector()), deviation.log()


def _ppo(envs: VecNormalize, seed: int, steps: int) -> PPO:
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=steps,
        batch_size=min(480, steps * envs.num_envs),
        n_epochs=6,
        learning_rate=3e-4,
        target_kl=0.03,
        policy_kwargs={"net_arch": HIDDEN},
        seed=seed,
        device="cpu",
    )
    calm(model.policy)
    return model


def calm(policy: ActorCriticPolicy, action: Action = START) -> None:
    """Let a new network act about so, whatever it sees."""
    mean, log_std = start(action)
    _restart(policy.action_net, mean)
    with torch.no_grad():
        policy.log_std.copy_(log_std)


def _sac(envs: VecNormalize, seed: int, steps: int) -> SAC:
    model = SAC(
        "MlpPolicy",
        envs,
        buffer_size=200_000,
        learning_starts=steps * envs.num_envs,
        train_freq=steps,
        gradient_steps=4 * steps,
        batch_size=512,
        policy_kwargs={"net_arch": HIDDEN},
        seed=seed,
        device="cpu",
    )
    mean, log_std = start(START)
    _restart(model.actor.mu, torch.atanh(mean.clamp(-0.95, 0.95)))
    _restart(model.actor.log_std, log_std)
    return model


def _restart(layer: torch.nn.Module | torch.nn.Parameter, bias: torch.Tensor) -> None:
    """Let a linear layer give nearly the same output for every input."""
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.copy_(bias)


def moments(running: RunningMeanStd) -> dict[str, Any]:
    """Running moments as tensors."""
    return {
        "mean": torch.as_tensor(np.array(running.mean)),
        "var": torch.as_tensor(np.array(running.var)),
        "count": float(running.count),
    }


def set_moments(running: RunningMeanStd, values: dict[str, Any]) -> None:
    """The inverse of `moments`."""
    running.mean, running.var = values["mean"].numpy().copy(), values["var"].numpy().copy()
    running.count = values["count"]


_REPLAYED: Final = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _replay(model: SAC) -> dict[str, Any]:
    buffer = model.replay_buffer
    assert buffer is not None
    end = buffer.buffer_size if buffer.full else buffer.pos
    arrays = {name: torch.from_numpy(getattr(buffer, name)[:end].copy()) for name in _REPLAYED}
    return {"position": buffer.pos, "full": buffer.full, **arrays}


def _set_replay(model: SAC, state: dict[str, Any]) -> None:
    buffer = model.replay_buffer
    assert buffer is not None
    buffer.pos, buffer.full = state["position"], state["full"]
    for name in _REPLAYED:
        getattr(buffer, name)[: len(state[name])] = state[name].numpy()
