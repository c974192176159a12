"""The sample table: what is known of each training sample."""

from dataclasses import dataclass, fields

import numpy as np

from bss_service.core.arrays import Bool, Float32, Float64, Int64, UInt32
from bss_service.core.scores import balance_score, minmax, moving_average

MAX_STEP = 2**31 - 1  # `stamp` keeps a step in 31 bits
_FRESH = np.uint32(2**31)


@dataclass(slots=True)
class SampleTable:
    """Columns of n rows; 28 + 4·(M + 1) bytes a sample: 40 for two modalities. NaN: never measured.

    `similarity` and `loss` are the latest raw measurements. `similarity_ema` and `loss_ema` are moving averages of
    their min-max normalised values, so that ŝ = similarity_ema − loss_ema is the moving average of the balance score.
    """

    similarity: Float32  # (n,) in [−1, 1]
    loss: Float32  # (n,)
    similarity_ema: Float32  # (n,) in [0, 1]
    loss_ema: Float32  # (n,) in [0, 1]
    first_score: Float32  # (n,) balance score when first scored, in [−1, 1]
    probabilities: Float32  # (n, M + 1) of the true label: unimodal heads in order, then the joint head
    times_measured: UInt32  # (n,) in training steps
    stamp: UInt32  # (n,) step of the latest measurement; the top bit: not yet in the moving averages

    @classmethod
    def empty(cls, samples: int, modalities: int) -> "SampleTable":
        """A table in which nothing has been measured."""

        def unknown(*shape: int) -> Float32:
            return np.full(shape, np.nan, dtype=np.float32)

        return cls(
            similarity=unknown(samples),
            loss=unknown(samples),
            similarity_ema=unknown(samples),
            loss_ema=unknown(samples),
            first_score=unknown(samples),
            probabilities=unknown(samples, modalities + 1),
            times_measured=np.zeros(samples, dtype=np.uint32),
            stamp=np.zeros(samples, dtype=np.uint32),
        )

    def __len__(self) -> int:
        return len(self.similarity)

    @property
    def measured(self) -> Bool:
        """Which samples have a measurement, (n,)."""
        return ~np.isnan(self.similarity)

    @property
    def last_step(self) -> UInt32:
        """Step of each sample's latest measurement, (n,); 0 where there is none."""
        return self.stamp & ~_FRESH

    @property
    def score(self) -> Float32:
        """Balance score ŝ, (n,) in [−1, 1], NaN where not yet scored."""
        return self.similarity_ema - self.loss_ema

    def columns(self) -> dict[str, np.ndarray]:
        """The columns by name, not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def nbytes(self) -> int:
        """Memory that the columns take."""
        return sum(column.nbytes for column in self.columns().values())

    def copy(self) -> "SampleTable":
        """A table of its own."""
        return SampleTable(**{name: column.copy() for name, column in self.columns().items()})

    def measure(
        self,
        indices: Int64,  # (k,), a sample may come twice: its later row counts
        steps: Int64,  # (k,) ascending
        similarity: Float32,  # (k,)
        loss: Float32,  # (k,)
        probabilities: Float32 | None = None,  # (k, M + 1), rows of NaN where not measured
    ) -> None:
        """Write measurements down, unless a later one of the sample is known."""
        current = ~self.measured[indices] | (steps >= self.last_step[indices])
        if not current.all():
            indices, steps, similarity, loss = indices[current], steps[current], similarity[current], loss[current]
            probabilities = None if probabilities is None else probabilities[current]
        self.similarity[indices] = similarity
        self.loss[indices] = loss
        self.stamp[indices] = steps.astype(np.uint32) | _FRESH
        if probabilities is not None:
            known = ~np.isnan(probabilities[:, 0])
            self.probabilities[indices[known]] = probabilities[known]

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
        similarity, loss = self.similarity[cohort], self.loss[cohort]
        first = self.first_score[cohort]
        self.first_score[cohort] = np.where(np.isnan(first), balance_score(similarity, loss), first)
        for ema, current in ((self.similarity_ema, similarity), (self.loss_ema, loss)):
            ema[cohort] = moving_average(ema[cohort], minmax(current), rate)

    def weakest_head(self) -> int | None:
        """The unimodal head with the least mean true-label probability; None before any was measured."""
        means = self.mean_probabilities()[:-1]
        return None if np.isnan(means).any() else int(means.argmin())

    def mean_probabilities(self) -> Float64:
        """Mean true-label probability of each head, (M + 1,), NaN for a head that was never measured."""
        known = ~np.isnan(self.probabilities)
        total = np.where(known, self.probabilities, 0.0).sum(axis=0, dtype=np.float64)
        count = known.sum(axis=0)
        means = np.full(len(count), np.nan)
        np.divide(total, count, out=means, where=count > 0)
        return means
