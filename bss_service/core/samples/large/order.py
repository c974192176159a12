"""A weighted order without replacement of samples by the billion, as a stream.

An exponential race (Efraimidis & Spirakis 2006): sample i arrives at a time T_i ~ Exp(w_i), and the order is that of
the times. Two facts make it one of two levels, and exact:

- the first arrival in a shard is ~ Exp(W_s), W_s the sum of its weights, independent of which sample it is and of how
  much later the others come (exponential times have no memory). So it is drawn by itself, from the sums alone, and a
  shard is not looked at before the order comes to it;
- within the shard T_i = M_s + (K_i − min K), with K_i = E_i/w_i of random numbers that seed, stream and shard give: the
  same whenever the shard is opened. Nothing is kept of an opened shard but when its next sample comes.

The stream goes from one window of time to the next, opens the shards of which a sample arrives in it, and sorts what
arrives. The order is that of the times, whatever the windows.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from bss_service.core.arrays import Float64
from bss_service.core.samples.large.shards import ROWS, Shards
from bss_service.core.sampling import Drawn, Proceed, ascending, unasked, uniforms

_FIRSTS: Final = 2  # counter of the random numbers for first arrivals
_WITHIN: Final = 2**32  # … and from which on those within shards are
_BEHIND: Final = 2**36  # what is added to them in a second race


def ordered(
    shards: Shards, seed: int, stream: int, first: int, most: int, proceed: Proceed = unasked
) -> Iterator[Drawn]:
    """All candidates once, each next one drawn in proportion to its weight; those of weight 0 last, in random order.

    As runs of rows, one behind the other: of about `first` at first, then of twice as many, up to about `most`, ≥ first
    ≥ 1. A row's probability is how likely its sample was to be the very first. seed, stream: as of `uniforms`; the rows
    are a pure function of them and of the weights, not of `first` and `most`, which say what a run costs: of r rows as
    much memory as r rows take, about 80 bytes each, and a look at min(S, r) shards.

    proceed: called again and again; raises what is to end this before it is done.
    """
    size = first
    for race in _races(shards, seed, stream):
        while race.left:
            run = race.until(race.when(size), proceed)
            if len(run.indices):
                yield run
            size = min(2 * size, most)


def first_of(shards: Shards, seed: int, stream: int, rows: int, proceed: Proceed = unasked) -> Drawn:
    """The first rows of `ordered`, (rows,), or all where there are fewer candidates; rows ≥ 0.

    Where weights are much alike, and rows few beside the candidates, that is one run of an eighth more.
    """
    runs, missing = [Drawn(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))], rows
    for race in _races(shards, seed, stream):
        while race.left and missing:
            run = race.until(race.when(missing + missing // 8), proceed)
            runs.append(Drawn(run.indices[:missing], run.probabilities[:missing]))
            missing -= len(runs[-1].indices)
        if not missing:
            break  # the next race begins with a look at everybody
    return Drawn(np.concatenate([run.indices for run in runs]), np.concatenate([run.probabilities for run in runs]))


def _races(shards: Shards, seed: int, stream: int) -> Iterator["_Race"]:
    """One of the samples that have a weight, and behind it one of the others, all alike."""
    yield _Race(shards, seed, stream, 0, 1 / shards.total if shards.weighted else 0.0)
    if shards.never:

        def alike(start: int, stop: int) -> Float64:
            return np.where(np.isneginf(shards.log_weights(start, stop)), 0.0, np.nan)

        likely = 0.0 if shards.weighted else 1 / shards.never  # uniform where every weight is 0
        yield _Race(Shards.of(shards.samples, alike), seed, stream, _BEHIND, likely)


class _Race:
    """Where a race stands. Times are in units of 1/(the top weight)."""

    def __init__(self, shards: Shards, seed: int, stream: int, counter: int, likely: float) -> None:
        self._shards, self._likely = shards, likely  # how likely the top weight is to come first
        self._seed, self._stream, self._counter = seed, stream, counter
        self._time = 0.0  # what arrived before it has been told
        self._weight_left = shards.sums.copy()  # (S,)
        keys = -np.log(uniforms(seed, stream, counter + _FIRSTS, len(shards.sums)))
        self._first = np.full(len(keys), np.inf)  # (S,) when a shard's first sample arrives
        np.divide(keys, shards.sums, out=self._first, where=shards.sums > 0)
        self._next = self._first.copy()  # (S,) when the next one does
        self.left = shards.weighted

    def when(self, size: int) -> float:
        """Until when no more than about `size` samples arrive: that is what the sum of their rates makes of them now.

        At least one does.
        """
        if self.left <= size:
            return np.inf
        return max(self._time + size / float(self._weight_left.sum()), float(np.nextafter(self._next.min(), np.inf)))

    def until(self, end: float, proceed: Proceed) -> Drawn:
        """What arrives before `end`, and has not been told."""
        arrived = [np.empty(0)]
        indices, probabilities = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
        for shard in np.flatnonzero(self._next < end).tolist():
            proceed()
            weights = self._shards.weights(shard)
            times = self._times(shard, weights)
            later = times >= end
            rows = np.flatnonzero((times >= self._time) & ~later)
            self._weight_left[shard] = weights[later].sum()
            self._next[shard] = times[later].min(initial=np.inf)
            arrived.append(times[rows])
            indices.append(rows + shard * ROWS)
            probabilities.append((weights[rows] * self._likely).astype(np.float32))
        times = np.concatenate(arrived)
        order = ascending(times, len(times))
        self._time = end
        self.left -= len(order)
        return Drawn(np.concatenate(indices)[order], np.concatenate(probabilities)[order])

    def _times(self, shard: int, weights: Float64) -> Float64:
        """When each of a shard's samples arrives; ∞ where the weight is 0."""
        keys = uniforms(self._seed, self._stream, self._counter + _WITHIN + shard, len(weights))
        np.negative(np.log(keys, out=keys), out=keys)
        with np.errstate(divide="ignore"):
            keys /= weights
        keys -= keys.min()
        keys += self._first[shard]
        return keys
