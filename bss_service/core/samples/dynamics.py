"""Training dynamics: what the sample table keeps of how the heads judge each label while training goes on.

In half precision and in bytes, since millions of samples have them: 29 bytes a sample with two unimodal heads and up to
65,536 classes. All columns are 0 of a sample that was not visited yet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np

from bss_service.core.arrays import Float16, Float32, Int64, UInt8, UInt16, UInt32
from bss_service.core.signals import DYNAMICS, PROBABILITY, Signals

RATE: Final = 0.3  # of the moving averages: about three visits back
MOST_VISITS: Final = 255  # from which on visits and hits are halved: what was long ago counts less and less
MOST_MARGIN: Final = 60_000.0  # that half precision holds
STEPS: Final = 255  # of a probability in a byte
NEEDED: Final = (PROBABILITY.name, *(signal.name for signal in DYNAMICS))

Classes = UInt16 | UInt32  # wider once a class needs it


@dataclass(slots=True)
class Dynamics:
    """Columns of n rows, for H heads of which U are unimodal. A visit is a measurement that counts, one an interval.

    Summed: by the softmax of the sum of all heads' logits. The rival is the class other than the label that is
    likeliest so.
    """

    probability: Float16  # (n, H) of the label by each head, moving average
    summed_probability: Float16  # (n,) of the label, moving average
    last_probability: Float16  # (n,) of the label, summed, at the last visit
    margin: Float16  # (n,) of the summed logits, moving average
    mean_margin: Float16  # (n,) over all visits: the area under the margin (Pleiss et al. 2020, section 3)
    last_margin: Float16  # (n,)
    other_probability: UInt8  # (n, U + 1) of the rival by each unimodal head and summed, in 255ths, at the last visit
    other_class: Classes  # (n,) the rival
    predicted_class: Classes  # (n, U) likeliest by each unimodal head
    label: Classes  # (n,)
    visits: UInt8  # (n,)
    hits: UInt8  # (n,) visits at which the margin was above 0

    @classmethod
    def empty(cls, samples: int, heads: int) -> Self:
        """Of samples that were not visited."""
        unimodal = heads - 1

        def half(*shape: int) -> Float16:
            return np.zeros((samples, *shape), dtype=np.float16)

        def classes(*shape: int) -> Classes:
            return np.zeros((samples, *shape), dtype=np.uint16)

        def bytes_(*shape: int) -> UInt8:
            return np.zeros((samples, *shape), dtype=np.uint8)

        return cls(
            probability=half(heads),
            summed_probability=half(),
            last_probability=half(),
            margin=half(),
            mean_margin=half(),
            last_margin=half(),
            other_probability=bytes_(unimodal + 1),
            other_class=classes(),
            predicted_class=classes(unimodal),
            label=classes(),
            visits=bytes_(),
            hits=bytes_(),
        )

    @property
    def nbytes(self) -> int:
        """Memory that the columns take."""
        return sum(column.nbytes for column in self._columns().values())

    def rows(self, of: Callable[[Any], Any]) -> Self:
        """Some rows, by what takes them of a column."""
        return type(self)(**{name: of(column) for name, column in self._columns().items()})

    def joined(self, more: Self) -> Self:
        """The rows of both, in columns as wide as these."""
        new = more._columns()
        return type(self)(
            **{
                name: np.concatenate([column, new[name].astype(column.dtype)])
                for name, column in self._columns().items()
            }
        )

    def to_arrays(self) -> dict[str, Float32]:
        """The columns by name, in single precision, which holds each of their values."""
        return {name: column.astype(np.float32) for name, column in self._columns().items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Float32], samples: int, heads: int) -> Self:
        """The inverse of `to_arrays`. Raises ValueError naming a column that is missing, or that it can't hold."""
        made = cls.empty(samples, heads)
        if set(arrays) != set(made._columns()):
            raise ValueError(f"columns must be {sorted(made._columns())}, got {sorted(arrays)}")
        for name, column in made._columns().items():
            values = arrays[name]
            if values.shape != column.shape:
                raise ValueError(f"{name} must have shape {column.shape}, got {values.shape}")
            narrow = values.astype(_class_type(values) if column.dtype == np.uint16 else column.dtype)
            if not np.array_equal(narrow.astype(np.float32), values):
                raise ValueError(f"{name} must hold {narrow.dtype} values, got others")
            setattr(made, name, narrow)
        return made

    def measure(self, signals: Signals, indices: Int64, values: Float32) -> None:
        """Take in the visits of samples (k,), values (k, S); a row in which one of `NEEDED` is unknown is none.

        Of a sample that comes twice, the later row counts.
        """
        known = np.ones(len(indices), dtype=np.bool_)
        for name in NEEDED:
            unknown = np.isnan(signals.of(name, values))
            known &= ~(unknown.any(axis=1) if unknown.ndim == 2 else unknown)
        if not known.all():
            indices, values = indices[known], values[known]
        rows = {name: signals.of(name, values) for name in NEEDED}
        margin = np.clip(rows["margin"], -MOST_MARGIN, MOST_MARGIN)
        before = self._visits_before(indices)
        self._average("probability", indices, np.clip(rows["probability"], 0, 1), before)
        self._average("summed_probability", indices, np.clip(rows["summed_probability"], 0, 1), before)
        self._average("margin", indices, margin, before)
        mean = self.mean_margin[indices].astype(np.float32)
        self.mean_margin[indices] = mean + (margin - mean) / (before + np.float32(1))
        self.last_probability[indices] = np.clip(rows["summed_probability"], 0, 1)
        self.last_margin[indices] = margin
        rival = np.column_stack([rows["other_probability"][:, :-1], rows["summed_other_probability"]])
        self.other_probability[indices] = np.rint(np.clip(rival, 0, 1) * STEPS)
        self.other_class = _written(self.other_class, indices, rows["other_class"])
        self.predicted_class = _written(self.predicted_class, indices, rows["predicted_class"][:, :-1])
        self.label = _written(self.label, indices, rows["label"])
        self.hits[indices] = self.hits[indices] + (margin > 0)
        self.visits[indices] = before + 1

    def _visits_before(self, indices: Int64) -> UInt8:
        """The visits of samples so far; where another would not be held, they and the hits are halved first."""
        full = indices[self.visits[indices] == MOST_VISITS]
        self.visits[full] = MOST_VISITS // 2
        self.hits[full] //= 2
        return self.visits[indices]

    def _average(self, name: str, indices: Int64, values: Float32, before: UInt8) -> None:
        """Fold values (k,) or (k, H) into a moving average that begins with the first of them."""
        column = getattr(self, name)
        old, rate = column[indices].astype(np.float32), np.where(before == 0, 1.0, RATE).astype(np.float32)
        if values.ndim == 2:
            rate = rate[:, None]
        column[indices] = old + rate * (values - old)

    def _columns(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def are_kept(signals: Signals) -> bool:
    """Whether a job of these signals has training dynamics: where all that they need is declared."""
    return all(name in signals for name in NEEDED)


def _class_type(values: Float32) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if values.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32


def _written(column: Classes, indices: Int64, classes: Float32) -> Classes:
    """The column with these classes in it, and room for each of them."""
    wide = np.promote_types(column.dtype, _class_type(classes))
    column = column.astype(wide, copy=False)
    column[indices] = classes
    return column
