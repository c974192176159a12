"""Frames: a message's arrays and scalars as safetensors bytes.

They are written here, byte for byte as safetensors writes them, and read here where they are laid out so; it reads all
others, and says what is wrong with them. For the small arrays of a hot call its own way costs three times as much.
"""

import io
import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from json.encoder import encode_basestring, encode_basestring_ascii
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import pydantic_core
import safetensors
import safetensors.numpy

from bss_service.protocol import text

CONTENT_TYPE: Final = "application/vnd.bss.frame"
MAX_DEPTH: Final = 16  # of an array in its message
_as_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

# In the order in which safetensors writes arrays, so that the widest stand at addresses that fit them.
_CODES: Final = ("U64", "I64", "F64", "C64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8", "BOOL")
_NAMES: Final = ("u8", "i8", "f8", "c8", "f4", "u4", "i4", "f2", "u2", "i2", "i1", "u1", "?")
_DTYPES: Final = {code: np.dtype(f"<{name}") for code, name in zip(_CODES, _NAMES, strict=True)}
_RANKS: Final = {dtype: rank for rank, dtype in enumerate(_DTYPES.values())}
_BEGIN: Final = b'{"__metadata__":{"message":'
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_INNER: Final = (np.ndarray, dict, list)
_UNSURE: Final = frozenset({dict, list, float})
_MAX_AXES: Final = 8
_MAX_SIZE: Final = 2**40
_AT_ONCE: Final = 512  # items of a list that are written as JSON at a time
_PIECE: Final = 2**20  # bytes of arrays that are copied at a time
_KEPT: Final = 2**11  # bytes of a layout that is kept for the next frame with arrays of the same names and shapes


class FrameError(ValueError):
    """The bytes are not a frame."""


def encode(message: dict[str, Any]) -> bytes:
    """Pack nested dicts, lists, JSON scalars and arrays: arrays by dotted path, the rest as one JSON string."""
    arrays: dict[str, np.ndarray] = {}
    scalars = _without_arrays(message, None, arrays)
    specs = tuple((path, array.dtype, array.shape) for path, array in arrays.items())
    is_usual = sum(map(len, arrays)) <= _KEPT // 4
    paths, layout = (_layout if is_usual else _layout.__wrapped__)(specs)
    header = b"%s%s}%s}" % (_BEGIN, encode_basestring_ascii(_json_of(scalars)).encode(), layout)
    header += b" " * (-len(header) % 8)
    head = len(header).to_bytes(8, "little") + header
    packed = [arrays[path] for path in paths]
    if sum([array.nbytes for array in packed]) <= _PIECE:
        return b"".join([head, *[array.data for array in packed]])
    return _in_pieces(head, packed)


def _in_pieces(head: bytes, arrays: Sequence[np.ndarray]) -> bytes:
    """All in a row, copied a piece at a time: each call holds up all other threads until its end."""
    joined = io.BytesIO()
    joined.write(head)
    for array in arrays:
        octets = array.reshape(-1).view(np.uint8)
        for start in range(0, octets.size, _PIECE):
            joined.write(octets[start : start + _PIECE].data)
    return joined.getvalue()


def _json_of(message: dict[str, Any]) -> str:
    """A message's JSON, long lists of it a part at a time: each call holds up all other threads until its end."""
    if not any(type(value) is list and len(value) > _AT_ONCE for value in message.values()):
        return _as_json(message)
    return "{" + ",".join(f"{_as_json(name)}:{_json_of_member(value)}" for name, value in message.items()) + "}"


def _json_of_member(value: Any) -> str:
    if type(value) is not list:
        return _as_json(value)
    return "[" + ",".join(_as_json(value[at : at + _AT_ONCE])[1:-1] for at in range(0, len(value), _AT_ONCE)) + "]"


def decode(data: bytes) -> dict[str, Any]:
    """The inverse of `encode`. Raises FrameError."""
    plain = _unpack_plain(data)
    if plain is None:
        arrays, strings = unpack(data)
        plain = list(arrays.items()), strings.get("message", "{}")
    try:
        message = text.parse_json(plain[1].encode())
        if not isinstance(message, dict):
            raise ValueError(f"its message must be an object, got {type(message).__name__}")
        _check_finite(message)
        for path, array in plain[0]:
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


