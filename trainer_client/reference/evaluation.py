"""A model on a part of a data set: what is reported of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bss_service.core.arrays import Int64
from trainer_client.logits.confusion import ConfusionMeter
from trainer_client.logits.measurement import measure
from trainer_client.reference.data import Dataset
from trainer_client.reference.model import LateFusion

BATCH = 512


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss and accuracies on one split."""

    loss: float  # mean of the training loss
    accuracy: float  # of the joint head
    modalities: Mapping[str, tuple[float, float]]  # accuracy and mean true-label probability of each unimodal head


@torch.no_grad()
def evaluate(
    model: LateFusion,
    dataset: Dataset,
    indices: Int64,
    device: torch.device,
    unimodal_weight: float,
    confusion: ConfusionMeter | None = None,
) -> Evaluation:
    """Evaluate the samples `indices` (k,) in evaluation mode; `confusion` takes them in."""
    measured, correct = _measured(model, dataset, indices, device, unimodal_weight, confusion)
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
    model: LateFusion, dataset: Dataset, indices: Int64, device: torch.device, unimodal_weight: float
) -> dict[str, Tensor]:
    """Measure the samples `indices` (k,) in evaluation mode, so that batch statistics don't move."""
    return _measured(model, dataset, indices, device, unimodal_weight)[0]


def to_device(dataset: Dataset, indices: Int64, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """The inputs, one tensor (k, …) a modality, and the labels (k,) of samples."""
    arrays = [torch.from_numpy(array[indices]) for array in dataset.modalities.values()]
    return [a.to(device) for a in arrays], torch.from_numpy(dataset.labels[indices]).to(device)


def _measured(
    model: LateFusion,
    dataset: Dataset,
    indices: Int64,
    device: torch.device,
    unimodal_weight: float,
    confusion: ConfusionMeter | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Measurements of the samples, and which heads are right on each, (k, M + 1)."""
    was_training = model.training
    model.eval()
    parts, correct = [], []
    for part in np.array_split(indices, range(BATCH, len(indices), BATCH)):
        inputs, labels = to_device(dataset, part, device)
        unimodal, joint, _ = model(inputs)
        parts.append(measure(unimodal, joint, labels, unimodal_weight=unimodal_weight))
        if confusion is not None:
            confusion.add(unimodal, joint, labels)
        correct.append(torch.stack([*unimodal, joint], dim=1).argmax(dim=2) == labels[:, None])
    model.train(was_training)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, torch.cat(correct)
