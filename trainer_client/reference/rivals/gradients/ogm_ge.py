"""OGM-GE: the encoder of the modality that leads learns more slowly, and noise is added to gradients."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainer_client.reference.model import LateFusion
from trainer_client.reference.rivals.base import Heads, Rival, label_probabilities, mean_over_ranks, modality_logits


class OgmGe(Rival):
    """On-the-fly gradient modulation with generalisation enhancement.

    Peng, Wei, Deng, Wang, Hu: *Balanced Multimodal Learning via On-the-fly Gradient Modulation*, CVPR 2022. With
    s_i^m = softmax(W^m·φ_i^m + b/M) at the label, the share that modality m has in the joint logits,
    ρ^m = Σ_i s_i^m / Σ_i s_i^j and, eq. (10), k^m = 1 − tanh(α·ρ^m) where ρ^m > 1, else 1: the gradient g of the
    encoder becomes k^m·g + h, h ~ N(0, σ²), σ the deviation of g within its tensor. The paper has two modalities; of
    more, the denominator is here the mean over the others. Without such shares (FiLM, gated) unimodal heads stand in.

    alpha: α, a data set's own: the authors recommend 0.1 for VGGSound and 0.8 for CREMA-D. noise: whether h is added
    (OGM without). starts, ends: first and last epoch with modulation, 0 and 50 as released. unimodal_weight: 0 in the
    paper.
    form: "paper" modulates all of an encoder; "code", as released, its kernels with four dimensions alone, so that
    nothing happens to MLPs, embeddings and 1-D CNNs. Of two modalities that say the same, the released code holds audio
    back; here neither is.
    """

    paper: ClassVar[str] = "Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022"
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (0.05, 1.0)}

    alpha: float = Field(0.3, gt=0)
    noise: bool = True
    starts: int = Field(0, ge=0)
    ends: int = Field(50, ge=0)
    form: Literal["paper", "code"] = "paper"

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        with torch.no_grad():
            scores = [label_probabilities(z, labels).mean() for z in modality_logits(self.run, heads)]
            self.memory["coefficients"] = coefficients(mean_over_ranks(torch.stack(scores)), self.alpha)
        return super().loss(heads, labels)

    def after_backward(self, model: LateFusion) -> None:
        step = self.memory["steps"] = self.memory.get("steps", 0) + 1
        if not self.starts <= self.epoch <= self.ends:
            return
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + step)
        for k, encoder in zip(self.memory["coefficients"], model.encoders.values(), strict=True):
            for parameter in encoder.parameters():
                if parameter.grad is not None and (self.form == "paper" or parameter.ndim == 4):
                    parameter.grad = k * parameter.grad + self._noise(parameter.grad, generator)

    def _noise(self, gradient: Tensor, generator: torch.Generator) -> Any:
        if not self.noise or gradient.numel() < 2:
            return 0.0
        normal = torch.randn(gradient.shape, generator=generator).to(gradient.device, gradient.dtype)
        return normal * (gradient.std() + 1e-8)


def coefficients(scores: Tensor, alpha: float) -> Tensor:
    """k (M,) of eq. (10), from the mean probability of the label by each modality, (M,)."""
    others = (scores.sum() - scores) / (len(scores) - 1)
    ratios = scores / others
    return torch.where(ratios > 1, 1 - torch.tanh(alpha * ratios), torch.ones_like(ratios))
