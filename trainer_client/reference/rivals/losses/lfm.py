"""LFM: modalities are first drawn to one another, and more and more to the labels."""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from trainer_client.reference.rivals.base import Heads, Rival


class Lfm(Rival):
    """Dynamic integration of contrastive and label-fitting losses, by the heuristic strategy.

    Yang, Wan, Jiang, Xu: *Facilitating Multimodal Classification via Dynamically Learning Modality Gap*, NeurIPS 2024.
    The loss is (1 − α_t)·ℓ + α_t·ℓ_CL, with α_t = 1 − e^{−1/t} in epoch t = 1, 2, …: 0.63, 0.39, 0.28, … ℓ_CL is the
    contrastive loss over the batch, symmetric, of cosines of embeddings by a temperature τ, the mean over pairs of
    modalities. The paper's other strategy, which learns α_t by a second-order step on validation samples, is not here.

    temperature: τ, 0.07. unimodal_weight: 0 in the paper.
    Not compared with the authors' code, which is of another method than their paper: it has no contrastive loss but
    ½·Σ_m KL(q ‖ p^m), p^m the unimodal softmaxes and q their mean, no heuristic but for α_t a polynomial of the epoch,
    fitted to 200 epochs of CREMA-D (0.80 at first, 3.3 in epoch 250), and for ℓ the cross-entropy of the mean of the
    unimodal logits; all of it counts twice. Where it learns α_t, that is by 8 training samples, and of the second-order
    gradient the mean over the first tensor of parameters alone reaches it. BalanceBenchmark learns it so too, from 0.05
    where the authors begin at 0.95.
    """

    paper: ClassVar[str] = (
        "Yang et al., Facilitating Multimodal Classification via Dynamically Learning Modality Gap, NeurIPS 2024"
    )
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"temperature": (0.02, 1.0)}

    temperature: float = Field(0.07, gt=0)

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        share = 1 - math.exp(-1 / (self.epoch + 1))
        units = [F.normalize(e.float(), dim=1) for e in heads.features]
        pairs = [(a, b) for k, a in enumerate(units) for b in units[k + 1 :]]
        contrast = torch.stack([contrastive(a, b, self.temperature) for a, b in pairs]).mean(0)
        return (1 - share) * super().loss(heads, labels) + share * contrast


def contrastive(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Of each pair of embeddings (g, d), which are to find each other among those of the batch, (g,)."""
    logits = first @ second.T / temperature
    return -(logits.log_softmax(0).diagonal() + logits.log_softmax(1).diagonal()) / 2
