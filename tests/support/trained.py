"""Artefacts for tests: made up, or exported from stable-baselines3 models that were never trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bss_service.core.action import ACTION_SCHEMA_HASH, BEFORE_EVIDENCE
from bss_service.core.arrays import Float32
from bss_service.core.observation import FIELDS, SCHEMA_HASH
from bss_service.policies import artefact
from bss_service.policies.builtin.bandit import ARMS

WIDTH = len(BEFORE_EVIDENCE)  # which any job can act by
BOX = {"kind": "box", "dimension": WIDTH, "fields": list(BEFORE_EVIDENCE)}
DISCRETE = {"kind": "discrete", "names": list(ARMS)}


def manifest(distribution: str = "gaussian", hidden: Sequence[int] = (8,), **changes: Any) -> dict[str, Any]:
    """A manifest without its hash."""
    fields = {
        "format": artefact.FORMAT,
        "name": "made-up",
        "observation_schema": SCHEMA_HASH,
        "action_schema": ACTION_SCHEMA_HASH,
        "action": DISCRETE if distribution == "categorical" else BOX,
        "network": {"activation": "tanh", "hidden": list(hidden), "distribution": distribution},
        "normaliser": None,
        "training": {"command": "bss research train", "seeds": [0, 1]},
        "evaluation": {"return": 1.5},
    }
    return {**fields, **changes}


def tensors(fields: dict[str, Any], seed: int = 0) -> dict[str, Float32]:
    """Random numbers for a manifest."""
    rng = np.random.default_rng(seed)
    described = artefact._manifest(artefact.canonical({**fields, "sha256": "0" * 64}))
    drawn = {name: rng.normal(0, 0.3, shape) for name, shape in artefact.shapes(described).items()}
    return {name: (abs(t) if "variance" in name else t).astype(np.float32) for name, t in drawn.items()}


def made_up(distribution: str = "gaussian", hidden: Sequence[int] = (8,), seed: int = 0, **changes: Any) -> bytes:
    """A valid artefact."""
    fields = manifest(distribution, hidden, **changes)
    return artefact.write(fields, tensors(fields, seed))


def artefacts(*data: bytes) -> dict[str, artefact.Artefact]:
    """Artefacts by hash, as a job is given them; without bytes, a made-up one."""
    read = [artefact.read(d) for d in data or (made_up(),)]
    return {a.sha256: a for a in read}


def observations(count: int, seed: int = 0) -> Float32:
    """Random observations, (count, D)."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, len(FIELDS))).astype(np.float32)
