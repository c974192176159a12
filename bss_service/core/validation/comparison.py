"""Whether paired runs differ: Student's interval of their mean difference, and how many pairs would tell.

A pair is two runs that share their seed and all else but the policy; its difference is one number. k pairs give k − 1
degrees of freedom, and one pair gives no interval at all.
"""

import math
from typing import Final, Literal

import numpy as np

from bss_service.core.arrays import Float64, Floats

LEVEL: Final = 0.95  # of an interval
POWER: Final = 0.8  # with which a difference is to be found
MAX_PAIRS: Final = 10_000  # that a power is asked of; beyond it quantiles are normal to the fourth digit

Verdict = Literal["helps", "hurts", "can't tell yet"]


def student_probability(t: float, degrees: int) -> float:
    """P(T ≤ t) of Student's t with `degrees` ≥ 1 degrees of freedom: exact, a finite sum.

    Source: Abramowitz & Stegun 1964, 26.7.3 (odd) and 26.7.4 (even).
    """
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    steps = np.arange(2 if odd else 1, degrees - 1, 2, dtype=np.float64)  # each term is the one before times k/(k + 1)
    terms = np.cumprod(np.concatenate([[cosine if odd else 1.0], steps / (steps + 1) * cosine**2]))
    total = 0.0 if degrees == 1 else float(terms.sum())
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2


def student_quantile(probability: float, degrees: int) -> float:
    """The t with P(T ≤ t) = probability, in (0, 1); beyond 10,000 degrees of freedom that of 10,000."""
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}")
    degrees = min(degrees, MAX_PAIRS)
    low, high = -math.pi / 2, math.pi / 2  # of the angle whose tangent is t/√degrees
    for _ in range(60):
        middle = (low + high) / 2
        below = student_probability(math.tan(middle) * math.sqrt(degrees), degrees) < probability
        low, high = (middle, high) if below else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def student_interval(differences: Floats, level: float = LEVEL) -> tuple[Float64, Float64]:
    """Mean of the last axis, and half the width of Student's interval of it.

    differences: (…, k), k ≥ 2 paired differences; both results have shape (…). For the mean of about 10 differences the
    interval keeps its level also where they are not quite normal, and a percentile bootstrap would not: it covers about
    90 % there.
    """
    pairs = differences.shape[-1]
    if pairs < 2:
        raise ValueError(f"an interval needs at least 2 pairs, got {pairs}")
    spread = differences.std(axis=-1, ddof=1, dtype=np.float64)
    half = student_quantile((1 + level) / 2, pairs - 1) * spread / np.sqrt(pairs)
    return differences.mean(axis=-1, dtype=np.float64), half


def corrected_level(comparisons: int) -> float:
    """The level of each of several intervals that hold together with probability `LEVEL` at least (Bonferroni)."""
    return 1 - (1 - LEVEL) / comparisons


def verdict_of(low: float, high: float) -> Verdict:
    """What an interval allows to say: which side of 0 it is on, if on one."""
    if low > 0:
        return "helps"
    return "hurts" if high < 0 else "can't tell yet"


def pairs_needed(difference: float, spread: float, level: float = LEVEL) -> int | None:
    """The least number of pairs with which a paired t test finds a difference with a power of 80 %.

    k ≥ ((t_{(1 + level)/2} + t_{0.8})·spread/|difference|)² with k − 1 degrees of freedom (Chow, Shao & Wang 2008,
    section 3.1, with Student's quantiles for normal ones), at least 2. spread: standard deviation of one paired
    difference. None: more than `MAX_PAIRS`, as there is of no difference at all.
    """
    if difference == 0:
        return None
    ratio = (spread / abs(difference)) ** 2
    low, high = 1, MAX_PAIRS  # more pairs need less: the smaller quantiles of more degrees of freedom
    if not _suffices(high, ratio, level):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _suffices(middle, ratio, level) else (middle, high)
    return high


def _suffices(pairs: int, ratio: float, level: float) -> bool:
    quantiles = student_quantile((1 + level) / 2, pairs - 1) + student_quantile(POWER, pairs - 1)
    return pairs >= quantiles**2 * ratio


def late_spread(differences: Floats) -> float | None:
    """How far paired runs move apart and together from one late validation to the next; None of fewer than 4.

    differences: (T,) of the accuracies of a pair, in order of step. The root of half the mean square of successive
    differences in the later half (von Neumann 1941), which a trend hardly moves. Runs of other seeds differ in more
    than that, so it is rather too small for the spread between pairs.
    """
    late = np.asarray(differences, dtype=np.float64)[len(differences) // 2 :]
    if len(differences) < 4:
        return None
    return float(np.sqrt(np.mean(np.diff(late) ** 2) / 2))


def binomial_spread(accuracy: float, other: float, samples: int) -> float:
    """Standard deviation of the difference of two accuracies on `samples` validation samples, taken as independent.

    √((a(1 − a) + b(1 − b))/V). Two models are mostly right on the same samples, so it is rather too large.
    """
    return math.sqrt((accuracy * (1 - accuracy) + other * (1 - other)) / samples)
