"""Checkpoint files: tensors, numbers and strings only, written all or not at all."""

import os
from pathlib import Path
from typing import Any

import torch


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state; an interruption leaves the file that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, temporary)
    temporary.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state; nothing in the file is executed.

    It is read onto the CPU: `load_state_dict` moves what must move, and Adam's step counts must not.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
