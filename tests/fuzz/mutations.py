"""Wrong bytes from right ones: frames and JSON documents changed where a reader may trip."""

import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

ODD: Final[Sequence[Any]] = (
    *(None, True, False, 0, 1, -1, 7, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30),
    *(0.0, -0.0, 0.5, -1.5, 1e-320, 1e39, 1e308, float("nan"), float("inf"), -float("inf"), -(2**63), -(2**63) - 1),
    *("", "a", "0", "uniform", "joint", "\0", "\ud800", "\U0001f4a5", "ß" * 300, "a.b", ".", "F32", "1e3", "null"),
    *([], [[]], {}, {"": {}}, {"a": None}, [None], [0, 0], [1, [2]], [True], ["x"], [0.5], [2**63], [1e308, "nan"]),
)
DTYPES: Final = ("BOOL", "U8", "I8", "U16", "I16", "F16", "BF16", "U32", "I32", "F32", "U64", "I64", "F64")
OTHER_DTYPES: Final = ("F8_E4M3", "F8_E5M2", "C64", "F4", "f32", "", 5, None)
NUMBERS: Final = tuple(
    [struct.pack("<f", v) for v in (float("nan"), float("inf"), -float("inf"), 1e-45, 3e38, -3e38, 1.001, -1.1)]
    + [struct.pack("<d", v) for v in (float("nan"), float("inf"), 1e308, -1e308)]
    + [struct.pack("<q", v) for v in (-1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)]
)
DEEP: Final = "@deep@"  # stands for brackets that no JSON writer would nest so deep
DEPTHS: Final = (5, 50, 300, 2000, 100_000)
Change = Callable[[Random, bytes], bytes]


def mutated(rng: Random, data: bytes, others: Sequence[bytes], changes: Sequence[Change]) -> bytes:
    """Bytes with one to three changes, or those of two together."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(changes)(rng, data)
    if rng.random() < 0.03:
        other = rng.choice(others)
        data = rng.choice((data + other, data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]))
    return data


# Bytes.


def flipped(rng: Random, data: bytes) -> bytes:
    """A few bytes replaced."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        changed[rng.randrange(len(data))] = rng.choice((0, 255, 0x22, 0x2C, 0x5B, 0x7B, 0x7D, rng.randrange(256)))
    return bytes(changed)


def cut(rng: Random, data: bytes) -> bytes:
    """The end, the beginning or a part in the middle left out, or a part said twice."""
    start, stop = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return rng.choice((data[:start], data[start:], data[:start] + data[stop:], data[:stop] + data[start:]))


def renumbered(rng: Random, data: bytes) -> bytes:
    """A number among the array bytes, or anywhere, replaced by one that is no number, or too large."""
    number = rng.choice(NUMBERS)
    least = _header_end(data) or 0
    if least + len(number) > len(data):
        return data
    place = rng.randrange(least, len(data) - len(number) + 1) // len(number) * len(number)
    return data[:place] + number + data[place + len(number) :]


# JSON.


