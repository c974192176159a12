"""What is known of samples by the billion, in 8 bytes each, and the weights that an action makes of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from bss_service.core.action import Action, logarithms
from bss_service.core.arrays import Bool, Float32, Float64, Floats, Int64, UInt16, UInt32
from bss_service.core.samples.large.shards import LogWeights
from bss_service.core.samples.scores import minmax, moving_average

UNKNOWN: Final = np.uint16(0)  # so that a file that was never written into holds nothing
LEVELS: Final = 2**16 - 2  # steps of [0, 1], stored as 1 … 65,535: an average is right to 8·10⁻⁶
CAME: Final = np.uint32(2**31)  # bit of a stamp
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "similarity": np.dtype("<u2"),
    "loss": np.dtype("<u2"),
    "stamp": np.dtype("<u4"),
}
BYTES: Final = sum(dtype.itemsize for dtype in DTYPES.values())  # of a sample
_CHUNK: Final = 2**18  # rows gone through at a time


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of n rows, in memory or mapped from a file; written into where they stand.

    As those of `SampleTable` of the same names, in 65,534ths: moving averages of min-max normalised values.
    """

    similarity: UInt16  # (n,)
    loss: UInt16  # (n,)
    stamp: UInt32  # (n,) step of the latest measurement + 1, 0: never measured; top bit: came in this epoch

    @classmethod
    def empty(cls, samples: int) -> Self:
        """Of samples that were not measured, and did not come."""
        return cls(**{name: np.zeros(samples, dtype=dtype) for name, dtype in DTYPES.items()})

    def __len__(self) -> int:
        return len(self.stamp)

    def measure(self, indices: Int64, steps: Int64, similarity: Float32, loss: Float32, rate: float) -> None:
        """Fold what an interval measured into the averages, as `SampleTable.measure` and `refresh` do together.

        indices: (k,), of a sample that stands there twice the later row counts; steps: (k,) ascending, in [0, 2³¹ − 1);
        similarity, loss: (k,), NaN where not known. What was measured together is normalised together. rate: in [0, 1].
        """
        known = ~(np.isnan(similarity) & np.isnan(loss))
        indices, steps, similarity, loss = indices[known], steps[known], similarity[known], loss[known]
        which, latest = _latest(indices)
        self.stamp[which] = (self.stamp[which] & CAME) | (steps[latest] + 1).astype(np.uint32)
        for column, values in ((self.similarity, similarity), (self.loss, loss)):
            column[which] = quantised(moving_average(averages(column[which]), minmax(values[latest]), rate))

    def come(self, indices: Int64) -> None:
        """Samples (k,) come in this epoch."""
        self.stamp[indices] |= CAME

    def came(self, start: int, stop: int) -> Bool:
        """Which of the samples [start, stop) came in this epoch."""
        return self.stamp[start:stop] >= CAME

    def begin_epoch(self) -> None:
        """No sample has come yet."""
        for start, stop in _parts(len(self)):
            self.stamp[start:stop] &= ~CAME

    def left(self, log_weights: LogWeights) -> LogWeights:
        """The same weights, of those alone that did not come in this epoch."""

        def of_those(start: int, stop: int) -> Float64:
            return np.where(self.came(start, stop), np.nan, log_weights(start, stop))

        return of_those


def quantised(values: Floats) -> UInt16:
    """Averages (k,) in [0, 1], NaN where not known, to the nearest of 65,534ths."""
    known = ~np.isnan(values)
    steps = np.full(len(values), UNKNOWN)
    steps[known] = np.rint(values[known].astype(np.float64) * LEVELS) + 1
    return steps


def averages(steps: UInt16) -> Float64:
    """The inverse of `quantised`, but for what was lost."""
    values = np.subtract(steps, 1.0, dtype=np.float64)
    values /= LEVELS
    values[steps == UNKNOWN] = np.nan
    return values


