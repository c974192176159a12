"""A teacher that knows what is wrong with a task, and the lessons that a network takes from it.

In a simulated run the harm is known. What to do about it, found once for each kind of harm on synthetic tasks, then
needs no exploration: the network learns to tell from the observation alone what the teacher is told. Observations come
from runs of the network itself, so that it also learns where its own actions lead (DAgger, Ross et al. 2011).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from bss_service.core.action import RANGES, Action
from bss_service.core.arrays import Float32, Float64
from bss_service.core.observation import FIELDS, Observation
from bss_service.policies.base import Choice, Decision
from envs.tasks import Task

_PROGRESS: Final = FIELDS.index("progress")


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do about one kind of harm: keep a share of a ranking, from some progress on."""

    ranking: tuple[float, float, float]  # κ of similarity, loss and the weaker head
    begin: float  # progress at which samples begin to be left out
    ramp: float  # progress until all are left out that should be
    dose: float  # share left out for each share harmed


# Found on 64 synthetic tasks each by random search, confirmed on 160 others; benchmarks/results/remedies.md
NOISY: Final = Remedy(ranking=(0.25, 2.0, 0.5), begin=0.15, ramp=0.5, dose=0.9)
MISPAIRED: Final = Remedy(ranking=(1.0, 2.0, -2.0), begin=0.4, ramp=0.5, dose=0.8)


EMA: Final = 0.5
UNLESS_HARMED: Final = 0.05  # weight of a ranking that nothing depends on
SHARE_WEIGHT: Final = 4.0  # errors of the share cost more than those of the ranking,
CLEAN_SHARE_WEIGHT: Final = 6.0  # and most where nothing is to be left out


@dataclass(frozen=True, slots=True)
class Teacher:
    """Acts on a task whose harm it knows. As an actor it is called with a seed that it doesn't need."""

    task: Task
    seed: int = 0

    def act(self, observation: Observation) -> Choice:
        return Choice(self.action(observation["progress"]))

    def learn(self, decision: Decision) -> None:
        """It knows all that it needs."""

    def action(self, progress: float) -> Action:
        """The best known action at a progress in [0, 1]: remedies mixed by how much each has to leave out."""
        left_out = self.left_out(progress)
        # Before anything is left out the ranking is already the one that will be wanted.
        mixture = np.array([self.task.noisy_labels, self.task.mispaired]) + 1e-9
        similarity, loss, weak = (mixture / mixture.sum()) @ np.array([NOISY.ranking, MISPAIRED.ranking])
        return Action(
            kappa_similarity=float(similarity),
            kappa_loss=float(loss),
            kappa_weak=float(weak),
            share=float(np.prod(1 - left_out)),
            ema=EMA,
            coverage="subset",
            rank_by="weight",
        )

    def left_out(self, progress: float) -> Float64:
        """The share that the remedy for each kind of harm leaves out, (2,)."""
        harms = ((NOISY, self.task.noisy_labels), (MISPAIRED, self.task.mispaired))
        return np.array([r.dose * harm * np.clip((progress - r.begin) / r.ramp, 0, 1) for r, harm in harms])


def lessons(task: Task, observations: Float32) -> tuple[Float32, Float32, Float32]:
    """What the teacher says of the observations (k, D) of a run: actions (k, A) and how much each number matters."""
    teacher = Teacher(task)
    actions = np.stack([teacher.action(float(o)).to_vector() for o in observations[:, _PROGRESS]])
    weights = np.ones_like(actions)
    harmed = max(task.noisy_labels, task.mispaired)
    weights[:, :3] = max(UNLESS_HARMED, min(1.0, 2 * harmed))
    weights[:, list(RANGES).index("share")] = SHARE_WEIGHT if harmed else CLEAN_SHARE_WEIGHT
    return observations, actions, weights
