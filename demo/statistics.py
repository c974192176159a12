"""Means over seeds, their intervals, and what may be concluded from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["better", "worse", "can't tell"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and half the width of its 95 % interval; None where one value alone tells of no spread."""

    mean: float
    half_width: float | None

    @property
    def low(self) -> float:
        """Lower end; −∞ where there is no interval."""
        return -math.inf if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end; ∞ where there is no interval."""
        return math.inf if self.half_width is None else self.mean + self.half_width


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of k ≥ 1 independent values, with the interval mean ± t(0.975; k − 1)·s/√k."""
    if not values:
        raise ValueError("values must be at least 1, got none")
    if len(values) == 1:
        return Interval(float(values[0]), None)
    half = student_t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values), half)


def paired_gain(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Interval of the mean difference of two sequences (k,) whose entries share a seed."""
    return mean_interval([a - b for a, b in zip(values, baseline, strict=True)])


def verdict(gain: Interval) -> Verdict:
    """What the interval of a gain says: whether it excludes 0."""
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "can't tell"


def student_t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution with `freedom` ≥ 1 degrees; probability in [0.5, 1)."""
    if freedom < 1 or not 0.5 <= probability < 1:
        raise ValueError(f"freedom must be at least 1 and probability in [0.5, 1), got {freedom} and {probability}")
    low, high = 0.0, 1.0
    while student_t_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, freedom) < probability else (low, middle)
    return high


def student_t_cdf(t: float, freedom: int) -> float:
    """P(T ≤ t) for t ≥ 0 and whole degrees of freedom: the finite series 26.7.3 and 26.7.4 of Abramowitz & Stegun."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(freedom // 2):
        total += term
        factor = (2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2)
        term *= factor * cosine**2
    two_sided = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + two_sided) / 2


def share(flags: Sequence[bool]) -> float:
    """Part of the flags that are set, in [0, 1]; 0 of none."""
    return sum(flags) / len(flags) if flags else 0.0
