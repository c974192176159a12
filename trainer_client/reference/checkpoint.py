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


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a state onto a device; nothing in the file is executed."""
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
