"""What is said of the methods of a suite: gains over the baseline, with intervals that hold together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bss_service.core.arrays import Float64
from bss_service.core.validation.comparison import corrected_level
from envs.research import statistics
from envs.research.statistics import Interval
from envs.research.suite.cells import Kept
from envs.research.suite.running import Played


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a method against the baseline, in points of test accuracy, over all tasks and seeds.

    Intervals of `gain`, `improvement`, `gain_on_test` are corrected for the number of methods; those of `task_gains`
    for the number of methods times tasks; `uncorrected` is `gain` as if no other method had been tried.
    """

    name: str
    gain: Interval  # interquartile mean
    uncorrected: Interval
    improvement: Interval  # probability
    gain_on_test: Interval  # `gain` had the epoch been chosen on the test set, of both sides
    task_gains: tuple[Interval, ...]  # mean of each task


@dataclass(frozen=True, slots=True)
class Judged:
    """A suite's verdicts, and the scores that they are made of."""

    verdicts: list[Verdict]
    accuracy: Mapping[str, Float64]  # of each method, (tasks, seeds) in percent, at the epoch best on validation
    on_test: Mapping[str, Float64]  # the same at the epoch best on the test set
    gaps: Mapping[str, Interval]  # by how much the latter is higher, interquartile mean with a 95 % interval


def judge(played: Played) -> Judged:
    """Verdicts on all methods but the baseline, in the order of the suite."""
    suite = played.suite
    accuracy = {name: _percent(played, name, chosen_on_validation) for name in suite.methods}
    on_test = {name: _percent(played, name, chosen_on_test) for name in suite.methods}
    gaps = {
        name: statistics.aggregate_score(on_test[name] - accuracy[name], np.random.default_rng(0))
        for name in suite.methods
    }
    own = corrected_level(len(suite.others))
    each = corrected_level(len(suite.others) * len(suite.tasks))

    def verdict(name: str) -> Verdict:
        ours, theirs = accuracy[name], accuracy[suite.baseline]
        return Verdict(
            name,
            statistics.aggregate_gain(ours, theirs, np.random.default_rng(1), own),
            statistics.aggregate_gain(ours, theirs, np.random.default_rng(1)),
            statistics.probability_of_improvement(ours, theirs, np.random.default_rng(2), own),
            statistics.aggregate_gain(on_test[name], on_test[suite.baseline], np.random.default_rng(1), own),
            tuple(statistics.task_gains(ours, theirs, each)),
        )

    return Judged([verdict(name) for name in suite.others], accuracy, on_test, gaps)


def chosen_on_validation(run: Kept) -> float:
    """Test accuracy of a run's epoch that is best on validation, the first of several."""
    accuracy: float = run["test"][run["epoch"]]
    return accuracy


def chosen_on_test(run: Kept) -> float:
    """Test accuracy of a run's epoch that is best on the test set: what nobody could know."""
    accuracy: float = max(run["test"])
    return accuracy


def _percent(played: Played, method: str, accuracy: Callable[[Kept], float]) -> Float64:
    """(tasks, seeds)."""
    suite = played.suite
    shares = [[accuracy(played.runs[task, method, seed]) for seed in range(suite.seeds)] for task in suite.tasks]
    return 100 * np.array(shares, dtype=np.float64)
