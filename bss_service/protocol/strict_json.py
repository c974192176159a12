"""JSON without what parsers disagree on."""

import json
from typing import Any

import pydantic_core


def parse(data: bytes) -> Any:
    """What a JSON text in UTF-8 holds, nested at most 200 deep. Raises ValueError, also where a name comes twice."""
    value = pydantic_core.from_json(data)
    if data.count(b":") > 1:
        json.loads(data, object_pairs_hook=once)
    return value


def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its members, for json.loads. Raises ValueError where a name comes twice."""
    fields = dict(members)
    if len(fields) < len(members):
        names = [name for name, _ in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice[:100]!r} comes twice")
    return fields
