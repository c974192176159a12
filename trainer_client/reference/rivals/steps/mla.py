"""MLA: modalities are trained in turn, through one head that does not forget the one before."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_client.reference.fusion import Fusion
from trainer_client.reference.rivals.base import Cost, Heads, Rival, Run, Weigh, cross_entropies, mean_over_ranks


class Mla(Rival):
    """Multimodal learning with alternating unimodal adaptation.

    Zhang, Yoon, Bansal, Yao: *Multimodal Representation Learning by Alternating Unimodal Adaptation*, CVPR 2024. All
    modalities share one linear head. In a step each modality in turn has an update of its encoder and the head, by its
    own cross-entropy. The head's gradient G (c, d) becomes G·P: P begins as the identity and is made blind to what
    embeddings were on average, P ← P − (P·h̄)(P·h̄)ᵀ/(α_t + h̄ᵀ·P·h̄), h̄ (d,) the mean of the modality that was just
    trained, α_t = 0.1^(1 + share of the epoch that is over). The joint prediction is the sum of the modalities' logits
    with weights e^{−H_m} normalised, H_m the entropy of what modality m says of the sample.

    form: "paper"; "code", as written by the authors: h̄ is of the modality that is being trained, P is divided by its
    Frobenius norm after each change, the denominator is the matrix α_t + (P·h̄)·h̄ᵀ, entry by entry, where a number was
    meant, and the gradient becomes G·Pᵀ, P being no longer symmetric.
    As released none of this runs: the parameter to project is looked for by the name "module.weight", which is not that
    of the head, so that figures made with that code are of alternation alone; a very large alpha gives that here, in
    form "paper". Predictions are plain means there unless told otherwise, and then entropies are over the batch instead
    of the classes, one weight for all samples of it. BalanceBenchmark adds G·Pᵀ to G instead of replacing it.
    """

    paper: ClassVar[str] = (
        "Zhang et al., Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024"
    )
    cost: ClassVar[Cost] = Cost.PLAIN
    one_process: ClassVar[str] = (
        "DistributedDataParallel averages the gradients of one backward pass a forward pass, here there are M"
    )
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (0.01, 1.0)}

    alpha: float = Field(1.0, gt=0)  # times 0.1^(1 + share of the epoch)
    form: Literal["paper", "code"] = "paper"

    def start(self, run: Run) -> None:
        super().start(run)
        share_head(run)
        run.model.joint = ByCertainty()

    def step(self, heads: Heads, labels: Tensor, weigh: Weigh, optimiser: Optimizer) -> Tensor:
        shared = next(iter(self.run.model.heads.values()))
        assert isinstance(shared, nn.Linear)
        total = torch.zeros((), device=labels.device)
        for features in heads.features:
            loss = weigh(cross_entropies(shared(features), labels))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._project(shared, mean_over_ranks(features.detach().float().mean(0)), heads)
            optimiser.step()
            total = total + loss.detach()
        return total

    def _project(self, head: nn.Linear, mean: Tensor, heads: Heads) -> None:
        projection = self.memory.setdefault("projection", torch.eye(len(mean), device=mean.device))
        updates = self.memory["updates"] = self.memory.get("updates", 0) + 1
        after = blinded(projection, mean, self._alpha(heads), self.form)
        if self.form == "code" and updates > 1:
            self.memory["projection"] = projection = after
        elif self.form == "paper":
            self.memory["projection"] = after
        if head.weight.grad is not None:
            head.weight.grad = head.weight.grad @ projection.T.to(head.weight.grad.dtype)  # symmetric in form "paper"

    def _alpha(self, heads: Heads) -> float:
        if heads.batch is None:
            return float(self.alpha * 0.1)
        steps = max(1, self.run.samples // max(1, len(heads.batch.indices)))
        return float(self.alpha * 0.1 ** (1 + (heads.batch.step % steps) / steps))


class ByCertainty(Fusion):
    """The unimodal logits, weighed for each sample by e^{−entropy} of what each says."""

    def forward(self, embeddings: Sequence[Tensor], unimodal: Sequence[Tensor]) -> Tensor:
        logits = torch.stack([*unimodal])
        logs = logits.float().log_softmax(2)
        weights = (logs.exp() * logs).sum(2).softmax(0)
        return (weights[:, :, None] * logits).sum(0)


def blinded(projection: Tensor, mean: Tensor, alpha: float, form: str) -> Tensor:
    """P (d, d) after an embedding h̄ (d,)."""
    seen = projection @ mean
    if form == "paper":
        return projection - torch.outer(seen, seen) / (alpha + mean @ seen)
    after = projection - torch.outer(seen, seen) / (alpha + torch.outer(seen, mean))
    blind: Tensor = after / after.norm()
    return blind


def share_head(run: Run) -> None:
    """One linear head for all modalities, its weights those of the first one."""
    model = run.model
    first = next(iter(model.heads.values()))
    assert isinstance(first, nn.Linear)
    model.heads = nn.ModuleDict(dict.fromkeys(model.heads, first))