def refusals(action: Action) -> list[str]:
    """What of an action can't be drawn by these columns: fields with their values; empty where all of it can."""
    asked = {
        "kappa_weak": action.kappa_weak != 0,
        "coverage": action.coverage == "subset",
        "share": action.coverage == "draw" and action.share < 1,
        "belief": action.belief > 0,
        "group_balance": action.group_balance > 0,
        "mixture": len(action.mixture) > 0,
    }
    return [f"{name}={getattr(action, name)!r}" for name, is_asked in asked.items() if is_asked]


def weights_of(action: Action, columns: Columns) -> LogWeights:
    """Log-weights as `log_weights` makes them, of columns that stay as they are while they are used.

    Goes over the columns first for the means that stand in for what is not known, and again where the action has a
    floor or a linear link. Raises ValueError where `refusals` has something to say.
    """
    refused = refusals(action)
    if refused:
        raise ValueError(f"samples by the billion can't be drawn with {', '.join(refused)}")
    scores = _scores(action, columns)
    if action.link == "linear":
        return _linear(scores, action.floor, len(columns))
    return scores if action.floor == 0 else _with_floor(scores, action.floor, len(columns))


def _linear(scores: LogWeights, floor: float, samples: int) -> LogWeights:
    def weights(start: int, stop: int) -> Float64:
        return np.maximum(0.0, 1 + scores(start, stop)) + floor

    if any(weights(start, stop).any() for start, stop in _parts(samples)):
        return lambda start, stop: logarithms(weights(start, stop))
    return lambda start, stop: np.zeros(stop - start)  # uniform where every weight is 0


def _with_floor(scores: LogWeights, floor: float, samples: int) -> LogWeights:
    top = max(float(scores(start, stop).max()) for start, stop in _parts(samples))
    mean = sum(float(np.exp(scores(start, stop) - top).sum()) for start, stop in _parts(samples)) / samples
    return lambda start, stop: logarithms(np.exp(scores(start, stop) - top) / mean + floor)


def _scores(action: Action, columns: Columns) -> LogWeights:
    terms = []
    if action.kappa_similarity:
        terms.append(_of_average(action.kappa_similarity, columns.similarity))
    if action.kappa_loss:
        terms.append(_of_average(-action.kappa_loss, columns.loss))
    if action.kappa_stale:
        terms.append(_of_age(action.kappa_stale, columns.stamp))

    def scores(start: int, stop: int) -> Float64:
        total = np.zeros(stop - start)
        for term in terms:
            total += term(start, stop)
        return total

    return scores


def _of_average(kappa: float, steps: UInt16) -> LogWeights:
    """Averages, with their mean in place of what is not known."""
    total = known = 0
    for start, stop in _parts(len(steps)):
        part = steps[start:stop]
        here = int(np.count_nonzero(part))
        known += here
        total += int(part.sum(dtype=np.int64)) - here
    filler = kappa * total / (known * LEVELS) if known else 0.0
    unit = kappa / LEVELS

    def term(start: int, stop: int) -> Float64:
        part = steps[start:stop]
        values = np.multiply(part, unit, dtype=np.float64)
        values -= unit
        if known < len(steps):
            values[part == UNKNOWN] = filler
        return values

    return term


def _of_age(kappa: float, stamps: UInt32) -> LogWeights:
    """How long ago samples were measured, in [0, 1]; never measured counts as longest."""
    oldest, newest = 2**31, 0
    for start, stop in _parts(len(stamps)):
        part = stamps[start:stop] & ~CAME
        newest = max(newest, int(part.max()))
        oldest = min(oldest, int(part[part > 0].min(initial=2**31 - 1)))
    span = max(1, newest - oldest)

    def term(start: int, stop: int) -> Float64:
        part = stamps[start:stop] & ~CAME
        if newest == 0:
            return np.zeros(stop - start)
        return np.where(part > 0, kappa * (newest - part.astype(np.float64)) / span, kappa)

    return term


def _latest(indices: Int64) -> tuple[Int64, Int64]:
    """The samples that stand in (k,), each once, ascending, and where each stands for the last time."""
    which, backwards = np.unique(indices[::-1], return_index=True)
    return which, len(indices) - 1 - backwards


def _parts(samples: int) -> Iterator[tuple[int, int]]:
    return ((start, min(samples, start + _CHUNK)) for start in range(0, samples, _CHUNK))
