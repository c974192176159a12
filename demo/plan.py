"""Which runs the demo makes, and how each one trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

BASELINE: Final = "uniform"
PAPER: Final = "balance"
SHOWN: Final = "evidence"  # the policy that the demo is about
ORACLE: Final = "oracle"  # a control, no policy of the service: uniform over the samples whose labels are right
POLICIES: Final = (BASELINE, PAPER, SHOWN, ORACLE)

NOISE: Final = 0.4  # share of the training labels drawn anew; some draw the true one again
SAMPLES: Final = {"emoji": None, "watch": 1200}  # for training, at most: the demo shall take minutes
EPOCHS: Final = {"emoji": 30, "watch": 20}  # uniform's validation accuracy has levelled off by then


@dataclass(frozen=True, slots=True)
class Condition:
    """A data set and the state of its training labels; those of validation and test are always the true ones."""

    data: str
    noisy_labels: float  # share drawn anew at random

    @property
    def key(self) -> str:
        """As part of a job's name."""
        return f"{self.data}-{'noisy' if self.noisy_labels else 'clean'}"

    @property
    def title(self) -> str:
        """In a few words."""
        labels = f"{100 * self.noisy_labels:.0f} % of the labels redrawn" if self.noisy_labels else "clean labels"
        return f"{self.data}, {labels}"


CONDITIONS: Final = tuple(Condition(data, noise) for data in SAMPLES for noise in (NOISE, 0.0))


@dataclass(frozen=True, slots=True)
class Run:
    """One training run. Runs of one seed share samples, their labels, initial weights and the job's seed."""

    purpose: Literal["compare", "swap"]
    condition: Condition
    policy: str  # the first one, where it is swapped
    seed: int
    epochs: int
    batch_size: int = 64
    loader_workers: int = 0
    prefetch: int = 16  # batches that the sampler fetches ahead of the loader

    @property
    def job(self) -> str:
        """Name of the job at the service."""
        return f"{self.purpose}-{self.condition.key}-{self.policy}-seed-{self.seed}"

    @property
    def served(self) -> str:
        """The policy by its name at the service."""
        return BASELINE if self.policy == ORACLE else self.policy


def compared_runs(policies: Sequence[str], seeds: int, epochs: int | None = None) -> list[Run]:
    """Every policy on every condition with every seed; a seed's runs come one after another.

    epochs: of every run; None: as many as EPOCHS says. On clean labels the oracle is uniform, and is not run.
    """
    return [
        Run("compare", condition, policy, seed, epochs or EPOCHS[condition.data])
        for seed in range(seeds)
        for condition in CONDITIONS
        for policy in policies
        if condition.noisy_labels or policy != ORACLE
    ]


def swapped_run(epochs: int) -> Run:
    """The run whose policy is swapped from outside.

    Its batches are small, so that an epoch is long enough to be hit in the middle, and little is fetched ahead, so that
    much of the epoch is still to be drawn; two loader processes pull batches ahead all the same.
    """
    return Run("swap", Condition("emoji", 0.0), BASELINE, 0, epochs, batch_size=16, loader_workers=2, prefetch=4)
