"""MMPareto: gradients of the joint and the unimodal loss are joined so that neither loss is hurt."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from trainer_client.reference.rivals.base import Cost, Heads, Rival, Weigh, cross_entropies, mean_over_ranks


class MmPareto(Rival):
    """Pareto integration of multimodal and unimodal gradients.

    Wei, Hu: *MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance*, ICML 2024, algorithm 1. For
    each encoder, g_J and g_U being its gradients of the joint and of its own cross-entropy: where cos(g_J, g_U) ≥ 0
    both count ½, else a·g_J + (1 − a)·g_U is the shortest vector between them, a = ⟨g_U − g_J, g_U⟩/‖g_J − g_U‖². The
    direction h = 2·(a·g_J + (1 − a)·g_U) is given the length of g_J + g_U where it is shorter, times γ. Heads follow
    the sum of all losses.

    gamma: γ, 1.5 as released, tuned from 1 to 2. unimodal_weight is not used: all losses count 1.
    form: "paper" takes lengths of an encoder's whole gradient; "code", as released, of each tensor by itself. The
    bounds of the released solver, 0.001 and 0.999, are for gradients that do not conflict, for which it is not asked.
    BalanceBenchmark adds up the gradients of all losses before it tells them apart: they never conflict there, and an
    encoder's becomes 2·γ times their sum. Nobody meant that, and it is no form here.
    """

    paper: ClassVar[str] = (
        "Wei and Hu, MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance, ICML 2024"
    )
    cost: ClassVar[Cost] = Cost.BACKWARD
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"gamma": (1.0, 2.0)}

    gamma: float = Field(1.5, gt=0)
    form: Literal["paper", "code"] = "paper"

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        return torch.stack([cross_entropies(z, labels) for z in (*heads.unimodal, heads.joint)]).sum(0)

    def step(self, heads: Heads, labels: Tensor, weigh: Weigh, optimiser: Optimizer) -> Tensor:
        joint = weigh(cross_entropies(heads.joint, labels))
        changed = []
        for encoder, logits in zip(self.run.model.encoders.values(), heads.unimodal, strict=True):
            parameters = [p for p in encoder.parameters() if p.requires_grad]
            own = weigh(cross_entropies(logits, labels))
            gradients = [_gradients(loss, parameters) for loss in (joint, own)]
            changed.append((parameters, self._integrated(*gradients)))
        loss = weigh(self.loss(heads, labels))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameters, integrated in changed:
            for parameter, gradient in zip(parameters, integrated, strict=True):
                parameter.grad = gradient
        optimiser.step()
        return loss.detach()

    def _integrated(self, joint: Sequence[Tensor], own: Sequence[Tensor]) -> list[Tensor]:
        share = share_of_first(_flat(joint), _flat(own))
        summed = [j + o for j, o in zip(joint, own, strict=True)]
        directions = [2 * (share * j + (1 - share) * o) for j, o in zip(joint, own, strict=True)]
        if self.form == "code":
            return [self.gamma * _lengthened(d, s.norm()) for d, s in zip(directions, summed, strict=True)]
        scale = _scale(_flat(directions).norm(), _flat(summed).norm())
        return [self.gamma * scale * d for d in directions]


def share_of_first(first: Tensor, second: Tensor) -> Tensor:
    """a, () in [0, 1], of two gradients (d,): ½ unless they conflict."""
    product = first @ second
    if product >= 0:
        return torch.full_like(product, 0.5)
    share: Tensor = (second @ second - product) / (first - second).square().sum()
    return share.clamp(0, 1)  # of rounding alone


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Those of one loss, which no hook of DistributedDataParallel averages over ranks."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return [mean_over_ranks(g) for g in gradients]


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def _lengthened(vector: Tensor, length: Tensor) -> Tensor:
    return _scale(vector.norm(), length) * vector


def _scale(length: Tensor, wanted: Tensor) -> Tensor:
    """What makes a vector as long as wanted, unless it is already longer; 1 for one of length 0."""
    return torch.where(length > 0, (wanted / length).clamp(min=1.0), torch.ones_like(length))