class _Tensor(NamedTuple):
    """Where an array stands in a frame."""

    path: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # bytes behind the header
    end: int


@lru_cache(maxsize=64)
def _layout(specs: Sequence[tuple[str, np.dtype, tuple[int, ...]]]) -> tuple[list[str], bytes]:
    """The paths of arrays in the order in which they are written, and what a header says of them."""
    header, paths, end = [], [], 0
    for path, dtype, shape in sorted(specs, key=lambda spec: (_rank(spec[1]), spec[0])):
        start, end = end, end + dtype.itemsize * prod(shape)
        told = f'"dtype":"{_CODES[_rank(dtype)]}","shape":{_as_json(shape)},"data_offsets":[{start},{end}]'
        header.append(f",{encode_basestring(path)}:{{{told}}}")
        paths.append(path)
    return paths, "".join(header).encode()


def _rank(dtype: np.dtype) -> int:
    try:
        return _RANKS[dtype]
    except KeyError:
        raise ValueError(f"a frame holds no array of {dtype}") from None


def _unpack_plain(data: bytes) -> tuple[list[tuple[str, np.ndarray]], str] | None:
    """Arrays and message of a frame that is laid out as `encode` does it; None for another, be it right or wrong."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data) or not data.startswith(_BEGIN, 8):
        return None
    message = _STRING.match(data, 8 + len(_BEGIN), start)
    if message is None:
        return None
    layout = data[message.end() : start].rstrip(b" ")
    tensors = (_tensors if len(layout) <= _KEPT else _tensors.__wrapped__)(layout)
    if tensors is None or start + (tensors[-1].end if tensors else 0) != len(data):
        return None
    try:
        told: str = pydantic_core.from_json(message[0])
    except ValueError:
        return None
    # Copied, so that each may be changed, stands at an address that fits it, and keeps no others in memory.
    return [(path, np.ndarray(shape, dtype, data, start + at).copy()) for path, dtype, shape, at, _ in tensors], told


@lru_cache(maxsize=64)
def _tensors(layout: bytes) -> list[_Tensor] | None:
    """The arrays of the end of a header, behind its message; None unless it is just as `encode` writes it.

    So no name comes twice, and each array begins where the one before ends and is as long as its shape says.
    """
    try:
        header = text.parse_json(b"{" + layout[2:]) if layout.startswith(b"},") else {}
        tensors = [_Tensor(*_told(path, **info)) for path, info in header.items()]
        _, again = _layout(tuple((tensor.path, tensor.dtype, tensor.shape) for tensor in tensors))
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return tensors if layout == b"}%s}" % again else None


def _told(path: str, dtype: str, shape: list[int], data_offsets: list[int]) -> tuple[Any, ...]:
    """What a header says of an array. Raises an error of any kind where it is none, or a strange one."""
    start, end = data_offsets
    if len(shape) > _MAX_AXES or not all(type(size) is int and 0 <= size <= _MAX_SIZE for size in shape):
        raise ValueError("is read by safetensors")
    return path, _DTYPES[dtype], tuple(shape), start, end


def _check_finite(value: Any) -> None:
    kind = type(value)
    if kind is dict or kind is list:
        for item in value.values() if kind is dict else value:
            if type(item) in _UNSURE:
                _check_finite(item)
    elif kind is float and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")


def _without_arrays(value: Any, path: str | None, arrays: dict[str, np.ndarray]) -> Any:
    """A copy of `value` with null where an array was; the arrays go into `arrays` by path."""
    if isinstance(value, np.ndarray):
        assert path is not None, "a message is an object"
        little = value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
        arrays[path] = little if little.flags.c_contiguous else np.asarray(little, order="C")
        return None
    if not isinstance(value, dict | list):
        return value
    dot = "" if path is None else f"{path}."
    if isinstance(value, dict):
        return {
            key: _without_arrays(item, f"{dot}{key}", arrays) if isinstance(item, _INNER) else item
            for key, item in value.items()
        }
    return [_without_arrays(item, f"{dot}{index}", arrays) for index, item in enumerate(value)]


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
