"""AGM: each encoder's gradient is scaled by how far its modality is ahead of where it was on average."""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainer_client.reference.model import LateFusion
from trainer_client.reference.rivals.base import (
    Cost,
    Heads,
    Rival,
    cross_entropies,
    mean_over_ranks,
    shapley,
    subsets_of,
    with_modalities,
)

MOST: float = 10.0  # of the exponent's difference, as released


class Agm(Rival):
    """Adaptive gradient modulation.

    Li, Li, Hu, Lei, Li, Zhou: *Boosting Multi-modal Model Performance with Adaptive Gradient Modulation*, ICCV 2023.
    φ^m is the Shapley value of modality m's part in the joint logits, absent modalities being zeros; for two it is
    ½·(φ(a, v) − φ(0, v) + φ(a, 0)). With s^m the mean cross-entropy of φ^m,
    r^m = exp(1/(M − 1)·Σ_{j≠m}(s^j − s^m)) says how far m leads, τ^m is the same of the running means of all s before,
    and the gradient of encoder m is scaled by κ^m = exp(α·min(τ^m − r^m, 10)).
    Here the zeros stand for embeddings, not for inputs, so that no encoder runs twice: in late fusion the two differ
    by what an encoder makes of a zero input.

    alpha: α, tuned a data set in the paper, 0.1 to 2. starts, ends: epochs with modulation. unimodal_weight: 0 in
    the paper. As released, so one form; BalanceBenchmark has the sign of r and τ the other way round, which slows
    the modality that lags.
    """

    paper: ClassVar[str] = (
        "Li et al., Boosting Multi-modal Model Performance with Adaptive Gradient Modulation, ICCV 2023"
    )
    cost: ClassVar[Cost] = Cost.HEADS
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (0.05, 2.0)}

    alpha: float = Field(0.5, gt=0)
    starts: int = Field(0, ge=0)
    ends: int = Field(80, ge=0)

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        with torch.no_grad():
            scores = self._scores(heads, labels)
        before = self.memory.get("scores", torch.zeros_like(scores))
        steps = self.memory.get("steps", 0)
        self.memory["coefficients"] = coefficients(scores, before, self.alpha)
        self.memory["scores"] = (before * steps + scores) / (steps + 1)
        self.memory["steps"] = steps + 1
        return super().loss(heads, labels)

    def after_backward(self, model: LateFusion) -> None:
        if not self.starts <= self.epoch <= self.ends:
            return
        for k, encoder in zip(self.memory["coefficients"], model.encoders.values(), strict=True):
            for parameter in encoder.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(k)

    def _scores(self, heads: Heads, labels: Tensor) -> Tensor:
        """s (M,)."""
        modalities = len(heads.features)
        values = {s: with_modalities(self.run, heads, s).float() for s in subsets_of(modalities)}
        parts = shapley(values, modalities)
        most = -math.log(1e-8)
        scores = [cross_entropies(part, labels).clamp(max=most).mean() for part in parts]
        return mean_over_ranks(torch.stack(scores))


def coefficients(scores: Tensor, before: Tensor, alpha: float) -> Tensor:
    """κ (M,) from s and the running mean of those before, (M,) each."""
    modalities = len(scores)
    lead, usual = (torch.exp((s.sum() - modalities * s) / (modalities - 1)) for s in (scores, before))
    return torch.exp(alpha * (usual - lead).clamp(max=MOST))
