"""Logged training runs as arrays, and the policies that are judged on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bss_service.core.arrays import Bool, Float64, Floats


class TargetPolicy(Protocol):
    """A policy to be judged on what another one did."""

    def log_probability(self, observations: Floats, raw_actions: Floats) -> Float64:
        """Logarithm of the probability, or density before clipping, of each action: (k, D), (k, A) → (k,).

        Of a deterministic policy: 0 for the action that it takes, −inf for any other.
        """

    def sample(self, observations: Floats, rng: np.random.Generator) -> Floats:
        """One raw action for each observation: (k, D) → (k, A)."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One training run, T decisions. The run ends with the last of them: nothing is earned afterwards."""

    observations: Floats  # (T, D)
    actions: Floats  # (T, A) raw, as drawn before any clipping
    rewards: Floats  # (T,)
    log_probabilities: Floats  # (T,) of the actions under the policy that took them; NaN where not known


@dataclass(frozen=True, slots=True)
class Episodes:
    """N training runs of up to T decisions, padded at their ends with zeros."""

    observations: Float64  # (N, T, D)
    actions: Float64  # (N, T, A)
    rewards: Float64  # (N, T)
    log_probabilities: Float64  # (N, T)
    valid: Bool  # (N, T), false in the padding

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> "Episodes":
        """Raises ValueError where there is no episode, one without a decision, or shapes that don't agree."""
        if not episodes or min(len(e.rewards) for e in episodes) == 0:
            raise ValueError(f"at least one episode, each with a decision, is needed; got {len(episodes)} episodes")
        for e in episodes:
            if not len(e.rewards) == len(e.observations) == len(e.actions) == len(e.log_probabilities):
                raise ValueError(f"an episode has one entry for each decision, got {len(e.rewards)} rewards")
        length = max(len(e.rewards) for e in episodes)
        return cls(
            observations=_padded([e.observations for e in episodes], length),
            actions=_padded([e.actions for e in episodes], length),
            rewards=_padded([e.rewards for e in episodes], length),
            log_probabilities=_padded([e.log_probabilities for e in episodes], length),
            valid=_padded([np.ones(len(e.rewards)) for e in episodes], length) > 0,
        )

    def __len__(self) -> int:
        return len(self.rewards)

    def discounts(self, discount: float) -> Float64:
        """γ^t, (T,)."""
        powers: Float64 = discount ** np.arange(self.rewards.shape[1], dtype=np.float64)
        return powers

    def returns(self, discount: float) -> Float64:
        """Σ_t γ^t r_t of each run, (N,)."""
        total: Float64 = self.rewards @ self.discounts(discount)
        return total


def _padded(arrays: Sequence[Floats], length: int) -> Float64:
    padded = np.zeros((len(arrays), length, *arrays[0].shape[1:]))
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded
