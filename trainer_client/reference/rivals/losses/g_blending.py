"""G-Blending: each head's loss is weighed by how much it generalises for how much it overfits."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainer_client.reference.model import LateFusion
from trainer_client.reference.passes import Batch, Passes
from trainer_client.reference.rivals.base import Cost, Heads, Rival, cross_entropies

LEAST = 1e-8


class GBlending(Rival):
    """Gradient blending, online.

    Wang, Tran, Feiszli: *What Makes Training Multi-Modal Classification Networks Hard?*, CVPR 2020, algorithms 1 and
    2. Before each super-epoch of n epochs every head, unimodal or joint, is trained by itself for n epochs from where
    the network stands. With L^T, L^V its training and validation loss before and after, G = L^V_before − L^V_after is
    what it generalises, O = (L^V_after − L^T_after) − (L^V_before − L^T_before) what it overfits, and
    w ∝ G/O², normalised to a sum of 1, weighs its cross-entropy. A head that does not generalise gets weight 0; where
    none does, all weigh the same.

    super_epoch: n, 10 in the paper, where 5 to 20 are about as good. unimodal_weight is not used.
    Not compared with the authors' code for the weights, of which they released none: theirs trains with weights that
    are given, and their lists of them sum to 1. That a head gets 0 where it does not generalise is of our own.
    BalanceBenchmark takes |G|, so that a head is weighed up for getting worse, tries the joint head on a modality with
    the others zero in place of a head of its own, takes for "before" what it measures after the first epoch, and sums
    losses over batches, so that a long training set makes O large.
    """

    paper: ClassVar[str] = "Wang et al., What Makes Training Multi-Modal Classification Networks Hard?, CVPR 2020"
    cost: ClassVar[Cost] = Cost.TRAINING
    one_process: ClassVar[str] = "each process would train copies of its own"
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"super_epoch": (2, 20)}

    super_epoch: int = Field(10, ge=1)

    def on_epoch(self, loader: Passes) -> None:
        if self.epoch % self.super_epoch == 0:
            heads = range(self.run.modalities + 1)
            tried = torch.tensor([self._tried(head, loader) for head in heads])
            self.memory["weights"] = blending(tried[:, 0], tried[:, 1]).tolist()

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        weights = self.memory["weights"]
        logits = (*heads.unimodal, heads.joint)
        return torch.stack([w * cross_entropies(z, labels) for w, z in zip(weights, logits, strict=True)]).sum(0)

    def _tried(self, head: int, loader: Passes) -> tuple[float, float]:
        """G and O of a head that is trained by itself; the joint one is the last."""
        model = self.run.fresh()
        model.load_state_dict(self.run.model.state_dict())
        optimiser = self.run.optimiser(model.parameters())
        training, validation = _loss(model, head, iter(loader)), _loss(model, head, loader.validation())
        model.train()
        for epoch in range(self.super_epoch):
            for _, inputs, labels in loader.shuffled(self.run.seed, self.epoch, epoch):
                optimiser.zero_grad(set_to_none=True)
                _losses(model, head, inputs, labels).mean().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        training_after, validation_after = _loss(model, head, iter(loader)), _loss(model, head, loader.validation())
        return validation - validation_after, (validation_after - training_after) - (validation - training)


def blending(gained: Tensor, overfitted: Tensor) -> Tensor:
    """w, (H,), from G and O, (H,) each."""
    weights = gained.clamp(min=0) / overfitted.square().clamp(min=LEAST)
    total = weights.sum()
    return weights / total if total > 0 else torch.full_like(weights, 1 / len(weights))


def _losses(model: LateFusion, head: int, inputs: list[Tensor], labels: Tensor) -> Tensor:
    outputs = model(inputs)
    return cross_entropies([*outputs.unimodal, outputs.joint][head], labels)


@torch.no_grad()
def _loss(model: LateFusion, head: int, batches: Iterator[Batch]) -> float:
    model.eval()
    return float(torch.cat([_losses(model, head, inputs, labels) for _, inputs, labels in batches]).mean())
