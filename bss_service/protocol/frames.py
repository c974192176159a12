"""Frames: a message's arrays and scalars as safetensors bytes."""

import json
import math
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from bss_service.protocol import text

CONTENT_TYPE: Final = "application/vnd.bss.frame"
MAX_DEPTH: Final = 16  # of an array in its message
_as_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class FrameError(ValueError):
    """The bytes are not a frame."""


def encode(message: dict[str, Any]) -> bytes:
    """Pack nested dicts, lists, JSON scalars and arrays: arrays by dotted path, the rest as one JSON string."""
    arrays: dict[str, np.ndarray] = {}
    scalars = _without_arrays(message, None, arrays)
    specs = {path: _tensor(array) for path, array in arrays.items()}
    return bytes(safetensors.serialize(specs, {"message": _as_json(scalars)}))


def decode(data: bytes) -> dict[str, Any]:
    """The inverse of `encode`. Raises FrameError."""
    arrays, strings = unpack(data)
    try:
        message = text.parse_json(strings.get("message", "{}").encode())
        if not isinstance(message, dict):
            raise ValueError(f"its message must be an object, got {type(message).__name__}")
        _check_finite(message)
        for path, array in arrays.items():
            _place(message, path, array)
    except ValueError as error:
        raise FrameError(f"body is not a frame: {error}") from None
    return message


class Parts(NamedTuple):
    """What JSON is about to cost: counted by its signs, so at least what is there, for a thousandth of parsing it."""

    size: int  # bytes
    values: int
    arrays: int


def parts(data: bytes) -> Parts:
    """Of the header of a frame, and of the message in it; an array of the frame has two in the header."""
    size = min(len(data), int.from_bytes(data[:8], "little"))  # as safetensors begins
    return Parts(size, *values(data, 8, 8 + size)[1:])


def values(document: bytes, start: int = 0, end: int | None = None) -> Parts:
    """Of a part of a JSON document."""
    arrays = document.count(b"[", start, end)
    return Parts(len(document), 1 + arrays + sum(document.count(sign, start, end) for sign in (b",", b"{")), arrays)


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the string map of safetensors bytes. Raises FrameError."""
    try:
        arrays = safetensors.numpy.load(data)  # checks lengths, offsets and dtypes before anything is read
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except KeyError as error:
        raise FrameError(f"body is not a frame: NumPy has no dtype for {error}") from None
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise FrameError(f"body is not a frame: {error}") from None
    return arrays, header.get("__metadata__") or {}


def _tensor(array: np.ndarray) -> safetensors.TensorSpec:
    """An array as safetensors takes it. Its own `numpy.save` asks for each dtype's name: that costs the rest twice.

    The array must live until it is written.
    """
    address = array.__array_interface__["data"][0]
    return safetensors.TensorSpec(dtype=_name(array.dtype), shape=array.shape, data_ptr=address, data_len=array.nbytes)


@cache
def _name(dtype: np.dtype) -> str:
    return dtype.name


def _check_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_finite(item)


def _without_arrays(value: Any, path: str | None, arrays: dict[str, np.ndarray]) -> Any:
    """A copy of `value` with null where an array was; the arrays go into `arrays` by path."""
    if isinstance(value, np.ndarray):
        assert path is not None, "a message is an object"
        little = value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
        arrays[path] = np.asarray(little, order="C")  # ascontiguousarray adds an axis to a single number
        return None
    dot = "" if path is None else f"{path}."
    if isinstance(value, dict):
        return {key: _without_arrays(item, f"{dot}{key}", arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_arrays(item, f"{dot}{index}", arrays) for index, item in enumerate(value)]
    return value


def _place(message: Any, path: str, array: np.ndarray) -> None:
    """Put an array at its dotted path; a missing object on the way is made, anything else in the way is an error."""
    *parents, last = path.split(".", MAX_DEPTH)
    if "." in last:
        raise ValueError(f"{path[:100]!r} is nested more than {MAX_DEPTH} deep")
    for key in parents:
        if isinstance(message, list) and key.isdecimal() and int(key) < len(message):
            message = message[int(key)]
        elif isinstance(message, dict):
            if message.get(key) is None:
                message[key] = {}
            message = message[key]
        else:
            raise ValueError(f"nothing in its message holds {path!r}")
    if not isinstance(message, dict):
        raise ValueError(f"nothing in its message holds {path!r}")
    message[last] = array
