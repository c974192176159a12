"""Comparing schedulers over tasks and paired seeds: robust means, their 95 % intervals, and what they allow to say.

Scores are (tasks, seeds) arrays, higher being better; entry [t, s] of every method comes from the same task, data and
initialisation. Intervals hold for these tasks: seeds are resampled within each task, tasks are not resampled.

A percentile interval of so few seeds is too narrow: resampling k values gives (k − 1)/k of their variance, and normal
quantiles stand where Student's belong. `expanded_percentiles` widens the percentiles by both (Hesterberg 2015, "What
Teachers Should Know About the Bootstrap", section 5.3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtr

from bss_service.core.arrays import Float64, Floats, Int64
from bss_service.core.validation.comparison import LEVEL, student_interval, student_quantile

RESAMPLES: Final = 2000  # for an interval at LEVEL


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its interval, at 95 % unless said; all NaN where there is nothing to estimate."""

    value: float
    low: float
    high: float


UNKNOWN: Final = Interval(np.nan, np.nan, np.nan)


def interquartile_mean(scores: Floats) -> Float64:
    """Mean of the middle half of the last axis: ⌊k/4⌋ values are cut from each end, as in Agarwal et al. 2021."""
    cut = scores.shape[-1] // 4
    middle: Float64 = np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1, dtype=np.float64)
    return middle


def aggregate_score(scores: Floats, rng: np.random.Generator, level: float = LEVEL) -> Interval:
    """Interquartile mean over all tasks and seeds, with a stratified bootstrap interval.

    scores: (tasks, seeds), at least 2 seeds. level: of the interval.
    Raises ValueError on another shape or values that are not finite.
    """
    scores = _checked(scores)
    resampled = np.take_along_axis(scores[None], _resamples(scores, rng, level), axis=2)
    pooled = interquartile_mean(resampled.reshape(len(resampled), -1))
    return _interval(float(interquartile_mean(scores.reshape(-1))), pooled, *scores.shape, level=level)


def aggregate_gain(scores: Floats, baseline: Floats, rng: np.random.Generator, level: float = LEVEL) -> Interval:
    """Interquartile mean of the paired gains over a baseline, with a stratified bootstrap interval.

    scores, baseline: (tasks, seeds), paired. Pairs are resampled, so that what a seed does to both cancels out.
    """
    return aggregate_score(_paired_gains(scores, baseline), rng, level)


def task_gains(scores: Floats, baseline: Floats, level: float = LEVEL) -> list[Interval]:
    """The mean paired gain on each task, with Student's t interval.

    scores, baseline: (tasks, seeds), paired.
    """
    means, half = student_interval(_paired_gains(scores, baseline), level)
    return [Interval(float(m), float(m - h), float(m + h)) for m, h in zip(means, half, strict=True)]


def probability_of_improvement(
    scores: Floats, baseline: Floats, rng: np.random.Generator, level: float = LEVEL
) -> Interval:
    """P(X > Y) for a random run of the method and one of the baseline, averaged over tasks; ties count half.

    scores, baseline: (tasks, seeds), whose seeds may differ in number. The Mann–Whitney form and its bootstrap, which
    resamples both sides independently, are those of Agarwal et al. 2021; with paired seeds the interval is therefore
    rather too wide. Where every pair agrees the interval is one point, whatever the number of seeds.
    """
    scores, baseline = _checked(scores), _checked(baseline)
    if len(scores) != len(baseline):
        raise ValueError(f"both methods must have the same tasks, got {len(scores)} and {len(baseline)}")
    wins = (np.sign(scores[:, :, None] - baseline[:, None, :]) + 1) / 2  # (tasks, seeds, seeds of the baseline)
    ours, theirs = _shares(scores, rng, level), _shares(baseline, rng, level)
    resampled = np.einsum("bti,tij,btj->b", ours, wins, theirs, optimize=True) / len(scores)
    seeds = min(scores.shape[1], baseline.shape[1])
    return _interval(float(wins.mean()), resampled, len(scores), seeds, level=level)


