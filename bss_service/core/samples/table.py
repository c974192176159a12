"""The sample table: what is known of each training sample."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from bss_service.core.arrays import Bool, Float32, Float64, Floats, Int64, UInt32
from bss_service.core.samples.dynamics import Dynamics, are_kept
from bss_service.core.samples.groups import Groups
from bss_service.core.samples.scores import balance_score, minmax, moving_average
from bss_service.core.signals import PROBABILITY, Signal, Signals

A = TypeVar("A", bound=Any)
MAX_STEP = 2**31 - 1  # of a job; the last step that a `stamp` holds is the one before
_FRESH = np.uint32(2**31)


@dataclass(slots=True)
class SampleTable:
    """Columns of n rows, those of its signals and four of its own; NaN: not known. 40 bytes a sample with the paper's
    signals of two modalities, 63 with training dynamics.

    `latest` holds the latest value of each signal that is kept, (n,) or (n, H): in single precision, but for the
    probabilities beside training dynamics in half. `average` holds, of the signals that ask for it, the
    moving average of their min-max normalised values; ŝ = average similarity − average loss is the moving average of
    the balance score.
    """

    signals: Signals
    latest: dict[str, Floats]
    average: dict[str, Float32]  # in [0, 1]
    first_score: Float32  # (n,) balance score when first scored, in [−1, 1]
    times_measured: UInt32  # (n,) in training steps
    stamp: UInt32  # (n,) step of the latest measurement + 1, 0: never measured; top bit: not yet in the averages
    # Of averaged signals, (n,) or (n, H): not measured since the last refresh, though others of the sample were. There
    # only where a trainer left something out.
    unknown: dict[str, Bool] = field(default_factory=dict)
    dynamics: Dynamics | None = None  # where the signals that they need are declared
    groups: Groups | None = None  # where the trainer has sent them

    @classmethod
    def empty(cls, samples: int, signals: Signals) -> "SampleTable":
        """A table in which nothing has been measured."""

        def nothing(*shape: int) -> Float32:
            return np.full((samples, *shape), np.nan, dtype=np.float32)

        latest: dict[str, Floats] = {s.name: nothing(*signals.shape(s.name)) for s in signals if s.kept}
        dynamics = None
        if are_kept(signals):
            dynamics = Dynamics.empty(samples, signals.heads)
            latest[PROBABILITY.name] = latest[PROBABILITY.name].astype(np.float16)
        return cls(
            signals=signals,
            latest=latest,
            average={signal.name: nothing(*signals.shape(signal.name)) for signal in signals if signal.averaged},
            dynamics=dynamics,
            first_score=nothing(),
            times_measured=np.zeros(samples, dtype=np.uint32),
            stamp=np.zeros(samples, dtype=np.uint32),
        )

    def __len__(self) -> int:
        return len(self.stamp)

    @property
    def measured(self) -> Bool:
        """Which samples have a measurement, (n,)."""
        return (self.stamp & ~_FRESH) > 0

    @property
    def samples_measured(self) -> int:
        """How many samples have a measurement."""
        return int(np.count_nonzero(self.stamp))

    @property
    def last_step(self) -> Int64:
        """Step of each sample's latest measurement, (n,); −1 where there is none."""
        return _steps(self.stamp)

    def last_step_of(self, sample: int) -> int:
        """Step of one sample's latest measurement; −1 where there is none."""
        return int(_steps(self.stamp[sample : sample + 1])[0])

    @property
    def score(self) -> Float32:
        """Balance score ŝ, (n,) in [−1, 1], NaN where not yet scored."""
        return self.average["similarity"] - self.average["loss"]

    @property
    def nbytes(self) -> int:
        """Memory that the columns take."""
        by_signal = [*self.latest.values(), *self.average.values(), *self.unknown.values()]
        own = sum(column.nbytes for column in (*by_signal, self.first_score, self.times_measured, self.stamp))
        own += 0 if self.groups is None else self.groups.numbers.nbytes
        return own + (0 if self.dynamics is None else self.dynamics.nbytes)

    def grown(self, samples: int) -> "SampleTable":
        """A table of its own with more samples, of which nothing is known yet. samples: all together."""
        more = SampleTable.empty(samples - len(self), self.signals)

        def joined(known: Any, new: Any) -> Any:
            return np.concatenate([known, new.astype(known.dtype)])

        return SampleTable(
            signals=self.signals,
            latest={name: joined(column, more.latest[name]) for name, column in self.latest.items()},
            average={name: joined(column, more.average[name]) for name, column in self.average.items()},
            first_score=joined(self.first_score, more.first_score),
            times_measured=joined(self.times_measured, more.times_measured),
            stamp=joined(self.stamp, more.stamp),
            unknown={
                name: joined(column, np.zeros((len(more), *column.shape[1:]), np.bool_))
                for name, column in self.unknown.items()
            },
            dynamics=None if more.dynamics is None or self.dynamics is None else self.dynamics.joined(more.dynamics),
        )

    def copy(self) -> "SampleTable":
        """A table of its own."""
        return self.rows(np.s_[:], copied=True)

    def rows(self, which: Any, *, copied: bool = False) -> "SampleTable":
        """Some samples' rows, by a slice, of which they are views, or by indices (k,)."""

        def of(column: A) -> A:
            part: A = column[which].copy() if copied else column[which]
            return part

        return SampleTable(
            signals=self.signals,
            latest={name: of(column) for name, column in self.latest.items()},
            average={name: of(column) for name, column in self.average.items()},
            first_score=of(self.first_score),
            times_measured=of(self.times_measured),
            stamp=of(self.stamp),
            unknown={name: of(column) for name, column in self.unknown.items()},
            dynamics=None if self.dynamics is None else self.dynamics.rows(of),
            groups=None if self.groups is None else self.groups.rows(which),  # nobody writes into them
        )

    def measure(
        self,
        indices: Int64,  # (k,), a sample may come twice: its later row counts
        steps: Int64,  # (k,) ascending
        values: Float32,  # (k, S), NaN where not known
    ) -> None:
        """Write measurements down, unless a later one of the sample is known. A signal that is unknown stays as it was.

        A row in which nothing is known is no measurement.
        """
        current = (steps >= _steps(self.stamp[indices])) & ~np.isnan(values).all(axis=1)
        if not current.all():
            indices, steps, values = indices[current], steps[current], values[current]
        fresh = (self.stamp[indices] & _FRESH) > 0
        for signal in self.signals:
            if signal.kept:
                self._write(signal, indices, self.signals.of(signal.name, values), fresh)
        if self.dynamics is not None:
            self.dynamics.measure(self.signals, indices, values)
        self.stamp[indices] = (steps + 1).astype(np.uint32) | _FRESH

    def refresh(self, rate: float) -> None:
        """Fold what was measured since the last refresh into the moving averages.

        Measurements of nearby model states are comparable, those of long ago are not: only the cohort measured since
        the last refresh is normalised together and updated. Under full coverage that is every sample, as in the
        paper. A sample's first score is kept in `first_score`.
        """
        if rate == 0:
            return  # what was measured waits for the next refresh
        cohort = np.flatnonzero(self.stamp & _FRESH)
        self.stamp[cohort] &= ~_FRESH
        values = {name: self._fresh_values(name, cohort) for name in self.average}
        if {"similarity", "loss"} <= set(values):
            first = self.first_score[cohort]
            score = balance_score(values["similarity"], values["loss"])
            self.first_score[cohort] = np.where(np.isnan(first), score, first)
        for name, average in self.average.items():
            average[cohort] = moving_average(average[cohort], _normalised(values[name]), rate)
        self.unknown = {}

    def weakest_head(self) -> int | None:
        """The unimodal head with the least mean true-label probability; None with fewer than two, or none measured."""
        means = self.mean_probabilities()[:-1]
        return None if len(means) < 2 or np.isnan(means).any() else int(means.argmin())

    def mean_probabilities(self) -> Float64:
        """Mean true-label probability of each head, (H,), NaN for a head that was never measured."""
        probabilities = self.latest["probability"]
        known = ~np.isnan(probabilities)
        total = np.where(known, probabilities, 0.0).sum(axis=0, dtype=np.float64)
        count = known.sum(axis=0)
        means = np.full(len(count), np.nan)
        np.divide(total, count, out=means, where=count > 0)
        return means

    def _write(self, signal: Signal, indices: Int64, values: Floats, fresh: Bool) -> None:
        """Write the known values of a signal; remember of which samples it was not measured since the last refresh."""
        latest = self.latest[signal.name]
        if not np.isnan(values).any() and signal.name not in self.unknown:
            latest[indices] = values
            return
        unknown = np.zeros(latest.shape, dtype=np.bool_)
        if signal.averaged:
            unknown = self.unknown.setdefault(signal.name, unknown)
        for column, new, mask in zip(_columns(latest), _columns(values), _columns(unknown), strict=True):
            known = ~np.isnan(new)
            column[indices[known]] = new[known]
            mask[indices[~known & ~fresh]] = True
            mask[indices[known]] = False

    def _fresh_values(self, name: str, cohort: Int64) -> Float32:
        """The latest values of a cohort; NaN where an older one than the cohort's stands there."""
        values = self.latest[name][cohort]
        if name in self.unknown:
            values[self.unknown[name][cohort]] = np.nan
        return values


def _steps(stamps: UInt32) -> Int64:
    return (stamps & ~_FRESH).astype(np.int64) - 1


def _columns(array: np.ndarray) -> list[np.ndarray]:
    """Views of the columns of (n,) or (n, H), each (n,)."""
    return [array] if array.ndim == 1 else list(array.T)


def _normalised(values: Float32) -> Float64:
    """(n,) or (n, H), each column by itself."""
    return minmax(values) if values.ndim == 1 else np.stack([minmax(column) for column in values.T], axis=1)
