"""What a training step's logits tell of its samples, measured on the device that holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from bss_service.core import measurement as formulas

# What was measured of the g samples of a batch: by signal a tensor or array (g,), or (g, H) with one value a head.
Measurement = Mapping[str, Tensor | NDArray[Any]]


@torch.no_grad()
def measure(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
) -> dict[str, Tensor]:
    """The built-in signals of a batch by name, from the logits that training has computed anyway.

    unimodal_logits: tensors (g, c), one of each modality in the job's order, or none where there are no unimodal heads;
    joint_logits: (g, c); labels: (g,) int64. The weights are those of the training loss: by default
    ℓ = (1 − λ)·CE_joint + λ·Σ_j CE_j with λ = unimodal_weight, and CE_joint without unimodal heads.

    Returns `loss` (g,), `probability` (g, H) of the true label by each unimodal head in order and the joint head, and
    with two unimodal heads or more `similarity` (g,). The formulas are those of `bss_service.core.measurement`. No
    forward pass, no wait for the device.
    """
    unimodal, joint = _log_probabilities(unimodal_logits, joint_logits)
    heads = torch.cat([unimodal, joint.unsqueeze(0)])
    measured = {
        "loss": _loss(unimodal, joint, labels, unimodal_weight, joint_weight),
        "probability": formulas.true_label(heads, labels, torch).exp().T,
    }
    if len(unimodal) > 1:
        measured["similarity"] = formulas.similarity(unimodal.exp(), torch)
    return measured


def multimodal_loss(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
) -> Tensor:
    """The training loss of each sample, (g,), to be averaged and differentiated; arguments as for `measure`."""
    unimodal, joint = _log_probabilities(unimodal_logits, joint_logits)
    return _loss(unimodal, joint, labels, unimodal_weight, joint_weight)


def _log_probabilities(unimodal_logits: Sequence[Tensor], joint_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(M, g, c) and (g, c), in single precision whatever the model computes in."""
    heads = torch.stack([*unimodal_logits, joint_logits]).float()
    logs = formulas.log_softmax(heads, torch)
    return logs[:-1], logs[-1]


def _loss(
    unimodal: Tensor, joint: Tensor, labels: Tensor, unimodal_weight: float, joint_weight: float | None
) -> Tensor:
    if joint_weight is None:
        joint_weight = 1 - unimodal_weight if len(unimodal) else 1.0
    loss: Tensor = formulas.multimodal_loss(
        joint, unimodal, labels, torch, joint_weight=joint_weight, unimodal_weight=unimodal_weight
    )
    return loss
