"""Which runs the demo makes, and how each one trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

POLICIES: Final = ("uniform", "curriculum", "balance", "bandit")
BASELINE: Final = "uniform"
GROWTH_SHARE: Final = 0.4  # of a run, until curriculum admits every sample: 40 of about 100 epochs in the paper


@dataclass(frozen=True, slots=True)
class Condition:
    """A state of the training data; validation and test data are always clean."""

    key: str
    title: str
    noisy_labels: float  # share of the training labels drawn anew at random


CLEAN: Final = Condition("clean", "clean labels", 0.0)
NOISY: Final = Condition("noisy", "30 % noisy labels", 0.3)
CONDITIONS: Final = (CLEAN, NOISY)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run. Runs of one seed share initial weights, corruption of the data and the job's seed."""

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
    def parameters(self) -> dict[str, Any]:
        """Of the policy; what is not named here is its default."""
        return {"growth_epochs": GROWTH_SHARE * self.epochs} if self.policy == "curriculum" else {}

    @property
    def measure_first(self) -> bool:
        """Whether the ranking needs a measuring pass before the first step."""
        return self.policy == "curriculum"


def compared_runs(policies: Sequence[str], seeds: int, epochs: int) -> list[Run]:
    """Every policy on every condition with every seed; a seed's runs come one after another."""
    return [
        Run("compare", condition, policy, seed, epochs)
        for seed in range(seeds)
        for condition in CONDITIONS
        for policy in policies
    ]


def swapped_run(epochs: int) -> Run:
    """The run whose policy is swapped from outside.

    Its batches are small, so that an epoch is long enough to be hit in the middle, and little is fetched ahead, so that
    much of the epoch is still to be drawn; two loader processes pull batches ahead all the same.
    """
    return Run("swap", CLEAN, BASELINE, 0, epochs, batch_size=16, loader_workers=2, prefetch=4)
