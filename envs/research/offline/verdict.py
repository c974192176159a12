"""Whether logged runs can tell what a target policy is worth, and what they say."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from bss_service.core.arrays import Float64, Floats
from envs.research.offline.estimators import Evidence, gain_over_behaviour, smallest_sample_size
from envs.research.statistics import UNKNOWN, Interval

Answer = Literal["better", "no clear difference", "worse", "can't tell"]

# An effective sample size of 30 is the usual bound under which the interval of a mean is not trusted, in runs' worth of
# evidence. The bounds were chosen among 72 combinations by the coverage of DR in the linear-Gaussian worlds of
# benchmarks/estimators/known_values.py, so their coverage there (benchmarks/results/estimators.md) is no independent
# test. What no bound cured: where weights have no variance and the features can't hold Q, 87 % instead of 95 % at 300
# runs. A Pareto shape of the weights' tail as a further bound lowered the coverage of what it let pass.
SMALLEST_SAMPLE: Final = 30.0
LARGEST_SHARE: Final = 0.1  # of one run in the sum of all weights
# The mean weight is 1 where supports overlap and propensities are right. By how many standard errors it may miss that:
# below, where weights yet to come are missing from it, fewer than above, where only wrong propensities put it.
ERRORS_BELOW: Final = 2.0
ERRORS_ABOVE: Final = 4.0


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
    return _thin(evidence) or _dominated(weights) or _off_centre(weights)


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


def _off_centre(weights: Float64) -> str | None:
    """Whether the weights' mean differs from 1, where it lies if the log covers all that the target policy does."""
    mean, error = float(weights.mean()), float(weights.std() / np.sqrt(len(weights))) + 1e-6
    if mean < 1 - ERRORS_BELOW * error:
        return f"the weights average {mean:.2f} and not 1: the target policy does what the log hardly holds"
    if mean > 1 + ERRORS_ABOVE * error:
        return f"the weights average {mean:.2f} and not 1: the propensities in the log can't be right"
    return None
