"""PMR: the modality that lags is drawn towards prototypes of the classes."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals.base import Cost, Heads, Rival, mean_over_ranks


class Pmr(Rival):
    """Prototypical modal rebalance.

    Fan, Xu, Wang, Wang, Guo: *PMR: Prototypical Modal Rebalance for Multimodal Learning*, CVPR 2023. A modality's
    prototype c_k is the mean embedding of class k; p^m = softmax(−‖φ^m − c^m‖) over the classes, PCE^m its
    cross-entropy, ρ = Σ_i p_i^1(y) / Σ_i p_i^2(y). The loss is ℓ + α·(β·PCE^1 + γ·PCE^2) with
    β = clip(1/ρ − 1, 0, 1), γ = clip(ρ − 1, 0, 1), and in the first `regularised` epochs less
    μ·(γ·H(p^1) + β·H(p^2)): the entropy of the modality that leads, so that it converges later. Of more modalities
    each is weighed by how far the best is ahead of it. Prototypes are taken before each epoch from the first `share`
    of the training set, or as much more as it takes to have seen each class, and from the third epoch on averaged with
    the former ones, momentum ε: as released, those of an untrained network have no part in it.

    alpha: α, 1 as released. mu: μ. momentum: ε, 0.2 as released. share: 0.1 as released. ends: last epoch with it.
    unimodal_weight: 0 in the paper.
    form: "paper"; "code", as released: the modality behind has weight 1, however little it is behind, and there is
    no entropy; classes that the share lacks had prototypes of 0/0 there, which is not repeated here. The share is of
    shuffled samples there, of AVE all that are for validation. The clipped weights, the entropy, μ and `regularised`
    were not compared with the authors' code, which lacks them. BalanceBenchmark has the released form for two
    modalities, with α 0.6 and ε 0.5, and for more scales gradients as OGM does.
    """

    paper: ClassVar[str] = "Fan et al., PMR: Prototypical Modal Rebalance for Multimodal Learning, CVPR 2023"
    cost: ClassVar[Cost] = Cost.PASS
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (0.1, 5.0), "mu": (1e-3, 0.1)}

    alpha: float = Field(1.0, ge=0)
    mu: float = Field(0.01, ge=0)
    regularised: int = Field(10, ge=0)
    momentum: float = Field(0.2, ge=0, lt=1)
    share: float = Field(0.1, gt=0, le=1)
    ends: int = Field(100, ge=0)
    form: Literal["paper", "code"] = "paper"

    def on_epoch(self, loader: Passes) -> None:
        new = self._prototypes(loader)
        if self.epoch > 1 and "prototypes" in self.memory:
            new = (1 - self.momentum) * new + self.momentum * self.memory["prototypes"]
        self.memory["prototypes"] = new

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        losses = super().loss(heads, labels)
        if self.epoch > self.ends:
            return losses
        pairs = zip(heads.features, self.memory["prototypes"], strict=True)
        logs = [log_likeness(features.float(), prototypes) for features, prototypes in pairs]
        at_label = [log.gather(1, labels[:, None])[:, 0] for log in logs]
        scores = mean_over_ranks(torch.stack([log.detach().exp().mean() for log in at_label]))
        weights = lags(scores, self.form)
        for weight, log in zip(weights, at_label, strict=True):
            losses = losses - self.alpha * weight * log
        if self.form == "paper" and self.epoch < self.regularised:
            leader = logs[int(scores.argmax())]
            entropy = -(leader.exp() * leader).sum(1)
            losses = losses - self.mu * weights.max() * entropy
        return losses

    @torch.no_grad()
    def _prototypes(self, loader: Passes) -> Tensor:
        """(M, c, d)."""
        model = self.run.model
        was_training = model.training
        model.eval()
        sums: Tensor | None = None
        counts = torch.zeros(self.run.classes)
        seen = 0
        for _, inputs, labels in loader:
            features = torch.stack(model(inputs).features).float()
            sums = features.new_zeros(len(features), self.run.classes, features.shape[2]) if sums is None else sums
            sums.index_add_(1, labels, features)
            counts = counts.to(labels.device) + torch.bincount(labels, minlength=self.run.classes)
            seen += len(labels)
            if seen >= self.share * len(loader) and bool((counts > 0).all()):
                break
        model.train(was_training)
        assert sums is not None
        return sums / counts.clamp(min=1)[:, None]


def log_likeness(features: Tensor, prototypes: Tensor) -> Tensor:
    """log softmax(−distance), (g, c), of embeddings (g, d) and prototypes (c, d)."""
    return (-(features[:, None] - prototypes).square().sum(2).clamp(min=1e-12).sqrt()).log_softmax(1)


def lags(scores: Tensor, form: str) -> Tensor:
    """β and γ, (M,), from the mean probabilities of the label, (M,)."""
    if form == "code":
        return (scores < scores.max()).to(scores.dtype)
    return (scores.max() / scores.clamp(min=1e-12) - 1).clamp(0, 1)
