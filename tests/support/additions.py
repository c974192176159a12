"""What a newer service might add to its answers."""

from typing import Any, Final

import numpy as np

ADDED: Final = "added_later"
# Fields whose members have names of others: of modalities, parameters, jobs and signals. A service adds nothing there.
_OF_HEADS: Final = {"modalities", "predicted", "wrong_modality"}
_FREE: Final = {
    "parameters",
    "detail",
    "unreadable",
    "origins",
    "heard",
    "training",
    "evaluation",
    "properties",
    *_OF_HEADS,
}
_BY_NAME: Final = {"signals"}  # values, or declarations in a list


def with_additions(value: Any, *, arrays: bool = False, name: str = "") -> Any:
    """A message with a field more in each object of it, and an array more where `arrays` can travel."""
    if isinstance(value, list):
        return [with_additions(item, arrays=arrays) for item in value]
    if not isinstance(value, dict) or name in _FREE | _BY_NAME:
        return value
    more = {name: with_additions(item, arrays=arrays, name=name) for name, item in value.items()}
    more[ADDED] = {"words": ["of", {"later": 1}]}
    if arrays:
        more[f"{ADDED}_array"] = np.zeros((2, 3), np.float32)
    return more