def rewritten(rng: Random, data: bytes) -> bytes:
    """A JSON document with a value, a key or an item changed."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return flipped(rng, data)
    return written(rng, changed_tree(rng, document))


def written(rng: Random, document: Any) -> bytes:
    """JSON as a lax writer has it: NaN, keys said twice, nesting without end."""
    text = json.dumps(document, separators=(",", ":"))
    if DEEP in text:
        depth = rng.choice(DEPTHS)
        text = text.replace(f'"{DEEP}"', rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "0" + "}" * depth)))
    if rng.random() < 0.05 and isinstance(document, dict) and document:
        key = rng.choice(list(document))
        text = f"{{{json.dumps(key)}:{json.dumps(rng.choice(ODD))},{text[1:]}"
    return text.encode()


def changed_tree(rng: Random, tree: Any) -> Any:
    """The document with one node changed; nodes near the root as often as all below them."""
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        key = rng.choice(list(tree))
        return _changed_entry(rng, tree, key) if rng.random() < 0.2 else {**tree, key: changed_tree(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        k = rng.randrange(len(tree))
        return rng.choice(
            (
                [*tree[:k], changed_tree(rng, tree[k]), *tree[k + 1 :]],
                [*tree[:k], *tree[k + 1 :]],
                [*tree, tree[k]],
                tree * rng.choice((2, 20)) if len(tree) < 20 else tree,
            )
        )
    if isinstance(tree, int | float) and not isinstance(tree, bool) and rng.random() < 0.4:
        return rng.choice((tree + 1, tree - 1, -tree, tree * 2, tree * 1.0, str(tree), [tree]))
    return DEEP if rng.random() < 0.02 else rng.choice(ODD)


def _changed_entry(rng: Random, tree: dict[str, Any], key: str) -> dict[str, Any]:
    without = {k: v for k, v in tree.items() if k != key}
    other = rng.choice(
        (key + "x", "", key.upper(), f"{key}.{key}", "0", "\ud800", "__metadata__", rng.choice(list(tree)))
    )
    return rng.choice((without, {**without, other: tree[key]}, {**tree, other: rng.choice(ODD)}))


# Frames.


def rewritten_message(rng: Random, data: bytes) -> bytes:
    """A frame whose JSON message is changed."""
    header = _header(data)
    strings = header.get("__metadata__") if header else None
    if not isinstance(strings, dict) or not strings:
        return flipped(rng, data)
    key = rng.choice(list(strings))
    text = strings[key] if isinstance(strings[key], str) else "{}"
    return _frame(rng, {**header, "__metadata__": {**strings, key: _text(rewritten(rng, _bytes(text)))}}, data)


def rewritten_header(rng: Random, data: bytes) -> bytes:
    """A frame whose header is changed anywhere."""
    header = _header(data)
    return _frame(rng, changed_tree(rng, header), data) if header else flipped(rng, data)


def retyped(rng: Random, data: bytes) -> bytes:
    """A frame one of whose arrays has another dtype, shape or place, with as many bytes as it says or not."""
    header = _header(data)
    arrays = {k: v for k, v in header.items() if k != "__metadata__" and isinstance(v, dict)} if header else {}
    if not arrays:
        return flipped(rng, data)
    name, array = rng.choice(list(arrays.items()))
    field = rng.choice(("dtype", "shape", "data_offsets", "name"))
    if field == "name":
        other = rng.choice(
            (name + ".0", name + ".x", "." + name, name + ".", "a..b", "0", "", rng.choice(list(arrays)))
        )
        return _frame(rng, {**{k: v for k, v in header.items() if k != name}, other: array}, data)
    old = array.get(field)
    if field == "dtype":
        new: Any = rng.choice((rng.choice(DTYPES), rng.choice(OTHER_DTYPES)))
    elif field == "shape":
        shape = old if isinstance(old, list) else []
        huge = [rng.choice((0, 1, 3, 2**31, 2**62, 2**63, 2**64)) for _ in range(rng.choice((1, 2, 3, 40)))]
        new = rng.choice((shape[::-1], [*shape, 1], [1, *shape], shape[1:], [0, *shape], [*shape, 0], huge, [0, *huge]))
    else:
        start, stop = rng.choice((0, 4, -1, len(data), 2**63)), rng.choice((0, 4, len(data), len(data) - 8, 2**64))
        new = rng.choice(([start, stop], [stop, start], [0], [0, 4, 8]))
    return _frame(rng, {**header, name: {**array, field: new}}, data)


def prefixed(rng: Random, data: bytes) -> bytes:
    """A frame that tells another length of its header."""
    length = int.from_bytes(data[:8], "little")
    other = rng.choice(
        (0, 1, length - 1, length + 1, length + 8, len(data), len(data) - 8, 2**31, 2**40, 2**63, 2**64 - 1)
    )
    return (other % 2**64).to_bytes(8, "little") + data[8:]


OF_BYTES: Final[Sequence[Change]] = (flipped, cut)
OF_JSON: Final[Sequence[Change]] = (*OF_BYTES, rewritten, rewritten, rewritten, rewritten)
OF_FRAMES: Final[Sequence[Change]] = (
    *OF_BYTES,
    renumbered,
    prefixed,
    rewritten_header,
    *(retyped, retyped),
    *(rewritten_message, rewritten_message, rewritten_message),
)


def _header_end(data: bytes) -> int | None:
    end = 8 + int.from_bytes(data[:8], "little")
    return end if end <= len(data) else None


def _header(data: bytes) -> dict[str, Any]:
    """The header of what may still be a frame; empty where it can't be read."""
    end = _header_end(data)
    try:
        header = json.loads(data[8:end]) if end is not None else None
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _frame(rng: Random, header: Any, data: bytes) -> bytes:
    """The frame with another header, in front of the same array bytes."""
    text = written(rng, header)
    return len(text).to_bytes(8, "little") + text + data[_header_end(data) :]


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
