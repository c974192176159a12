"""The runs of a suite, in two rounds: the search of each method on each task, then the paired seeds with what it chose.

Each result is kept in a file of its own as soon as it is there, so that a suite that was interrupted goes on where it
was and comes to the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import cpu_count
from time import monotonic
from typing import Final

import numpy as np

from envs.research.executor import Executor
from envs.research.files import Results
from envs.research.suite.cells import TUNING_SEED, Cell, Kept, run_cell
from envs.research.suite.spec import LEARNING_RATE, Method, Range, Suite, Values

Pair = tuple[str, str]  # task, method
Place = tuple[str, str, int]  # task, method, trial or seed
SEARCH: Final = 0  # the stream of chance of the search
MOST_LOADERS: Final = 8


@dataclass(frozen=True, slots=True)
class Played:
    """All that a suite came to."""

    suite: Suite
    trials: Mapping[Place, Kept]
    chosen: Mapping[tuple[str, str], Values]  # of task and method
    runs: Mapping[Place, Kept]


def play(suite: Suite, kept: Results, executor: Executor, report: Callable[[str], None]) -> Played:
    """Make all runs that are not kept yet; `report` is told how far it is."""
    loaders = _loaders(executor.slots)
    trials: dict[Place, Kept] = {}
    best_trials: dict[Pair, Kept] = {}
    chosen: dict[Pair, Values] = {}
    epochs: dict[Pair, int] = {}
    for methods in _rounds(suite):
        pairs = [(task, method) for task in suite.tasks for method in methods]
        tried = {(t, m, k): v for t, m in pairs for k, v in enumerate(candidates(suite, t, m, suite.methods[m]))}
        epochs |= {pair: _epochs(suite, pair, best_trials) for pair in pairs}
        searched = {
            place: _cell(suite, place, values, TUNING_SEED, epochs[place[:2]], loaders, tested=False)
            for place, values in tried.items()
        }
        trials |= _made(searched, kept, executor, lambda told: report(f"search: {told}"))
        for task, method in pairs:
            number = best([trials[task, method, k] for k in range(suite.trials)])
            chosen[task, method] = tried[task, method, number]
            best_trials[task, method] = trials[task, method, number]
    paired = [(t, m, seed) for m in suite.methods for t in suite.tasks for seed in range(suite.seeds)]
    cells = {
        place: _cell(suite, place, chosen[place[:2]], place[2], epochs[place[:2]], loaders, tested=True)
        for place in paired
    }
    runs = _made(cells, kept, executor, lambda told: report(f"paired seeds: {told}"))
    return Played(suite, trials, chosen, runs)


def candidates(suite: Suite, task: str, name: str, method: Method) -> list[dict[str, float]]:
    """What is tried, `trials` of them: first everything as by default and the learning rate in the middle of its range,
    then drawn log-uniformly. On a task the learning rates of a trial are the same for all methods.
    """
    rates = suite.rates(task)
    tried: list[dict[str, float]] = [{LEARNING_RATE: float(np.sqrt(rates[0] * rates[1]))}]
    for trial in range(1, suite.trials):
        common = np.random.default_rng([SEARCH, trial, *task.encode()])
        own = np.random.default_rng([SEARCH, trial, *f"{task}\n{name}".encode()])
        values = {LEARNING_RATE: _drawn(rates, common)}
        tried.append(values | {key: _drawn(bounds, own) for key, bounds in method.ranges().items()})
    return tried


def best(trials: Sequence[Kept]) -> int:
    """The trial with the best validation accuracy of any of its epochs, the first of several."""
    return int(np.argmax([max(trial["validation"]) for trial in trials]))


def _rounds(suite: Suite) -> Iterator[list[str]]:
    """Methods whose search may be made at once: those that need nothing of others first."""
    own = [name for name, method in suite.methods.items() if method.as_many_as is None]
    yield own
    others = [name for name in suite.methods if name not in own]
    if others:
        yield others


def _epochs(suite: Suite, pair: Pair, best_trials: Mapping[Pair, Kept]) -> int:
    """Of a run: those of the task, or as many as pass about as many samples through the network as another method."""
    task, method = pair
    whole, other = suite.usual(task).epochs, suite.methods[method].as_many_as
    if other is None:
        return whole
    passed, plain = (best_trials[task, name]["forward_samples"] for name in (other, suite.baseline))
    share = float(passed / plain)
    return min(whole, max(1, round(whole * share)))


def _cell(suite: Suite, place: Place, values: Values, seed: int, epochs: int, loaders: int, *, tested: bool) -> Cell:
    task, method, _ = place
    return Cell(
        task=suite.tasks[task],
        method=suite.methods[method],
        values=values,
        seed=seed,
        usual=replace(suite.usual(task), epochs=epochs),
        tested=tested,
        loaders=loaders,
    )


def _loaders(slots: int) -> int:
    """Processes that decode for a run, where so many runs share this machine."""
    return min(MOST_LOADERS, max(1, (cpu_count() or 1) // slots))


def _drawn(bounds: Range, rng: np.random.Generator) -> float:
    low, high = bounds
    value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return round(value) if isinstance(low, int) and isinstance(high, int) else float(f"{value:.4g}")


def _made(
    cells: Mapping[Place, Cell], kept: Results, executor: Executor, report: Callable[[str], None]
) -> dict[Place, Kept]:
    places = list(cells)

    def compute(missing: list[int]) -> Iterator[tuple[int, Kept]]:
        ready, began = len(cells) - len(missing), monotonic()
        report(f"{ready} of {len(cells)} runs are there")
        for number, result in executor.map(run_cell, [cells[places[k]] for k in missing]):
            task, method, _ = places[missing[number]]
            ready += 1
            left = len(cells) - ready
            hours = (monotonic() - began) / (len(missing) - left) * left / 3600
            report(f"{ready} of {len(cells)} runs, about {hours:.1f} h to go with these; {method} on {task}")
            yield missing[number], result

    results = kept.complete([cell.identity for cell in cells.values()], compute)
    return dict(zip(places, results, strict=True))
