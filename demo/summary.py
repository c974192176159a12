"""The table of the demo and the sentences that say what it shows, computed from the results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.special import stdtrit

from demo.plan import BASELINE, Condition
from demo.results import JOINT, Results, RunResult

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


@dataclass(frozen=True, slots=True)
class Row:
    """A policy on a condition; accuracies and gains in percentage points."""

    condition: Condition
    policy: str
    accuracy: Mapping[str, Interval]  # of each head on test at the best validation epoch
    gain: Interval | None  # of the joint head over the baseline, paired by seed; None: it is the baseline
    gains: list[float]  # of each seed
    verdict: Verdict | None
    seconds: float  # mean over seeds
    extra_forward_samples: int  # most of any seed
    worst_wait_seconds: float  # most of any seed


def rows(results: Results) -> list[Row]:
    """A row for every condition and policy, in the order in which they were planned."""
    return [
        _row(condition, policy, results.of(condition, policy), results.of(condition, BASELINE))
        for condition in results.conditions
        for policy in results.policies
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


def verdict(gain: Interval) -> Verdict:
    """What the interval of a gain says: whether it excludes 0."""
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "can't tell"


def headline(table: Sequence[Row]) -> str:
    """What the demo found, in a sentence or three."""
    tried = [row for row in table if row.gain is not None]
    if not tried:
        return f"Only {BASELINE} was run, so there is nothing to compare."
    better = [row for row in tried if row.verdict == "better"]
    worse = [row for row in tried if row.verdict == "worse"]
    if all(row.gain is not None and row.gain.half_width is None for row in tried):
        return "One seed was run, and one seed can't tell policies apart: nothing is claimed."
    sentences = []
    if better:
        sentences.append(f"{_joined([_finding(row, 'beat') for row in better])}.")
    else:
        sentences.append(
            f"No policy beat {BASELINE}: in none of the {count(len(tried), 'comparison')} does the 95 % interval of "
            "the gain lie above 0."
        )
    if worse:
        sentences.append(f"{_joined([_finding(row, 'lost to') for row in worse])}.")
    undecided = len(tried) - len(better) - len(worse)
    if undecided:
        sentences.append(f"In {_which(undecided, bool(better or worse))} the seeds can't tell.")
    return " ".join(sentences)


def _row(condition: Condition, policy: str, runs: Sequence[RunResult], baseline: Sequence[RunResult]) -> Row:
    points = {head: [100 * r.test[head] for r in runs] for head in runs[0].test}
    reference = [100 * r.test[JOINT] for r in baseline]
    compared = policy != BASELINE and len(reference) == len(runs)
    gain = paired_gain(points[JOINT], reference) if compared else None
    return Row(
        condition=condition,
        policy=policy,
        accuracy={head: mean_interval(values) for head, values in points.items()},
        gain=gain,
        gains=[a - b for a, b in zip(points[JOINT], reference, strict=True)] if compared else [],
        verdict=None if gain is None else verdict(gain),
        seconds=fmean(r.seconds for r in runs),
        extra_forward_samples=max(r.extra_forward_samples for r in runs),
        worst_wait_seconds=max(r.worst_wait_seconds for r in runs),
    )


def _finding(row: Row, verb: str) -> str:
    assert row.gain is not None
    return (
        f"{row.policy} {verb} {BASELINE} on {row.condition.title} by {abs(row.gain.mean):.1f} points "
        f"(95 % interval of the gain {signed(row.gain.low)} to {signed(row.gain.high)})"
    )


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def with_interval(interval: Interval, sign: bool = False) -> str:
    """mean ± half width, in points."""
    mean = signed(interval.mean) if sign else f"{interval.mean:.1f}"
    return mean if interval.half_width is None else f"{mean} ± {interval.half_width:.1f}"


def _joined(parts: Sequence[str]) -> str:
    return ", and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _which(number: int, others_decided: bool) -> str:
    if number == 1:
        return "the other comparison" if others_decided else "the only comparison"
    return f"{'the other' if others_decided else 'all'} {number} comparisons"


def count(number: int, noun: str) -> str:
    """A number of things, in the singular where it is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
