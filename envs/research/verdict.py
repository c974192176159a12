"""Whether logged runs can tell what a target policy is worth, and what they say."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from bss_service.core.arrays import Float64, Floats
from envs.research.estimators import Evidence, gain_over_behaviour, smallest_sample_size
from envs.research.statistics import UNKNOWN, Interval

Answer = Literal["better", "no clear difference", "worse", "can't tell"]

# Below these the 95 % intervals no longer hold 95 %: benchmarks/results/estimators.md. An effective sample size of 30
# is also the usual bound under which a mean's normal interval is not trusted, counted in runs' worth of evidence.
SMALLEST_SAMPLE: Final = 30.0
LARGEST_SHARE: Final = 0.1  # of one run in the sum of all weights
LARGEST_SHAPE: Final = 0.5  # of a Pareto tail fitted to the weights; beyond it they have no variance
WEIGHT_ERRORS: Final = 3.0  # standard errors by which the mean weight may miss 1, which it is where supports overlap


@dataclass(frozen=True, slots=True)
class Verdict:
    """Is the target policy better than the one in the log? `gain`: DR minus the log's value, 95 %; by it is judged.

    `reason`: why the data can't tell, else what the answer rests on.
    """

    answer: Answer
    reason: str
    gain: Interval


def judge(evidence: Evidence, rng: np.random.Generator) -> Verdict:
    """The verdict of DR, if the weights allow one."""
    doubt = doubts(evidence)
    if doubt is not None:
        return Verdict("can't tell", doubt, UNKNOWN)
    gain = gain_over_behaviour(evidence, rng)
    reason = f"by DR the gain over the log lies in [{gain.low:.3g}, {gain.high:.3g}] at 95 %"
    if gain.low > 0:
        return Verdict("better", reason, gain)
    return Verdict("worse" if gain.high < 0 else "no clear difference", reason, gain)


def doubts(evidence: Evidence) -> str | None:
    """The first reason for which the log can't tell, or None."""
    logged = evidence.episodes.log_probabilities[evidence.episodes.valid]
    if np.isnan(logged).any():
        return "the log lacks propensities"
    if not logged.any():
        return "the policy in the log is deterministic: it shows nothing of what other actions would have earned"
    weights = evidence.ratios[:, -1]
    if not weights.any():
        return "the target policy never takes the actions of any logged run; a deterministic one has no density"
    return _thin(evidence) or _dominated(weights) or _heavy_tailed(weights) or _off_centre(weights)


def _thin(evidence: Evidence) -> str | None:
    size, runs = smallest_sample_size(evidence), len(evidence.episodes)
    if size >= SMALLEST_SAMPLE:
        return None
    return f"the {runs} runs are worth {size:.1f} of the target policy's own, fewer than {SMALLEST_SAMPLE:.0f}"


def _dominated(weights: Floats) -> str | None:
    share = float(weights.max() / weights.sum())
    return (
        None if share <= LARGEST_SHARE else f"one run carries {share:.0%} of all weight, more than {LARGEST_SHARE:.0%}"
    )


def _heavy_tailed(weights: Float64) -> str | None:
    """Weights without a variance have no honest interval: the largest ones are still to come."""
    shape = pareto_shape(weights)
    if shape <= LARGEST_SHAPE:
        return None
    return f"the weights' tail is too heavy: its Pareto shape is {shape:.2f}, above {LARGEST_SHAPE}"


def _off_centre(weights: Float64) -> str | None:
    """Weights average 1 where the log covers all that the target policy does, and propensities are right."""
    mean, error = float(weights.mean()), float(weights.std() / np.sqrt(len(weights)))
    if abs(mean - 1) <= WEIGHT_ERRORS * error + 1e-6:
        return None
    return f"the weights average {mean:.2f} and not 1: the target policy does what the log hardly holds"


def pareto_shape(weights: Float64) -> float:
    """Shape k of a generalised Pareto tail fitted to the largest of the weights (N,); moments of order 1/k exist.

    Fit of Zhang & Stephens 2009, drawn slightly towards 1/2, to the min(N/5, 3√N) largest, as in Vehtari et al. 2024,
    "Pareto Smoothed Importance Sampling". −inf where fewer than 5 weights stand out.
    """
    ordered = np.sort(weights)
    size = int(min(len(ordered) / 5, 3 * np.sqrt(len(ordered))))
    excess = ordered[-size:] - ordered[-size - 1]
    excess = excess[excess > 1e-9 * ordered[-1]]
    n = len(excess)
    if n < 5:
        return -np.inf
    grid = np.arange(1, 31 + int(np.sqrt(n))) - 0.5
    b = 1 / excess[-1] + (1 - np.sqrt(len(grid) / grid)) / (3 * excess[int(n / 4 + 0.5) - 1])
    shapes = np.log1p(-b[:, None] * excess).mean(axis=1)
    likelihood = n * (np.log(-b / shapes) - shapes - 1)
    posterior = np.exp(likelihood - likelihood.max())
    best = float(b @ posterior / posterior.sum())
    shape = float(np.log1p(-best * excess).mean())
    return (n * shape + 10 * 0.5) / (n + 10)
