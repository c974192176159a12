"""What a training step's logits tell of its samples, measured on the device that holds them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bss_service.core import measurement as formulas


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of the samples of one batch, still on its device; g samples, M modalities."""

    similarity: Tensor  # (g,) float32 in [0, 1]
    loss: Tensor  # (g,) float32
    probabilities: Tensor  # (g, M + 1) float32, of the true label: unimodal heads in order, then the joint head


@torch.no_grad()
def measure(
    unimodal_logits: Sequence[Tensor],
    joint_logits: Tensor,
    labels: Tensor,
    *,
    unimodal_weight: float = 0.5,
    joint_weight: float | None = None,
) -> Measurement:
    """Similarity, loss and true-label probabilities of a batch, from the logits that training has computed anyway.

    unimodal_logits: M ≥ 2 tensors (g, c), in the order of the job's modalities; joint_logits: (g, c); labels: (g,)
    int64. The weights are those of the training loss: by default ℓ = (1 − λ)·CE_joint + λ·Σ_j CE_j with
    λ = unimodal_weight. The formulas are those of `bss_service.core.measurement`. No forward pass, no wait for the
    device.
    """
    if len(unimodal_logits) < 2:
        raise ValueError(f"unimodal_logits must hold at least 2 tensors, got {len(unimodal_logits)}")
    unimodal, joint = _log_probabilities(unimodal_logits, joint_logits)
    loss = _loss(unimodal, joint, labels, unimodal_weight, joint_weight)
    heads = torch.cat([unimodal, joint.unsqueeze(0)])
    return Measurement(
        similarity=formulas.similarity(unimodal.exp(), torch),
        loss=loss,
        probabilities=formulas.true_label(heads, labels, torch).exp().T,
    )


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
    unimodal = torch.stack([logits.float() for logits in unimodal_logits])
    return formulas.log_softmax(unimodal, torch), formulas.log_softmax(joint_logits.float(), torch)


def _loss(
    unimodal: Tensor, joint: Tensor, labels: Tensor, unimodal_weight: float, joint_weight: float | None
) -> Tensor:
    loss: Tensor = formulas.multimodal_loss(
        joint,
        unimodal,
        labels,
        torch,
        joint_weight=1 - unimodal_weight if joint_weight is None else joint_weight,
        unimodal_weight=unimodal_weight,
    )
    return loss
