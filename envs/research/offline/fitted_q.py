"""Fitted Q evaluation with linear features: what a target policy would earn, by regression instead of by weights.

Q(o, a) = w·φ(o, a); w ← argmin Σ (r + γ·V(o') − w·φ(o, a))² + ridge, V(o) = E_{a ~ π_e}[w·φ(o, a)], as often as a run
has decisions (Le, Voloshin & Yue 2019, algorithm 3, with ridge regression as the function class). Nothing is earned
after a run's last decision.

All that a fit needs of a run are its moments, so that refitting on resampled runs is a weighted sum and a small solve:
the bootstrap of FQE is the real one, not an approximation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from bss_service.core.arrays import Bool, Float64, Floats
from envs.research.offline.episodes import Episodes, TargetPolicy

Features = Callable[[Floats, Floats], Floats]  # observations (k, D), actions (k, A) → (k, p)

RIDGE: Final = 1e-3  # a decision's, on standardised features
ACTIONS_PER_STATE: Final = 32  # sampled for the expectation over π_e; for its exactness in DR their number is no matter
_CROSS_TERMS: Final = 64  # products D·A up to which the standard features hold them
_BYTES: Final = 2**26  # of moments in memory at a time


def standard_features(observations: Floats, actions: Floats) -> Floats:
    """Observation, action and its square, and products of both where these are few: (k, D), (k, A) → (k, p)."""
    columns = [observations, actions, np.square(actions)]
    if observations.shape[1] * actions.shape[1] <= _CROSS_TERMS:
        columns.append((observations[:, :, None] * actions[:, None, :]).reshape(len(observations), -1))
    return np.concatenate(columns, axis=1)


@dataclass(frozen=True, slots=True)
class FittedQ:
    """Features of the logged decisions and what a fit needs of them, run by run."""

    features: Float64  # (N, T, p) φ(o_t, a_t), standardised, the first one constant; 0 in the padding
    expected: Float64  # (N, T, p) E_{a ~ π_e} φ(o_t, a)
    covariance: Float64  # (N, p·p) Σ_t φ φᵀ
    transition: Float64  # (N, p·p) Σ_t φ E[φ']ᵀ
    earned: Float64  # (N, p) Σ_t φ r
    decisions: Float64  # (N,) T_i
    discount: float

    def weights(self, counts: Floats) -> Float64:
        """w, (B, p), fitted to B weightings (B, N) of the runs."""
        p = self.features.shape[2]
        size = max(1, _BYTES // (16 * p * p))
        parts = [self._fit(counts[start : start + size]) for start in range(0, len(counts), size)]
        return np.concatenate(parts)

    def values(self, counts: Floats) -> Float64:
        """Mean over runs of V at their first decisions, (B,), everything refitted to each weighting (B, N)."""
        starts = counts @ self.expected[:, 0] / counts.sum(axis=1, keepdims=True)  # (B, p)
        values: Float64 = np.einsum("bp,bp->b", starts, self.weights(counts))
        return values

    def _fit(self, counts: Floats) -> Float64:
        b, p = len(counts), self.features.shape[2]
        penalty = RIDGE * np.diag(np.arange(p) > 0)  # the constant is free
        left = (counts @ self.covariance).reshape(b, p, p) + (counts @ self.decisions)[:, None, None] * penalty
        right = np.concatenate(
            [(counts @ self.transition).reshape(b, p, p), (counts @ self.earned)[:, :, None]], axis=2
        )
        solved = np.linalg.solve(left, right)  # one factorisation serves all rounds: left·w = γ·transition·w + earned
        w = np.zeros((b, p, 1))
        for _ in range(self.features.shape[1]):
            w = self.discount * solved[:, :, :p] @ w + solved[:, :, p:]
        return w[:, :, 0]


def prepare(
    episodes: Episodes, target: TargetPolicy, discount: float, features: Features, rng: np.random.Generator
) -> FittedQ:
    """Features and moments of all runs."""
    observed = features(_rows(episodes.observations, episodes.valid), _rows(episodes.actions, episodes.valid))
    centre, scale = observed.mean(axis=0), observed.std(axis=0)
    scale = np.where(scale > 1e-9 * (1 + np.abs(centre)), scale, np.inf)  # what never varies teaches nothing
    taken = _placed(observed, centre, scale, episodes.valid)
    expected = _placed(_expected(episodes, target, features, rng), centre, scale, episodes.valid)
    following = np.concatenate([expected[:, 1:], np.zeros_like(expected[:, :1])], axis=1)
    n = len(episodes)
    return FittedQ(
        features=taken,
        expected=expected,
        covariance=(taken.swapaxes(1, 2) @ taken).reshape(n, -1),
        transition=(taken.swapaxes(1, 2) @ following).reshape(n, -1),
        earned=np.einsum("ntp,nt->np", taken, episodes.rewards),
        decisions=episodes.valid.sum(axis=1).astype(np.float64),
        discount=discount,
    )


def _expected(episodes: Episodes, target: TargetPolicy, features: Features, rng: np.random.Generator) -> Floats:
    """E_{a ~ π_e} φ(o, a) at every logged observation, (k, p), as the mean over sampled actions."""
    observations = _rows(episodes.observations, episodes.valid)
    total = features(observations, target.sample(observations, rng))
    for _ in range(ACTIONS_PER_STATE - 1):
        total = total + features(observations, target.sample(observations, rng))
    return total / ACTIONS_PER_STATE


def _rows(padded: Float64, valid: Bool) -> Float64:
    return padded[valid]


def _placed(rows: Floats, centre: Floats, scale: Floats, valid: Bool) -> Float64:
    """Standardised features with a constant first one, back in the runs' order."""
    placed = np.zeros((*valid.shape, rows.shape[1] + 1))
    placed[valid] = np.concatenate([np.ones((len(rows), 1)), (rows - centre) / scale], axis=1)
    return placed