def share_of_oracle(method: Floats, uniform: Floats, oracle: Floats, rng: np.random.Generator) -> Interval:
    """How far a method goes from uniform (0) to the oracle (1): a ratio of mean gains, with a bootstrap interval.

    All three: (tasks, seeds) of one group of tasks, paired. A ratio of means and not a mean of ratios, since a task
    without a distance would decide the latter. NaN where the oracle is not clearly better than uniform, that is where
    the interval of its mean gain holds 0.
    """
    gains, distances = _paired_gains(method, uniform), _paired_gains(oracle, uniform)
    if gains.shape != distances.shape:
        raise ValueError(f"method and oracle must be paired, got shapes {gains.shape} and {distances.shape}")
    picks = _resamples(gains, rng)
    resampled_gains = np.take_along_axis(gains[None], picks, axis=2).mean(axis=(1, 2))
    resampled_distances = np.take_along_axis(distances[None], picks, axis=2).mean(axis=(1, 2))
    if not _interval(float(distances.mean()), resampled_distances, *distances.shape).low > 0:
        return UNKNOWN
    clear = resampled_distances > 0
    ratios = resampled_gains[clear] / resampled_distances[clear]
    return _interval(float(gains.mean() / distances.mean()), ratios, *gains.shape)


def shares_of_oracle(
    scores: Mapping[str, Floats], method: str, groups: Sequence[str], rng: np.random.Generator
) -> dict[str, Interval]:
    """`share_of_oracle` of a method for each group of tasks.

    scores: (tasks, seeds) of the method, "uniform" and "oracle". groups: the name of each task's group.
    """
    names = np.array(groups)
    return {
        group: share_of_oracle(scores[method][of], scores["uniform"][of], scores["oracle"][of], rng)
        for group, of in ((group, names == group) for group in dict.fromkeys(groups))
    }


def _paired_gains(scores: Floats, baseline: Floats) -> Float64:
    scores, baseline = _checked(scores), _checked(baseline)
    if scores.shape != baseline.shape:
        raise ValueError(f"paired scores must have one shape, got {scores.shape} and {baseline.shape}")
    return scores - baseline


def _checked(scores: Floats) -> Float64:
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 2 or checked.shape[0] < 1 or checked.shape[1] < 2:
        raise ValueError(f"scores must have shape (tasks, seeds) with at least 2 seeds, got {checked.shape}")
    if not np.isfinite(checked).all():
        raise ValueError(f"scores must be finite, got {checked[~np.isfinite(checked)][0]}")
    return checked


def _resamples(scores: Float64, rng: np.random.Generator, level: float = LEVEL) -> Int64:
    """Seeds drawn with replacement within each task: (resamples, tasks, seeds)."""
    return rng.integers(scores.shape[1], size=(_number(level), *scores.shape))


def _shares(scores: Float64, rng: np.random.Generator, level: float) -> Float64:
    """The part of each resample that is this seed: (resamples, tasks, seeds), summing to 1 over seeds."""
    seeds = scores.shape[1]
    shares: Float64 = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=(_number(level), len(scores))) / seeds
    return shares


def _number(level: float) -> int:
    """So many resamples that as many of them lie beyond an interval at this level as at LEVEL."""
    return round(RESAMPLES * (1 - LEVEL) / (1 - level))


def _interval(value: float, resampled: Float64, tasks: int, seeds: int, *, level: float = LEVEL) -> Interval:
    low, high = np.quantile(resampled, expanded_percentiles(tasks, seeds, level))
    return Interval(value, float(low), float(high))


def expanded_percentiles(tasks: int, seeds: int, level: float = LEVEL) -> tuple[float, float]:
    """Percentiles that make a bootstrap interval as wide as Student's with tasks·(seeds − 1) degrees of freedom."""
    tail = float(ndtr(np.sqrt(seeds / (seeds - 1)) * student_quantile((1 - level) / 2, tasks * (seeds - 1))))
    return tail, 1 - tail
