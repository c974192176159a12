"""Counter-based random numbers, weighted orders and draws, and the plan of an interval."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bss_service.core.action import Action, admitted, log_weights
from bss_service.core.arrays import Bool, Float32, Float64, Int64
from bss_service.core.calendar import Calendar
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.evidence.trust import trust
from bss_service.core.samples.table import SampleTable

_LEFT_OUT: Final = 2**32  # counters of random numbers apart from those of passes
_PROBES: Final = 2**33


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
    probes: Bool | None = None  # (L,) only looked at; None: no row is
    masked: Bool | None = None  # (L, H) losses that do not count, by head, the joint one last; None: none at all
    left_out: int = 0  # samples that come as probes at most


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
    evidence: Evidence | None = None,
) -> Drawn:
    """Draw the samples of steps [first_step, end_step): L = (end_step − first_step)·G rows.

    drawn: (n,) samples that already came in the epoch of the first position; `epoch` coverage leaves them out.
    Under `epoch` each epoch's samples come once. Under `subset` the admitted samples are passed through again and
    again. Each pass has a weighted order of its own, and no batch that two passes share holds a sample twice if that
    can be avoided. Under `draw` every row is an independent draw among the admitted.

    Samples that the action leaves out by their evidence come as probes alone, passed through in random order; further
    passes over those that are kept take their place.
    """
    length = (end_step - first_step) * calendar.batch_size
    believed = trust(action, evidence, len(table), lambda: uniforms(seed, first_step, _LEFT_OUT, len(table)))
    out = np.flatnonzero(~believed.kept)
    is_probe = _spread(length, calendar.batch_size, action.probes if len(out) else 0.0)
    rows = Drawn(
        np.empty(length, dtype=np.int64),
        np.empty(length, dtype=np.float32),
        is_probe if is_probe.any() else None,
        left_out=len(out),
    )
    trained = np.flatnonzero(~is_probe)
    weights = log_weights(action, table)
    if action.coverage == "draw":
        candidates = _among(admitted(action, table), believed.kept)
        p = normalised(weights[candidates])
        chosen = weighted_draws(p, uniforms(seed, first_step, 0, len(trained)))
        rows.indices[trained], rows.probabilities[trained] = candidates[chosen], p[chosen]
    else:
        passes = _passes(calendar, first_step, is_probe, action, table, drawn, believed.kept)
        _fill(rows, trained, passes, weights, calendar.batch_size, seed, first_step, 0)
    if len(out):
        probes = np.flatnonzero(is_probe)
        alike = np.zeros(len(table))
        _fill(rows, probes, _repeated(out, len(probes)), alike, calendar.batch_size, seed, first_step, _PROBES)
    if believed.masked is None:
        return rows
    return replace(rows, masked=believed.masked[rows.indices] & ~is_probe[:, None])


def loss_weights(probes: Bool) -> Float32:
    """Weights of the losses of batches (K, G): 0 of a probe, alike of the others, and 1 on average over a batch.

    So the mean of weighted losses over a batch is the mean over the samples trained on, on one rank as on many.
    """
    trained = ~probes
    count = np.maximum(1, trained.sum(axis=1, keepdims=True))
    weights: Float32 = (trained * (probes.shape[1] / count)).astype(np.float32)
    return weights


def importance_weights(probabilities: Float32, samples: int) -> Float32:
    """1/(n·p) of draws with probability p (…): they make a mean over drawn losses one over all samples, in expectation.

    Importance sampling, as in Katharopoulos & Fleuret 2018. Exact for independent draws, that is under `draw`.
    """
    weights: Float32 = (1 / (samples * probabilities.astype(np.float64))).astype(np.float32)
    return weights


def _spread(length: int, batch_size: int, share: float) -> Bool:
    """Which rows are probes, (length,): a share of them, as many in each batch as can be, evenly over its rows.

    Each batch has a row at least that is none.
    """
    if not share:
        return np.zeros(length, dtype=np.bool_)
    ends = np.floor(np.arange(length // batch_size + 1) * (batch_size * share) + 1e-9)
    counts = np.minimum(np.diff(ends), batch_size - 1)[:, None]
    reached = np.floor(np.arange(batch_size + 1) * counts / batch_size + 1e-9)
    return np.asarray(np.diff(reached, axis=1) > 0).reshape(-1)


def _fill(
    rows: Drawn,
    places: Int64,
    passes: Iterable[tuple[Int64, int]],
    weights: Float64,
    batch_size: int,
    seed: int,
    first_step: int,
    counter: int,
) -> None:
    """Write passes (candidates, how many of them) into the rows at `places`, ascending, one behind the other.

    weights: (n,) logarithms. counter: of the first pass's random numbers.
    """
    batch = places // batch_size
    filled = 0
    for number, (candidates, size) in enumerate(passes, counter):
        order = weighted_order(weights[candidates], uniforms(seed, first_step, number, len(candidates)))
        if 0 < filled < len(places):
            opened, end = np.searchsorted(batch, batch[filled], "left"), np.searchsorted(batch, batch[filled], "right")
            if opened < filled:
                present = np.isin(candidates, rows.indices[places[opened:filled]])
                order = _repeats_later(order, present, int(end) - filled)
        chosen = order[:size]
        rows.indices[places[filled : filled + size]] = candidates[chosen]
        rows.probabilities[places[filled : filled + size]] = normalised(weights[candidates])[chosen]
        filled += size


def _passes(
    calendar: Calendar, first_step: int, is_probe: Bool, action: Action, table: SampleTable, drawn: Bool, kept: Bool
) -> Iterator[tuple[Int64, int]]:
    """The passes of a plan without replacement, but for probes: candidates and how many of them are drawn."""
    everyone = np.flatnonzero(kept)
    if action.coverage != "epoch":
        yield from _repeated(_among(admitted(action, table), kept), int((~is_probe).sum()))
        return
    candidates = np.flatnonzero(kept & ~drawn)
    first_position = first_step * calendar.batch_size
    end_step = first_step + len(is_probe) // calendar.batch_size
    for _, start, stop in calendar.segments(first_step, end_step):
        size = int((~is_probe[start - first_position : stop - first_position]).sum())
        once = min(len(candidates), size)
        if once:
            yield candidates, once
        yield from _repeated(everyone, size - once)
        candidates = everyone


def _repeated(candidates: Int64, length: int) -> Iterator[tuple[Int64, int]]:
    """Passes over candidates until `length` of them have come."""
    for start in range(0, length, len(candidates)):
        yield candidates, min(len(candidates), length - start)


def _among(candidates: Int64, kept: Bool) -> Int64:
    """Those of the candidates that are kept; where none is, all of them."""
    some = candidates[kept[candidates]]
    return some if len(some) else candidates


def _repeats_later(order: Int64, present: Bool, room: int) -> Int64:
    """The order with the samples that are `present` in an opened batch moved behind the `room` left in it."""
    head = order[: room + int(present.sum())]
    repeats = present[head]
    fresh = head[~repeats]
    return np.concatenate([fresh[:room], head[repeats], fresh[room:], order[len(head) :]])
