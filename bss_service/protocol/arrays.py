"""Arrays in messages: nested lists or NumPy arrays of one dtype, number of axes and range."""

import math
from typing import Any

import numpy as np
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from bss_service.core.signals import ROUNDING


class ArrayType:
    """Validates nested lists or NumPy arrays into an array of one dtype, number of axes and range.

    Infinite values are refused, and so is NaN (null in lists) unless `nan` allows it to mark what is not known.
    per_head: another axis may follow, with one value a head.
    """

    def __init__(
        self,
        dtype: type[np.generic],
        axes: str,
        low: float | None = None,
        high: float | None = None,
        *,
        nan: bool = False,
        per_head: bool = False,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.axes = axes
        self.nan = nan
        self.low = -np.inf if low is None else low
        self.high = np.inf if high is None else high
        self.ndims = (len(axes.split(",")), len(axes.split(",")) + per_head)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validated,
            serialization=core_schema.plain_serializer_function_ser_schema(np.ndarray.tolist, when_used="json"),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        kind = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}[self.dtype.kind]
        nested: dict[str, Any] = {"type": [kind, "null"] if self.nan else kind}
        if self.ndims[0] < self.ndims[1]:
            nested = {"anyOf": [nested, {"type": "array", "items": nested}]}
        for _ in self.axes.split(","):
            nested = {"type": "array", "items": nested}
        return {**nested, "description": f"array of shape ({self.axes}), {self.dtype}"}

    def validated(self, value: Any) -> np.ndarray:
        """The value as an array; raises ValueError saying what is wrong with it, and where."""
        array = value if isinstance(value, np.ndarray) else self._of_list(value)
        if array.ndim not in self.ndims:
            raise ValueError(f"must have shape ({self.axes}), got {array.shape}")
        cast = array if array.dtype == self.dtype else self._cast(array)
        if cast.size and not _lie_within(cast, self.low, self.high):
            self._check(array, cast)
        return cast

    def _cast(self, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind not in {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[self.dtype.kind] and array.size:
            raise ValueError(f"must hold {self.dtype} values, got {array.dtype}")
        if self.dtype.kind in "iu" and array.size:
            limits = np.iinfo(self.dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise ValueError(f"must hold {self.dtype} values, got {array.min()} to {array.max()}")
        with np.errstate(over="ignore"):  # an empty array may be of any dtype: it is made anew
            return array.astype(self.dtype) if array.size else np.empty(array.shape, self.dtype)

    def _check(self, array: np.ndarray, cast: np.ndarray) -> None:
        """Raises ValueError where one of the values is wrong."""
        bad = ~np.isfinite(cast) & ~(self.nan & np.isnan(cast))
        if bad.any():
            where = np.argwhere(bad)[0]
            raise ValueError(f"must hold finite values, got {array[tuple(where)]} at {where.tolist()}")
        outside = (cast < self.low - ROUNDING) | (cast > self.high + ROUNDING)
        if outside.any():
            where = np.argwhere(outside)[0]
            raise ValueError(
                f"must lie in [{self.low:g}, {self.high:g}], got {array[tuple(where)]} at {where.tolist()}"
            )

    def _of_list(self, value: Any) -> np.ndarray:
        if not isinstance(value, list):
            raise ValueError(f"must be an array of shape ({self.axes}), got {type(value).__name__}")
        kinds = _kinds(value)
        if _NaN in kinds and self.nan:
            raise ValueError("must hold finite values, or null for what is not known, got nan")
        kinds = {float if kind is _NaN else kind for kind in kinds}
        if not kinds <= {int, float, bool} | ({type(None)} if self.nan else set()):
            raise ValueError(f"must hold {self.dtype} values, got something else")
        try:
            if type(None) in kinds and bool not in kinds:
                return np.array(value, dtype=np.float64)  # null becomes NaN
            return np.array(value) if value else np.empty((0,) * self.ndims[0], self.dtype)
        except (ValueError, OverflowError, TypeError):
            raise ValueError(f"must be an array of shape ({self.axes}), got rows of unequal length") from None


class _NaN:
    """The type of a number in a list that is none: JSON has no NaN."""


def _kinds(value: list[Any]) -> set[type]:
    """The types in nested lists. All are looked at: NumPy would make room for anything."""
    return {kind for item in value for kind in (_kinds(item) if type(item) is list else (_kind(item),))}


def _kind(item: Any) -> type:
    return _NaN if item != item and type(item) is float else type(item)


def bounds(values: np.ndarray) -> tuple[Any, Any]:
    """The least and the greatest of at least one value, as numbers of Python; of values with NaN both are NaN."""
    if values.size == 1:
        only = values.item()
        return only, only
    return np.minimum.reduce(values, axis=None).item(), np.maximum.reduce(values, axis=None).item()


def _lie_within(values: np.ndarray, low: float, high: float) -> bool:
    """Whether all values, at least one, are finite and lie in [low, high]."""
    least, greatest = bounds(values)
    return bool(low <= least and greatest <= high and -math.inf < least and greatest < math.inf)
