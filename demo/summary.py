"""The table of the demo, computed from the results."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.special import stdtrit

from demo.plan import BASELINE, Condition
from demo.results import Results, RunResult

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

    @property
    def verdict(self) -> Verdict:
        """What the interval says of a gain: whether it excludes 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "can't tell"


@dataclass(frozen=True, slots=True)
class Measure:
    """An accuracy in percent and its gain over the baseline in points, paired by seed; None: it is the baseline's."""

    accuracy: Interval
    gain: Interval | None
    gains: list[float]  # of each seed


@dataclass(frozen=True, slots=True)
class Row:
    """A policy on a condition; accuracies of the joint head."""

    condition: Condition
    policy: str
    test: Measure  # with the weights of the best validation epoch
    last: Measure  # of the last epoch, on validation
    found: float | None  # how many of its top suspects really are wrong, mean over seeds; None: of no meaning here
    left_out: float  # share of the training samples that the last epoch was drawn without, mean over seeds
    seconds: float  # mean over seeds


def rows(results: Results) -> list[Row]:
    """A row for every condition and policy, in the order in which they were planned."""
    return [
        _row(condition, policy, results.of(condition, policy), results.of(condition, BASELINE))
        for condition in results.conditions
        for policy in results.policies
        if results.of(condition, policy)
    ]


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of k ≥ 1 independent values, with the interval mean ± t(0.975; k − 1)·s/√k."""
    if not values:
        raise ValueError("values must be at least 1, got none")
    if len(values) == 1:
        return Interval(float(values[0]), None)
    return Interval(fmean(values), float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values)))


def paired_gain(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Interval of the mean difference of two sequences (k,) whose entries share a seed."""
    return mean_interval([a - b for a, b in zip(values, baseline, strict=True)])


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a true minus; what rounds to nothing has none."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # −0.0 + 0.0 is 0.0


def with_interval(interval: Interval, sign: bool = False) -> str:
    """mean ± half width, in points."""
    mean = signed(interval.mean) if sign else f"{interval.mean:.1f}"
    return mean if interval.half_width is None else f"{mean} ± {interval.half_width:.1f}"


def count(number: int, noun: str) -> str:
    """A number of things, in the singular where it is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _row(condition: Condition, policy: str, runs: Sequence[RunResult], baseline: Sequence[RunResult]) -> Row:
    reference = baseline if policy != BASELINE and len(baseline) == len(runs) else []
    tells = condition.noisy_labels > 0 and all(run.suspects for run in runs)
    return Row(
        condition=condition,
        policy=policy,
        test=_measure(runs, reference, lambda run: run.test),
        last=_measure(runs, reference, lambda run: run.epochs[-1].accuracy),
        found=fmean(run.found for run in runs) if tells else None,
        left_out=fmean(run.epochs[-1].left_out for run in runs),
        seconds=fmean(run.seconds for run in runs),
    )


def _measure(
    runs: Sequence[RunResult], reference: Sequence[RunResult], accuracy: Callable[[RunResult], float]
) -> Measure:
    points = [100 * accuracy(run) for run in runs]
    compared = [100 * accuracy(run) for run in reference]
    return Measure(
        accuracy=mean_interval(points),
        gain=paired_gain(points, compared) if compared else None,
        gains=[a - b for a, b in zip(points, compared, strict=True)] if compared else [],
    )
