"""A training set with wrong labels, and a model that finds out the true classes by and by."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bss_service.core.arrays import Float32, Int64
from bss_service.protocol.validation import Confusion, ModalityReport, ValidationReport
from trainer_client import EVIDENCE, measure

CLASSES = 4
SAMPLES = 96
TRUTH = np.arange(SAMPLES) % CLASSES
WRONG = np.arange(SAMPLES) // CLASSES % 4 == 3  # a quarter, of each class as many
LABELS = np.where(WRONG, (TRUTH + 1) % CLASSES, TRUTH)
SIGNALS = [signal.name for signal in EVIDENCE]
_NOISE = np.random.default_rng(7).normal(size=(3, SAMPLES, CLASSES)).astype(np.float32)


def logits(indices: Int64, epoch: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of the two unimodal heads, (g, c) each, and of the joint one, (g, c)."""
    known = _NOISE[:, indices] + min(2.0 + epoch, 5.0) * np.eye(CLASSES, dtype=np.float32)[TRUTH[indices]]
    audio, video, joint = torch.from_numpy(known)
    return [audio, video], joint


def measured(indices: Int64, epoch: int) -> dict[str, Float32]:
    """All signals of evidence, (g,) or (g, 3)."""
    unimodal, joint = logits(indices, epoch)
    values = measure(unimodal, joint, torch.from_numpy(LABELS[indices]))
    return {name: tensor.numpy() for name, tensor in values.items()}


def report(step: int) -> ValidationReport:
    """A validation on clean samples by the model as it is then."""
    entries = [(label, predicted) for label in range(CLASSES) for predicted in range(CLASSES)]
    mass = [20.0 if label == predicted else 0.5 for label, predicted in entries]
    head = ModalityReport(accuracy=0.9, probability=0.8)
    return ValidationReport(
        step=step,
        loss=0.5,
        accuracy=0.95,
        modalities={"audio": head, "video": ModalityReport(accuracy=0.7, probability=0.6)},
        confusion=Confusion(
            label=np.array([label for label, _ in entries]),
            predicted=np.array([predicted for _, predicted in entries]),
            mass=np.array(mass, np.float32),
        ),
    )


def fields(**changes: Any) -> dict[str, Any]:
    """Those of a job over these samples, but for its name."""
    return {
        "samples": SAMPLES,
        "modalities": ["audio", "video"],
        "batch_size": 8,
        "signals": SIGNALS,
        "weighted": True,
        "policy": {"name": "evidence", "parameters": {"start": 2, "ramp": 1}},
        **changes,
    }


def share_right(indices: Sequence[int]) -> float:
    """How many of the samples are labelled rightly."""
    return float((~WRONG[list(indices)]).mean())
