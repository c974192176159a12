"""AGM: the gradient through a modality's part is scaled by how far it is ahead of where it was on average."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor

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

MOST_OF_TWO: Final = 10.0  # of the exponent's difference, as released
MOST: Final = 7.0  # of more modalities


class Agm(Rival):
    """Adaptive gradient modulation.

    Li, Li, Hu, Lei, Li, Zhou: *Boosting Multi-modal Model Performance with Adaptive Gradient Modulation*, ICCV 2023.
    φ^m is the Shapley value of modality m's part in the joint logits, absent modalities being zeros; for two it is
    ½·(φ(a, v) − φ(0, v) + φ(a, 0)). With s^m the mean cross-entropy of φ^m,
    r^m = exp(1/(M − 1)·Σ_{j≠m}(s^j − s^m)) says how far m leads, τ^m is the same of the running means of all s before,
    and the gradient through φ^m, that of encoder m and of what the joint head makes of it, is scaled by
    κ^m = exp(α·min(τ^m − r^m, 10)), 7 in place of 10 for more than two.
    Here the zeros stand for embeddings, not for inputs, so that no encoder runs twice: in late fusion the two differ
    by what an encoder makes of a zero input. The unimodal heads of this trainer's loss are scaled with φ^m.

    alpha: α, 1 by default as released, 2.5 in the authors' example for AV-MNIST. starts, ends: first and last epoch
    with modulation, as released. unimodal_weight: 0 in the paper.
    As released, so one form, but for one thing: the authors clip gradients to a norm of 1 where one of the joint head's
    is beyond ±1. BalanceBenchmark has the sign of r and τ the other way round, which slows the modality that lags.
    """

    paper: ClassVar[str] = (
        "Li et al., Boosting Multi-modal Model Performance with Adaptive Gradient Modulation, ICCV 2023"
    )
    cost: ClassVar[Cost] = Cost.HEADS
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (0.05, 3.0)}

    alpha: float = Field(1.0, gt=0)
    starts: int = Field(0, ge=0)
    ends: int = Field(19, ge=0)

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        parts = self._parts(heads)
        scores = self._scores(parts, labels)
        before = self.memory.get("scores", torch.zeros_like(scores))
        steps = self.memory.get("steps", 0)
        scales = self.memory["coefficients"] = coefficients(scores, before, self.alpha)
        self.memory["scores"] = (before * steps + scores) / (steps + 1)
        self.memory["steps"] = steps + 1
        if self.starts <= self.epoch <= self.ends:
            unimodal = [_scaled(z, scale) for z, scale in zip(heads.unimodal, scales, strict=True)]
            joint = torch.stack([_scaled(z, scale) for z, scale in zip(parts, scales, strict=True)]).sum(0)
            heads = replace(heads, unimodal=unimodal, joint=joint)
        return super().loss(heads, labels)

    def _parts(self, heads: Heads) -> list[Tensor]:
        """φ, M tensors (g, c), of which the joint logits are the sum."""
        modalities = len(heads.features)
        values = {s: with_modalities(self.run, heads, s).float() for s in subsets_of(modalities)}
        return shapley(values, modalities)

    @torch.no_grad()
    def _scores(self, parts: Sequence[Tensor], labels: Tensor) -> Tensor:
        """s (M,)."""
        most = -math.log(1e-8)
        scores = [cross_entropies(part, labels).clamp(max=most).mean() for part in parts]
        return mean_over_ranks(torch.stack(scores))


def coefficients(scores: Tensor, before: Tensor, alpha: float) -> Tensor:
    """κ (M,) from s and the running mean of those before, (M,) each."""
    modalities = len(scores)
    lead, usual = (torch.exp((s.sum() - modalities * s) / (modalities - 1)) for s in (scores, before))
    return torch.exp(alpha * (usual - lead).clamp(max=MOST_OF_TWO if modalities == 2 else MOST))


def _scaled(logits: Tensor, scale: Tensor) -> Tensor:
    """The same logits, whose gradient is scaled."""
    value = logits.detach()
    return value + scale * (logits - value)
