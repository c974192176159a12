"""A model on a part of a data set: what is reported of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bss_service.core.arrays import Int64
from trainer_client.logits.confusion import ConfusionMeter
from trainer_client.logits.measurement import measure
from trainer_client.reference.data import Data
from trainer_client.reference.model import LateFusion

Logits = Literal["joint", "sum", "unimodal"]
"""Which predict: those of the joint head, the sum of all heads', or that of the unimodal heads' alone."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss and accuracies on one split."""

    loss: float  # mean of the training loss
    accuracy: float  # of the logits that predict
    modalities: Mapping[str, tuple[float, float]]  # accuracy and mean true-label probability of each unimodal head


@torch.no_grad()
def evaluate(
    model: LateFusion,
    dataset: Data,
    indices: Int64,
    device: torch.device,
    unimodal_weight: float,
    confusion: ConfusionMeter | None = None,
    logits: Logits = "joint",
) -> Evaluation:
    """Evaluate the samples `indices` (k,) in evaluation mode; `confusion` takes them in.

    logits: which of them the accuracy is of.
    """
    measured, correct = _measured(model, dataset, indices, device, unimodal_weight, confusion, logits)
    accuracies = correct.float().mean(dim=0).tolist()
    probabilities = measured["probability"].mean(dim=0).tolist()
    names = list(dataset.modalities)
    return Evaluation(
        loss=float(measured["loss"].mean()),
        accuracy=accuracies[-1],
        modalities={name: (accuracies[k], min(1.0, probabilities[k])) for k, name in enumerate(names)},
    )


@torch.no_grad()
def measuring_pass(
    model: LateFusion, dataset: Data, indices: Int64, device: torch.device, unimodal_weight: float
) -> dict[str, Tensor]:
    """Measure the samples `indices` (k,) in evaluation mode, so that batch statistics don't move."""
    return _measured(model, dataset, indices, device, unimodal_weight)[0]


def predicting(unimodal: Sequence[Tensor], joint: Tensor, logits: Logits) -> Tensor:
    """The logits (g, c) that predict, of M unimodal ones (g, c) and the joint ones (g, c)."""
    parts = {"joint": [joint], "sum": [*unimodal, joint], "unimodal": [*unimodal]}[logits]
    return torch.stack(parts).sum(0)


def to_device(dataset: Data, indices: Int64, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """The inputs, one tensor (k, …) a modality, and the labels (k,) of samples."""
    return [x.to(device) for x in dataset.inputs(indices)], torch.from_numpy(dataset.labels[indices]).to(device)


def _measured(
    model: LateFusion,
    dataset: Data,
    indices: Int64,
    device: torch.device,
    unimodal_weight: float,
    confusion: ConfusionMeter | None = None,
    logits: Logits = "joint",
) -> tuple[dict[str, Tensor], Tensor]:
    """Measurements of the samples, and which heads are right on each, (k, M + 1)."""
    was_training = model.training
    model.eval()
    parts, correct = [], []
    for part in np.array_split(indices, range(dataset.at_once, len(indices), dataset.at_once)):
        inputs, labels = to_device(dataset, part, device)
        unimodal, joint, _ = model(inputs)
        parts.append(measure(unimodal, joint, labels, unimodal_weight=unimodal_weight))
        if confusion is not None:
            confusion.add(unimodal, joint, labels)
        heads = [*unimodal, predicting(unimodal, joint, logits)]
        correct.append(torch.stack(heads, dim=1).argmax(dim=2) == labels[:, None])
    model.train(was_training)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, torch.cat(correct)
