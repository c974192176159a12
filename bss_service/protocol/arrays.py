"""Arrays in messages: nested lists or NumPy arrays of one dtype, number of axes and range."""

from typing import Any, Final

import numpy as np
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

ROUNDING: Final = 1e-3  # a cosine or probability of half-precision training may exceed 1 by as much


class ArrayType:
    """Validates nested lists or NumPy arrays into an array of one dtype, number of axes and range.

    Infinite values are refused, and so is NaN unless `nan` allows it to mark what is not known.
    """

    def __init__(
        self,
        dtype: type[np.generic],
        axes: str,
        low: float | None = None,
        high: float | None = None,
        *,
        nan: bool = False,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.axes = axes
        self.nan = nan
        self.low = -np.inf if low is None else low
        self.high = np.inf if high is None else high

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(np.ndarray.tolist, when_used="json"),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        kind = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}[self.dtype.kind]
        nested: dict[str, Any] = {"type": kind}
        for _ in self.axes.split(","):
            nested = {"type": "array", "items": nested}
        return {**nested, "description": f"array of shape ({self.axes}), {self.dtype}"}

    def _validate(self, value: Any) -> np.ndarray:
        array = value if isinstance(value, np.ndarray) else self._of_list(value)
        if array.ndim != len(self.axes.split(",")):
            raise ValueError(f"must have shape ({self.axes}), got {array.shape}")
        if array.dtype.kind not in {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[self.dtype.kind] and array.size:
            raise ValueError(f"must hold {self.dtype} values, got {array.dtype}")
        if self.dtype.kind in "iu" and array.size:
            limits = np.iinfo(self.dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise ValueError(f"must hold {self.dtype} values, got {array.min()} to {array.max()}")
        with np.errstate(over="ignore"):  # an empty array may be of any dtype: it is made anew
            cast = array.astype(self.dtype, copy=False) if array.size else np.empty(array.shape, self.dtype)
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
        return cast

    def _of_list(self, value: Any) -> np.ndarray:
        if not isinstance(value, list):
            raise ValueError(f"must be an array of shape ({self.axes}), got {type(value).__name__}")
        if not _holds_numbers(value):
            raise ValueError(f"must hold {self.dtype} values, got something else")
        try:
            return np.array(value) if value else np.empty((0,) * len(self.axes.split(",")), self.dtype)
        except (ValueError, OverflowError):
            raise ValueError(f"must be an array of shape ({self.axes}), got rows of unequal length") from None


def _holds_numbers(value: list[Any]) -> bool:
    """Whether nested lists hold nothing but numbers and truth values: NumPy would make room for anything."""
    return all(_holds_numbers(item) if type(item) is list else type(item) in (int, float, bool) for item in value)


def similarities(axes: str) -> ArrayType:
    """Cosines between the heads' predictions."""
    return ArrayType(np.float32, axes, -1, 1)


def label_probabilities(axes: str) -> ArrayType:
    """Probabilities of the true label: the unimodal heads in the job's order, then the joint head."""
    return ArrayType(np.float32, axes, 0, 1)
