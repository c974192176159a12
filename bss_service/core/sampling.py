"""Counter-based random numbers, weighted orders and draws, and the plan of an interval."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bss_service.core.action import Action, admitted, log_weights
from bss_service.core.arrays import Bool, Float32, Float64, Int64
from bss_service.core.calendar import Calendar
from bss_service.core.samples.table import SampleTable


def uniforms(seed: int, stream: int, counter: int, size: int) -> Float64:
    """Uniform numbers in the open interval (0, 1), (size,): a pure function of its arguments.

    seed, stream, counter: in [0, 2^64). Philox's raw output is fixed by NumPy's stability policy while its
    distributions are not, so the conversion is done here; to 52 bits, since half a unit more must not round up to 1.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, counter, 0, 0], dtype=np.uint64))
    return ((bits.random_raw(size) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def weighted_order(weights_log: Float64, u: Float64) -> Int64:
    """A random order without replacement, each next sample drawn in proportion to its weight.

    weights_log: (k,) log-weights; u: (k,) in (0, 1). Returns (k,) positions. Exponential keys E_i/w_i ascending
    (Efraimidis & Spirakis 2006), compared by logarithm so that no weight over- or underflows. Samples of weight 0
    come last, in random order.
    """
    exponential = np.log(-np.log(u))
    never = np.isneginf(weights_log)
    if never.any():
        return np.lexsort((exponential - np.where(never, 0.0, weights_log), never))
    return np.argsort(exponential - weights_log, kind="stable")


def weighted_draws(probabilities: Float64, u: Float64) -> Int64:
    """Independent draws with replacement: probabilities (k,) summing to 1, u (L,) in (0, 1) -> (L,) positions.

    Inverse transform in float64: exact for any k, where a float32 sampler is biased from millions of categories on.
    """
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    targets = np.minimum(u * cumulative[-1], np.nextafter(cumulative[-1], 0))
    positions: Int64 = np.searchsorted(cumulative, targets, side="right").astype(np.int64)
    return positions


def normalised(weights_log: Float64) -> Float64:
    """Probabilities of log-weights: (k,) float64, finite, ≥ 0, summing to 1; uniform where every weight is 0."""
    top = weights_log.max()
    weights: Float64 = np.exp(weights_log - top) if top > -np.inf else np.ones(len(weights_log))
    probabilities: Float64 = weights / weights.sum()
    return probabilities


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rows of a plan: which sample comes, and how likely it was to be drawn first from its candidates."""

    indices: Int64  # (L,) in [0, n)
    probabilities: Float32  # (L,) in [0, 1]


def drawn_before(batches: Iterable[tuple[int, Int64]], calendar: Calendar, step: int) -> Bool:
    """Which samples the epoch of the step's first position has already drawn, (n,).

    batches: (first step, (K, G) indices) of runs of consecutive steps, which reach back to the start of that epoch.
    """
    drawn = np.zeros(calendar.samples, dtype=np.bool_)
    position = step * calendar.batch_size
    start = position // calendar.epoch_positions * calendar.epoch_positions
    for first_step, indices in batches:
        first = first_step * calendar.batch_size
        drawn[indices.reshape(-1)[max(0, start - first) : max(0, position - first)]] = True
    return drawn


def draw_plan(
    calendar: Calendar,
    first_step: int,
    end_step: int,
    action: Action,
    table: SampleTable,
    drawn: Bool,
    seed: int,
) -> Drawn:
    """Draw the samples of steps [first_step, end_step): L = (end_step − first_step)·G rows.

    drawn: (n,) samples that already came in the epoch of the first position; `epoch` coverage leaves them out.
    Under `epoch` each epoch's samples come once. Under `subset` the admitted samples are passed through again and
    again. Each pass has a weighted order of its own, and no batch that two passes share holds a sample twice if that
    can be avoided. Under `draw` every row is an independent draw among the admitted.
    """
    length = (end_step - first_step) * calendar.batch_size
    weights = log_weights(action, table)
    if action.coverage == "draw":
        candidates = admitted(action, table)
        p = normalised(weights[candidates])
        chosen = weighted_draws(p, uniforms(seed, first_step, 0, length))
        return Drawn(candidates[chosen], p[chosen].astype(np.float32))

    rows = Drawn(np.empty(length, dtype=np.int64), np.empty(length, dtype=np.float32))
    filled = 0
    for number, (candidates, size) in enumerate(_passes(calendar, first_step, end_step, action, table, drawn)):
        order = weighted_order(weights[candidates], uniforms(seed, first_step, number, len(candidates)))
        opened = filled % calendar.batch_size
        if opened:
            present = np.isin(candidates, rows.indices[filled - opened : filled])
            order = _repeats_later(order, present, calendar.batch_size - opened)
        chosen = order[:size]
        rows.indices[filled : filled + size] = candidates[chosen]
        rows.probabilities[filled : filled + size] = normalised(weights[candidates])[chosen]
        filled += size
    return rows


def _passes(
    calendar: Calendar, first_step: int, end_step: int, action: Action, table: SampleTable, drawn: Bool
) -> Iterator[tuple[Int64, int]]:
    """The passes of a plan without replacement: candidates and how many of them are drawn."""
    if action.coverage == "epoch":
        candidates = np.flatnonzero(~drawn)
        for _, start, stop in calendar.segments(first_step, end_step):
            yield candidates, stop - start
            candidates = np.arange(len(table), dtype=np.int64)
    else:
        candidates = admitted(action, table)
        length = (end_step - first_step) * calendar.batch_size
        for start in range(0, length, len(candidates)):
            yield candidates, min(len(candidates), length - start)


def _repeats_later(order: Int64, present: Bool, room: int) -> Int64:
    """The order with the samples that are `present` in an opened batch moved behind the `room` left in it."""
    head = order[: room + int(present.sum())]
    repeats = present[head]
    fresh = head[~repeats]
    return np.concatenate([fresh[:room], head[repeats], fresh[room:], order[len(head) :]])
