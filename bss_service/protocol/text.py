"""Text of strangers: JSON without what parsers disagree on, and what of it may reach a terminal or a spreadsheet."""

import json
import re
from typing import Any, Final

import pydantic_core

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"(\s*+:)?')  # with the colon behind a name
SHORT: Final = 2**12  # bytes; a text of so many is written again faster than its names are counted
_FORMULA: Final = re.compile(r"\s*[=+\-@＝＋－＠]")  # what a spreadsheet takes for one, also behind a space


def parse_json(data: bytes) -> Any:
    """What a JSON text in UTF-8 holds, nested at most 200 deep. Raises ValueError, also where a name comes twice."""
    value = pydantic_core.from_json(data)
    if len(data) <= SHORT and pydantic_core.to_json(value) == data:  # then nothing of it was dropped
        return value
    if data.count(b":") > 1 and sum(1 for string in _STRING.finditer(data) if string[1]) != _names(value):
        json.loads(data, object_pairs_hook=once)  # to name it: over megabytes of numbers it would hold up all others
    return value


def _names(value: Any) -> int:
    """How many names the objects in a JSON value have."""
    if type(value) is dict:
        return len(value) + sum(_names(member) for member in value.values() if type(member) in (dict, list))
    return sum(_names(item) for item in value if type(item) in (dict, list)) if type(value) is list else 0


def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its members, for json.loads. Raises ValueError where a name comes twice."""
    fields = dict(members)
    if len(fields) < len(members):
        names = [name for name, _ in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice[:100]!r} comes twice")
    return fields


def printable(text: str, keep: str = "") -> str:
    """The text with all that moves a cursor, turns the reading direction or has no shape of its own as escapes.

    These are what Unicode calls other and separators (C0, C1, DEL, bidi controls, zero-width characters …), but for the
    space. keep: characters that stay nevertheless.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def printable_json(document: str) -> str:
    """A JSON text on one line that says the same without such characters: they stand in its strings alone."""
    if document.isprintable():
        return document
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] if c != "\x7f" else "\\u007f" for c in document)


def cell(text: str) -> str:
    """A text as a cell of a CSV file: printable, and with an apostrophe before what a spreadsheet would compute."""
    shown = printable(text)
    return f"'{shown}" if _FORMULA.match(text) else shown
