"""Counter-based random numbers, weighted orders and draws, and the plan of an interval."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from bss_service.core.action import Action, admitted, log_weights, mixed
from bss_service.core.arrays import Bool, Float32, Float64, Int64, UInt64
from bss_service.core.calendar import Calendar
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.evidence.trust import trust
from bss_service.core.samples.groups import Groups
from bss_service.core.samples.table import SampleTable

_LEFT_OUT: Final = 2**32  # counters of random numbers apart from those of passes
_PROBES: Final = 2**33
_TURNS: Final = 2**34
_WITHIN: Final = 2**35
_FACTORS: Final = (0xD2E7470EE14C6C93, 0xCA5A826395121157)  # of Philox's rounds
_BUMPS: Final = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # of its key, from round to round
_SHORT: Final = 512  # samples of a pass up to which passes are ordered together: a generator costs as much as so many
_TOGETHER: Final = 2**17  # rows ordered at a time
_CACHED: Final = 2**15  # numbers gone through at a time, of Philox's blocks of four
_LARGE: Final = 2**21  # numbers that several threads go through
_THREADS: Final = min(4, os.cpu_count() or 1)


Proceed = Callable[[], None]


def unasked() -> None:
    """Nobody wants to end a draw before it is done."""


def uniforms(seed: int, stream: int, counter: int, size: int) -> Float64:
    """Uniform numbers in the open interval (0, 1), (size,): a pure function of its arguments.

    seed, stream, counter: in [0, 2^64). Philox's raw output is fixed by NumPy's stability policy while its
    distributions are not, so the conversion is done here; to 52 bits, since half a unit more must not round up to 1.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    numbers = np.empty(size)

    def begin(start: int) -> Callable[[slice], None]:
        bits = np.random.Philox(key=key, counter=np.array([start // 4, counter, 0, 0], dtype=np.uint64))

        def fill(part: slice) -> None:
            numbers[part] = bits.random_raw(part.stop - part.start) >> np.uint64(12)
            numbers[part] += 0.5
            numbers[part] *= 2.0**-52

        return fill

    _through(size, begin)
    return numbers


def _through(size: int, begin: Callable[[int], Callable[[slice], None]]) -> None:
    """Go through an array's parts that stay in the processor's cache over several acts, and take no memory of its size.

    begin: what is done to each of the parts in a row that begin at a place; of a large array by several threads.
    """

    def go(start: int, stop: int) -> None:
        act = begin(start)
        for at in range(start, stop, _CACHED):
            act(slice(at, min(at + _CACHED, stop)))

    if size < _LARGE or _THREADS == 1:
        go(0, size)
        return
    each = -(-size // (_THREADS * _CACHED)) * _CACHED
    with ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(go, at, min(at + each, size)) for at in range(0, size, each)]:
            done.result()


def uniform_rows(seed: int, stream: int, counter: int, rows: int, size: int) -> Float64:
    """`uniforms` of `rows` counters from one on, (rows, size): computed at once where many rows are short."""
    if rows == 1:
        return uniforms(seed, stream, counter, size)[None]
    if size > _SHORT:
        return np.stack([uniforms(seed, stream, counter + row, size) for row in range(rows)])
    blocks = -(-size // 4)
    bits = np.empty((rows, blocks, 4), dtype=np.uint64)
    bits[..., 0] = np.arange(1, blocks + 1, dtype=np.uint64)  # NumPy counts before it generates
    bits[..., 1] = np.arange(counter, counter + rows, dtype=np.uint64)[:, None]
    bits[..., 2:] = 0
    bits = _philox(bits, seed, stream).reshape(rows, -1)[:, :size]
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _philox(counters: UInt64, *key: int) -> UInt64:
    """Philox4x64-10 (Salmon et al. 2011) of counters (…, 4), as NumPy's generator has it."""
    low, second, high, fourth = (counters[..., word] for word in range(4))
    for turn in range(10):
        keys = [np.uint64((word + turn * bump) % 2**64) for word, bump in zip(key, _BUMPS, strict=True)]
        upper, lower = _wide_product(low, _FACTORS[0])
        upper_of_high, lower_of_high = _wide_product(high, _FACTORS[1])
        low, second, high, fourth = upper_of_high ^ second ^ keys[0], lower_of_high, upper ^ fourth ^ keys[1], lower
    return np.stack([low, second, high, fourth], axis=-1)


def _wide_product(numbers: UInt64, factor: int) -> tuple[UInt64, UInt64]:
    """The upper and the lower 64 bits of products of 64-bit numbers."""
    half, mask = np.uint64(32), np.uint64(2**32 - 1)
    a, b = numbers >> half, numbers & mask
    c, d = np.uint64(factor >> 32), np.uint64(factor & (2**32 - 1))
    middle = a * d + (b * d >> half)
    crossed = b * c + (middle & mask)
    return a * c + (middle >> half) + (crossed >> half), numbers * np.uint64(factor)


def weighted_order(weights_log: Float64, u: Float64, first: int | None = None) -> Int64:
    """A random order without replacement, each next sample drawn in proportion to its weight.

    weights_log: (k,) log-weights; u: (…, k) in (0, 1). Returns (…, k) positions, or (…, first) where no more are
    needed. Exponential keys E_i/w_i ascending (Efraimidis & Spirakis 2006), compared by logarithm so that no weight
    over- or underflows. Samples of weight 0 come last, in random order.
    """
    never = np.isneginf(weights_log) if weights_log.min(initial=0.0) == -np.inf else None
    keys = _keys(weights_log if never is None else np.where(never, 0.0, weights_log), u)
    del u  # of whoever has no more use for them, that is as much memory
    first = keys.shape[-1] if first is None else min(first, keys.shape[-1])
    if keys.size > keys.shape[-1]:  # many short rows
        if never is not None:
            return np.lexsort((keys, np.broadcast_to(never, keys.shape)))[..., :first]
        return np.argsort(keys, kind="stable")[..., :first]
    row = keys.reshape(-1)
    if never is None:
        return ascending(row, first).reshape(*keys.shape[:-1], first)
    drawn = np.flatnonzero(~never)
    order = drawn[ascending(row[drawn], first)]
    if len(order) < first:
        last = np.flatnonzero(never)
        order = np.concatenate([order, last[ascending(row[last], first - len(order))]])
    return order.reshape(*keys.shape[:-1], first)


def _keys(weights_log: Float64, u: Float64) -> Float64:
    """Logarithms of the exponential keys, (…, k)."""
    if u.ndim > 1 and len(u) > 1:
        return np.log(-np.log(u)) - weights_log
    keys = np.empty_like(u)
    row, numbers = keys.reshape(-1), u.reshape(-1)

    def fill(part: slice) -> None:
        of_part = row[part]
        np.negative(np.log(numbers[part], out=of_part), out=of_part)
        np.log(of_part, out=of_part)
        of_part -= weights_log[part]

    _through(len(row), lambda _: fill)
    return keys


def ascending(keys: Float64, first: int) -> Int64:
    """Positions of the `first` least of finite keys (k,) in order, of equal ones the earlier first.

    As a stable argsort has them, at a quarter of its cost: what is sorted are 64-bit numbers, each a key's leading bits
    and its position; where the leading bits of neighbours agree, the whole keys decide.
    """
    if first < len(keys) // 2:
        bound = np.partition(keys, first)[first]
        least = np.flatnonzero(keys <= bound)
        return least[ascending(keys[least], len(least))[:first]]
    size = len(keys)
    width = np.uint64(max(1, (size - 1).bit_length()))
    place = (np.uint64(1) << width) - np.uint64(1)
    packed = np.empty(size, dtype=np.uint64)

    def pack(part: slice) -> None:
        bits = packed[part]
        np.add(keys[part], 0.0, out=bits.view(np.float64))  # −0 would come before 0, which it equals
        bits ^= (bits.view(np.int64) >> 63).view(np.uint64) | np.uint64(2**63)  # in the order of the keys
        bits &= ~place
        bits |= np.arange(part.start, part.stop, dtype=np.uint64)

    _through(size, lambda _: pack)
    packed.sort()
    order = np.empty(size, dtype=np.int64)
    ties = np.zeros(size, dtype=np.bool_)  # with the next

    def unpack(part: slice) -> None:
        np.bitwise_and(packed[part], place, out=order[part].view(np.uint64))
        leading = packed[part.start : part.stop + 1] >> width
        np.equal(leading[1:], leading[:-1], out=ties[part][: len(leading) - 1])

    _through(size, lambda _: unpack)
    if ties.any():
        ties[1:] |= ties[:-1].copy()
        tied = np.flatnonzero(ties)
        among = order[tied]
        order[tied] = among[np.lexsort((among, keys[among], packed[tied] >> width))]
    return order[:first]


def weighted_draws(probabilities: Float64, u: Float64) -> Int64:
    """Independent draws with replacement: probabilities (k,) summing to 1, u (L,) in (0, 1) -> (L,) positions.

    Inverse transform in float64: exact for any k, where a float32 sampler is biased from millions of categories on.
    """
    return looked_up(np.cumsum(probabilities, dtype=np.float64), u)


def looked_up(cumulative: Float64, u: Float64) -> Int64:
    """Where the shares u (L,) in (0, 1) of a sum fall in the cumulative sums (k,) of weights ≥ 0: (L,) positions."""
    targets = np.minimum(u * cumulative[-1], np.nextafter(cumulative[-1], 0))
    ascending_targets = np.argsort(targets)  # looked up in order, each is found beside the one before: in the cache
    positions = np.empty(len(u), dtype=np.int64)
    positions[ascending_targets] = np.searchsorted(cumulative, targets[ascending_targets], side="right")
    return positions


def normalised(weights_log: Float64) -> Float64:
    """Probabilities of log-weights: (k,) float64, finite, ≥ 0, summing to 1; uniform where every weight is 0.

    Not to be written into: where all are alike they are one number.
    """
    top = weights_log.max()
    if top == weights_log.min():
        return np.broadcast_to(np.float64(1 / len(weights_log)), len(weights_log))
    weights: Float64 = weights_log - top
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return weights


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rows of a plan: which sample comes, and how likely it was to be drawn first from its candidates."""

    indices: Int64  # (L,) in [0, n)
    probabilities: Float32  # (L,) in [0, 1]
    probes: Bool | None = None  # (L,) only looked at; None: no row is
    masked: Bool | None = None  # (L, H) losses that do not count, by head, the joint one last; None: none at all
    left_out: int = 0  # samples that come as probes at most


def drawn_before(batches: Iterable[tuple[int, Int64]], calendar: Calendar, step: int) -> Bool:
    """Which samples the epoch of the step's first position has already drawn, or does not have yet, (n,).

    batches: (first step, (K, G) indices) of runs of consecutive steps, which reach back to the start of that epoch.
    """
    position = step * calendar.batch_size
    epoch = calendar.epoch_at(position)
    drawn, start = beyond(calendar, epoch), calendar.epoch_begin(epoch)
    for first_step, indices in batches:
        first = first_step * calendar.batch_size
        drawn[indices.reshape(-1)[max(0, start - first) : max(0, position - first)]] = True
    return drawn


def drawn_of(window: Int64, came: Int64) -> Bool:
    """Which places of a window (w,) are those of samples that came, (k,): of one that stands there twice, the first."""
    order = np.argsort(window, kind="stable")
    there, came = window[order], np.sort(came)
    number = np.arange(len(there)) - np.searchsorted(there, there, "left")
    drawn = np.empty(len(window), dtype=np.bool_)
    drawn[order] = number < np.searchsorted(came, there, "right") - np.searchsorted(came, there, "left")
    return drawn


def beyond(calendar: Calendar, epoch: int) -> Bool:
    """Which samples an epoch does not have yet, (n,)."""
    mask = np.zeros(calendar.samples, dtype=np.bool_)
    mask[calendar.samples_of(epoch) :] = True
    return mask


def draw_plan(
    calendar: Calendar,
    first_step: int,
    end_step: int,
    action: Action,
    table: SampleTable,
    drawn: Bool,
    seed: int,
    evidence: Evidence | None = None,
    proceed: Proceed = unasked,
    window: Int64 | None = None,
) -> Drawn:
    """Draw the samples of steps [first_step, end_step): L = (end_step − first_step)·G rows.

    drawn: (n,) samples that already came in the epoch of the first position; `epoch` coverage leaves them out. All of
    the steps are of epochs that have as many samples (`Calendar.alike_until`); those that come later are not looked at.
    Under `epoch` each epoch's samples come once. Under `subset` the admitted samples are passed through again and
    again. Each pass has a weighted order of its own, and no batch that two passes share holds a sample twice if that
    can be avoided. Under `draw` every row is an independent draw among the admitted.

    Where the action weighs groups of samples, `epoch` passes have an order by the weights that come of it. Under `draw`
    each row is of a group with the probability that is its share; so under `subset`, where each group's admitted
    samples are passed through by themselves, and a batch in which a pass of one begins may hold a sample twice.

    Samples that the action leaves out by their evidence come as probes alone, passed through in random order; further
    passes over those that are kept take their place.

    proceed: called again and again; raises what is to end this before it is done. window: (w,) samples that are all
    there is, as often as they stand in it, whatever the epoch; `drawn`, of its places, is (w,) then.
    """
    segments = calendar.segments(first_step, end_step)
    samples = len(table) if window is not None else calendar.samples_of(calendar.epoch_of(first_step))
    if window is not None:
        segments = iter([(0, first_step * calendar.batch_size, end_step * calendar.batch_size)])
        table, evidence = table.rows(window), None if evidence is None else evidence.rows(window)
    elif samples < len(table):
        here = slice(0, samples)
        table, drawn = table.rows(here), drawn[here]
        evidence = None if evidence is None else evidence.rows(here)
    length = (end_step - first_step) * calendar.batch_size
    believed = trust(action, evidence, len(table), lambda: uniforms(seed, first_step, _LEFT_OUT, len(table)))
    numbers = np.arange(max(len(table), length))
    out = np.flatnonzero(~believed.kept)
    is_probe = _spread(length, calendar.batch_size, action.probes if len(out) else 0.0)
    rows = Drawn(
        np.empty(length, dtype=np.int64),
        np.empty(length, dtype=np.float32),
        is_probe if is_probe.any() else None,
        left_out=len(out),
    )
    trained = _where(~is_probe, numbers)
    weights = log_weights(action, table)
    groups = table.groups if action.weighs_groups else None
    if action.coverage == "draw" or (action.coverage == "subset" and groups is not None):
        candidates = _among(admitted(action, table), believed.kept)
        among = None if groups is None else groups.rows(candidates)
        drawn_by = partial(uniforms, seed, first_step)
        chosen, likely = _row_by_row(action, among, weights[candidates], len(trained), drawn_by)
        rows.indices[trained], rows.probabilities[trained] = candidates[chosen], likely
    else:
        passes = _passes(segments, is_probe, action, table, drawn, believed.kept, numbers)
        ordered = mixed(action, groups, weights)
        _fill(rows, trained, passes, ordered, calendar.batch_size, seed, first_step, 0, proceed)
    if len(out):
        probes = np.flatnonzero(is_probe)
        alike = np.zeros(len(table))
        _fill(rows, probes, [(out, len(probes))], alike, calendar.batch_size, seed, first_step, _PROBES, proceed)
    if believed.masked is not None:
        rows = replace(rows, masked=believed.masked[rows.indices] & ~is_probe[:, None])
    return rows if window is None else replace(rows, indices=window[rows.indices])


def _row_by_row(
    action: Action, groups: Groups | None, weights_log: Float64, rows: int, random: Callable[[int, int], Float64]
) -> tuple[Int64, Float64]:
    """Positions of candidates for so many rows that are drawn one by one, or their groups are, and how likely each was.

    groups, weights_log: of the candidates. random: uniform numbers by counter and how many.
    """
    p = normalised(mixed(action, groups, weights_log))
    if action.coverage == "draw" or groups is None:
        chosen = weighted_draws(p, random(0, rows))
    else:
        shares = groups.shares(weights_log, action.group_balance, action.mixture)
        chosen = _passes_by_group(
            groups, weights_log, weighted_draws(shares, random(_TURNS, rows)), partial(random, _WITHIN)
        )
    return chosen, p[chosen]


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
    runs: Iterable[tuple[Int64, int]],
    weights: Float64,
    batch_size: int,
    seed: int,
    first_step: int,
    counter: int,
    proceed: Proceed,
) -> None:
    """Write runs of passes (candidates, how many rows) into the rows at `places`, ascending, one behind the other.

    weights: (n,) logarithms. counter: of the first pass's random numbers.
    """
    batch = places // batch_size
    filled = 0
    for candidates, size in runs:
        k = len(candidates)
        is_everyone = k == len(weights)
        own = weights if is_everyone else weights[candidates]
        likely = normalised(own)
        start, stop = filled, filled + size
        last = None  # the order of the pass before
        while filled < stop:
            proceed()
            passes = min(max(1, _TOGETHER // k), -(-(stop - filled) // k))
            needed = k if passes > 1 else stop - filled + batch_size  # as many more may give way to repeats in a batch
            orders = weighted_order(own, uniform_rows(seed, first_step, counter, passes, k), needed)
            for number, opened, begin, end in _shared(batch, start, filled + k * np.arange(passes), k):
                before = orders[number - 1] if number else last
                if before is None:
                    present = np.isin(candidates, rows.indices[places[opened:begin]])
                else:
                    present = np.zeros(k, dtype=np.bool_)
                    present[before[opened - begin :]] = True
                orders[number] = _repeats_later(orders[number], present, end - begin)
            last = orders[-1]
            chosen = orders.reshape(-1)[: stop - filled]
            there = _as_slice(places[filled : filled + len(chosen)])
            rows.indices[there] = chosen if is_everyone else candidates[chosen]
            rows.probabilities[there] = likely[chosen]
            filled += len(chosen)
            counter += passes


def _as_slice(places: Int64) -> Int64 | slice:
    """Places (k,), ascending and each once, as a slice where they lie in a row."""
    start, stop = int(places[0]), int(places[-1]) + 1
    return slice(start, stop) if stop - start == len(places) else places


def _where(mask: Bool, numbers: Int64) -> Int64:
    """Where it is true, (k,) ascending: of `numbers`, from 0 on, which it takes no memory beside."""
    return numbers[: len(mask)] if mask.all() else np.flatnonzero(mask)


def _shared(batch: Int64, start: int, begins: Int64, k: int) -> Iterator[tuple[int, int, int, int]]:
    """Those of the passes of k rows that begin in an opened batch, and what they share it with may matter.

    batch: (L,) of each place, ascending. start: of their run. begins: place of each pass's first row. Gives number of
    the pass, first place of its batch, first place of its own, and end of the batch. A pass that lies behind a whole
    other one in its batch is none: it repeats all of it, in whatever order.
    """
    opened = np.searchsorted(batch, batch[begins], "left")
    ends = np.searchsorted(batch, batch[begins], "right")
    numbers = np.flatnonzero((opened < begins) & ((begins - opened < k) | (begins == start)))
    return zip(*(part.tolist() for part in (numbers, opened[numbers], begins[numbers], ends[numbers])), strict=True)


def _passes(
    segments: Iterable[tuple[int, int, int]],
    is_probe: Bool,
    action: Action,
    table: SampleTable,
    drawn: Bool,
    kept: Bool,
    numbers: Int64,
) -> Iterator[tuple[Int64, int]]:
    """The runs of passes of a plan without replacement, but for probes: candidates, and how many rows of them.

    segments: (epoch, first position, end position), one behind the other. numbers: at least (n,), from 0 on.
    """
    everyone = _where(kept, numbers)
    if action.coverage != "epoch":
        yield _among(admitted(action, table), kept), int((~is_probe).sum())
        return
    candidates = _where(kept & ~drawn, numbers)
    begin = 0
    for _, start, stop in segments:
        size = int((~is_probe[begin : (begin := begin + stop - start)]).sum())
        once = min(len(candidates), size)
        if once:
            yield candidates, once
        if size > once:
            yield everyone, size - once
        candidates = everyone


def _passes_by_group(groups: Groups, weights_log: Float64, turns: Int64, draw: Callable[[int], Float64]) -> Int64:
    """Positions among k samples for rows of which each has the turn of a group: (k,), (k,), (L,) -> (L,).

    The samples of each group come in passes, each in a weighted order of its own. draw: gives so many uniform numbers.
    All passes of all groups are sorted at once: there may be as many groups as samples.
    """
    count = len(groups.names)
    members = np.bincount(groups.numbers, minlength=count)
    wanted = np.bincount(turns, minlength=count)
    passes = -(-wanted // np.maximum(1, members))
    times = passes[groups.numbers]
    sample = np.repeat(np.arange(len(times)), times)  # (T,), T < L + k
    number = np.arange(len(sample)) - np.repeat(np.cumsum(times) - times, times)  # of its pass
    never = np.isneginf(weights_log[sample])
    keys = np.log(-np.log(draw(len(sample)))) - np.where(never, 0.0, weights_log[sample])
    sequence = sample[np.lexsort((keys, never, number, groups.numbers[sample]))]  # one group behind the other
    start = np.cumsum(passes * members) - passes * members
    rows = np.argsort(turns, kind="stable")
    within = np.arange(len(rows)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    chosen = np.empty(len(rows), dtype=np.int64)
    chosen[rows] = sequence[start[turns[rows]] + within]
    return chosen


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
