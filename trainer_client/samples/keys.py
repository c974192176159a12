"""Internal: keys of samples, in as many messages as they need."""

import json
from collections.abc import Iterator, Sequence
from typing import Final

from bss_service.protocol.samples import MAX_KEYS

MOST: Final = 2**17  # bytes of a message, as JSON has it


def in_messages(keys: Sequence[str]) -> Iterator[list[str]]:
    """The keys in their order, in parts that the service takes at once."""
    part: list[str] = []
    size = 0
    for key in keys:
        length = len(json.dumps(key))
        if part and (len(part) == MAX_KEYS or size + length > MOST):
            yield part
            part, size = [], 0
        part.append(key)
        size += length
    if part:
        yield part
