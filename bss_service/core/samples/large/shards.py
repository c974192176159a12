"""Two levels of weights: sums by shard, and the weights within a shard, made again whenever they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from bss_service.core.arrays import Float64, Int64
from bss_service.core.sampling import Drawn, looked_up, uniforms

ROWS: Final = 2**12  # of a shard: opening one takes a tenth of a millisecond, and its weights stay in the cache
SPAN: Final = 600.0  # between finite log-weights: the least weight is still far from underflow
_SHARD: Final = 0  # counters of random numbers
_ROW: Final = 1

# Of the samples [start, stop): (stop − start,) float64, the same at each call. −inf: weight 0. NaN: no candidate.
LogWeights = Callable[[int, int], Float64]


@dataclass(frozen=True, slots=True)
class Shards:
    """What is kept of the weights of n samples: 16 bytes a shard of `ROWS` samples (the last may be shorter)."""

    samples: int  # n
    log_weights: LogWeights
    top: float  # the greatest log-weight; −inf: no candidate has a weight
    sums: Float64  # (S,) of the weights relative to the top one
    cumulative: Float64  # (S,) of these
    weighted: int  # candidates of a weight above 0
    never: int  # candidates of weight 0

    @classmethod
    def of(cls, samples: int, log_weights: LogWeights) -> Self:
        """Go once through the weights of all samples, n ≥ 1, a shard at a time.

        Raises ValueError where a weight is infinite, or log-weights lie more than `SPAN` apart.
        """
        count = -(-samples // ROWS)
        sums, tops = np.zeros(count), np.full(count, -np.inf)
        least, weighted, never = np.inf, 0, 0
        for shard in range(count):
            logs = log_weights(shard * ROWS, min(samples, (shard + 1) * ROWS))
            finite = logs[np.isfinite(logs)]
            if len(finite) < len(logs):
                _check_no_infinite(logs)
                never += int(np.isneginf(logs).sum())
            if len(finite):
                weighted += len(finite)
                tops[shard], least = finite.max(), min(least, float(finite.min()))
                sums[shard] = np.exp(finite - tops[shard]).sum()
        top = float(tops.max())
        if top - least > SPAN:
            raise ValueError(f"log-weights must lie within {SPAN:g} of each other, got {least:g} and {top:g}")
        if weighted:
            sums *= np.exp(tops - top)
        return cls(samples, log_weights, top, sums, np.cumsum(sums), weighted, never)

    @property
    def total(self) -> float:
        """The sum of all weights relative to the top one."""
        return float(self.cumulative[-1])

    def bounds(self, shard: int) -> tuple[int, int]:
        """Its first sample, and the first behind it."""
        return shard * ROWS, min(self.samples, (shard + 1) * ROWS)

    def weights(self, shard: int) -> Float64:
        """Of a shard's samples, (≤ ROWS,) in [0, 1], relative to the top one; 0 of those that are no candidates."""
        logs = self.log_weights(*self.bounds(shard))
        logs = logs - self.top
        weights: Float64 = np.exp(logs, out=logs)
        if self.weighted < self.samples:
            weights[np.isnan(weights)] = 0.0
        return weights


def draws(shards: Shards, seed: int, stream: int, size: int) -> Drawn:
    """Independent draws with replacement in proportion to the weights: (size,) rows.

    A shard by its share, then a sample by its share in it, each by inverse transform in float64. The cost is that of
    the shards that are drawn from, and of log S: not of n. seed, stream: as of `uniforms`; the rows are a pure function
    of them, of `size` and of the weights. Raises ValueError where no candidate has a weight.
    """
    if not shards.weighted:
        raise ValueError("of no candidate the weight is above 0")
    chosen = looked_up(shards.cumulative, uniforms(seed, stream, _SHARD, size))
    within = uniforms(seed, stream, _ROW, size)
    indices, probabilities = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float32)
    for shard, rows in _by_shard(chosen):
        weights = shards.weights(shard)
        places = looked_up(np.cumsum(weights), within[rows])
        indices[rows] = shard * ROWS + places
        probabilities[rows] = weights[places] / shards.total
    return Drawn(indices, probabilities)


def _by_shard(chosen: Int64) -> list[tuple[int, Int64]]:
    """Which rows are of which shard: of (L,) numbers of shards, ascending."""
    rows = np.argsort(chosen, kind="stable")
    numbers, begins = np.unique(chosen[rows], return_index=True)
    return list(zip(numbers.tolist(), np.split(rows, begins[1:]), strict=True))


def _check_no_infinite(logs: Float64) -> None:
    if np.isposinf(logs).any():
        raise ValueError(f"log-weights must be below infinity, got {logs.max()}")
