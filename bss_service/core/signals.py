"""Signals: the numbers that a trainer measures of a sample, each declared once, and where they lie in an array."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from bss_service.core.arrays import Bool, Float32, Floats

A = TypeVar("A", bound=Any)
NAME: Final = r"[a-z][a-z0-9_]{0,49}"
RESERVED: Final = ("checksum", "indices", "step", "values")  # what messages call other things that stand beside signals
_MOST: Final = float(np.finfo(np.float32).max)
ROUNDING: Final = 1e-3  # a cosine or probability of half-precision training may leave its range by as much


@dataclass(frozen=True, slots=True)
class Signal:
    """A number that is measured of each sample, or one of each of the job's heads.

    low, high: its range, both ends included; None: unbounded. per_head: one for each unimodal head in the job's order,
    and one for the joint head. whole: only whole numbers, such as that of a class. kept: the sample table keeps the
    latest value. averaged: it keeps besides a moving average of the values min-max normalised among those measured
    together.

    Raises ValueError naming what is wrong with a declaration.
    """

    name: str
    meaning: str
    low: float | None = None
    high: float | None = None
    per_head: bool = False
    averaged: bool = False
    whole: bool = False
    kept: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(NAME, self.name) or self.name in RESERVED:
            raise ValueError(f"name must match {NAME} and be none of {', '.join(RESERVED)}, got {self.name!r}")
        if not isinstance(self.meaning, str) or not 0 < len(self.meaning) <= 200:
            raise ValueError(f"meaning of {self.name} must be a text of 1 to 200 characters, got {self.meaning!r}")
        for end in ("low", "high"):
            value = getattr(self, end)
            if value is not None and (type(value) not in (int, float) or not abs(value) <= _MOST):
                raise ValueError(f"{end} of {self.name} must be a number within float32 or null, got {value!r}")
            object.__setattr__(self, end, None if value is None else float(value))
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low of {self.name} must be less than high = {self.high:g}, got {self.low:g}")
        for flag in ("per_head", "averaged", "whole", "kept"):
            if type(getattr(self, flag)) is not bool:
                raise ValueError(f"{flag} of {self.name} must be true or false, got {getattr(self, flag)!r}")
        if self.averaged and not self.kept:
            raise ValueError(f"kept of {self.name} must be true where averaged is, got false")

    def check(self, values: Floats) -> None:
        """Raises ValueError where a value is infinite or outside the range; NaN, for unknown, is inside any."""
        low, high = (-np.inf if self.low is None else self.low), (np.inf if self.high is None else self.high)
        infinite = np.isinf(values)
        if infinite.any():
            raise ValueError(f"{self.name} must hold finite values, got {_first(values, infinite)}")
        outside = (values < low - ROUNDING) | (values > high + ROUNDING)
        if outside.any():
            raise ValueError(f"{self.name} must lie in [{low:g}, {high:g}], got {_first(values, outside)}")
        if self.whole and (broken := np.rint(values) != values)[~np.isnan(values)].any():
            raise ValueError(f"{self.name} must hold whole numbers, got {_first(values, broken & ~np.isnan(values))}")


SIMILARITY: Final = Signal("similarity", "mean cosine between the unimodal heads' predictions", -1, 1, averaged=True)
LOSS: Final = Signal("loss", "training loss", averaged=True)
PROBABILITY: Final = Signal("probability", "probability of the true label", 0, 1, per_head=True)
PAPER: Final = (SIMILARITY, LOSS, PROBABILITY)  # those of BSS: what a job sends that declares nothing

# What tells how far a label is to be trusted. Of it the table keeps training dynamics (core/samples/dynamics.py), not
# the latest value. "Summed": by the softmax of the sum of all heads' logits. Classes' numbers are exact in float32.
_LAST_CLASS: Final = 2**24 - 1
SUMMED_PROBABILITY: Final = Signal("summed_probability", "summed, of the true label", 0, 1, kept=False)
MARGIN: Final = Signal("margin", "summed logit of the true label − the highest of another", kept=False)
OTHER_CLASS: Final = Signal(
    "other_class", "likeliest class other than the label, summed", 0, _LAST_CLASS, whole=True, kept=False
)
OTHER_PROBABILITY: Final = Signal(
    "other_probability", "probability of that other class", 0, 1, per_head=True, kept=False
)
SUMMED_OTHER: Final = Signal("summed_other_probability", "summed, of that other class", 0, 1, kept=False)
PREDICTED_CLASS: Final = Signal(
    "predicted_class", "likeliest class", 0, _LAST_CLASS, per_head=True, whole=True, kept=False
)
LABEL: Final = Signal("label", "the class that the sample is labelled with", 0, _LAST_CLASS, whole=True, kept=False)
DYNAMICS: Final = (
    SUMMED_PROBABILITY,
    MARGIN,
    OTHER_CLASS,
    OTHER_PROBABILITY,
    SUMMED_OTHER,
    PREDICTED_CLASS,
    LABEL,
)
EVIDENCE: Final = (*PAPER, *DYNAMICS)  # what a job sends whose samples are to have an evidence
BUILT_IN: Final[Mapping[str, Signal]] = {signal.name: signal for signal in EVIDENCE}


class Signals:
    """The signals of a job, in order, and the columns of each in an array (…, S) of measurements."""

    def __init__(self, declared: Sequence[Signal], heads: int) -> None:
        """heads: H, how many columns a signal of each head has."""
        self.heads = heads
        self._declared = {signal.name: signal for signal in declared}
        self._columns: dict[str, slice] = {}
        self.width = 0  # S
        for signal in declared:
            start, self.width = self.width, self.width + (heads if signal.per_head else 1)
            self._columns[signal.name] = slice(start, self.width)
        columns = [signal for signal in declared for _ in range(heads if signal.per_head else 1)]
        self._lows = np.array([-_MOST if s.low is None else s.low for s in columns], dtype=np.float32)
        self._highs = np.array([_MOST if s.high is None else s.high for s in columns], dtype=np.float32)
        self._whole: Bool = np.array([s.whole for s in columns], dtype=np.bool_)
        self._any_whole = bool(self._whole.any())

    def __iter__(self) -> Iterator[Signal]:
        return iter(self._declared.values())

    def __contains__(self, name: str) -> bool:
        return name in self._declared

    def __getitem__(self, name: str) -> Signal:
        return self._declared[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one sample's values of a signal: () or (H,)."""
        return (self.heads,) if self._declared[name].per_head else ()

    def of(self, name: str, values: A) -> A:
        """A signal's part of measurements (…, S), an array or a tensor: (…) or (…, H), not copied."""
        columns = self._columns[name]
        part: A = values[..., columns if self._declared[name].per_head else columns.start]
        return part

    def joined(self, arrays: Mapping[str, Floats], shape: tuple[int, ...]) -> Float32:
        """Measurements (*shape, S) of arrays by signal; NaN where a signal has none.

        Raises ValueError naming the signal that is not declared, or whose array has another shape.
        """
        values = np.empty((*shape, self.width), dtype=np.float32)
        if len(arrays) < len(self._declared):
            values.fill(np.nan)
        for name, array in arrays.items():
            self.check_shape(name, array.shape, shape)
            self.of(name, values)[...] = array
        return values

    def check_shape(self, name: str, got: Sequence[int], shape: tuple[int, ...]) -> None:
        """Raises ValueError for a signal that is not declared, or for values of another shape than (*shape[, H])."""
        if name not in self:
            raise ValueError(f"{name} is not a signal of this job, which declares {', '.join(self._declared)}")
        expected = (*shape, *self.shape(name))
        if tuple(got) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {tuple(got)}")

    def check(self, values: Floats) -> None:
        """Raises ValueError naming the signal of which a value, of those (…, S), is infinite or outside its range."""
        if not self._are_plain(values):
            for signal in self:
                signal.check(self.of(signal.name, values))

    def _are_plain(self, values: Floats) -> bool:
        """Whether all values, (…, S), are there and none can be wrong, asked of all signals at once."""
        rows = values.reshape(-1, self.width)
        if not len(rows):
            return False
        least, greatest = np.minimum.reduce(rows, axis=0), np.maximum.reduce(rows, axis=0)
        inside = (least >= self._lows).all() and (greatest <= self._highs).all()  # of NaN it is false
        if not inside or not self._any_whole:
            return bool(inside)
        whole = rows[:, self._whole]
        return bool((np.rint(whole) == whole).all())


def _first(values: Floats, wrong: np.ndarray) -> str:
    where = np.argwhere(wrong)[0]
    return f"{values[tuple(where)]} at {where.tolist()}"
