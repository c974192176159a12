"""UMT: encoders are drawn to what teachers, each trained on one modality alone, make of a sample."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainer_client.reference.model import LateFusion
from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals.base import Cost, Heads, Rival, cross_entropies


class Umt(Rival):
    """Uni-modal teachers.

    Du, Teng, Li, Liu, Yuan, Wang, Yuan, Zhao: *On Uni-Modal Feature Learning in Supervised Multi-Modal Learning*, ICML
    2023. For each modality a teacher of the same kind is first trained alone, by its own cross-entropy, for
    `teacher_epochs`; then the loss is ℓ + λ·Σ_m mean((φ^m − t^m)²), t^m the teacher's embedding of the sample, over its
    dimensions. Teachers stay as they are, in evaluation mode. What they make of each training sample is kept,
    4·n·M·d bytes, since inputs are not augmented here.

    scale: λ, 10 as in BalanceBenchmark, to be tuned from 1 to 100. teacher_epochs: as many as the run has, where it is
    0. unimodal_weight: 0 in the paper.
    Not compared with the authors' code, of which none was found; the loss is that of BalanceBenchmark.
    """

    paper: ClassVar[str] = "Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML 2023"
    cost: ClassVar[Cost] = Cost.TRAINING
    one_process: ClassVar[str] = "each process would train teachers of its own"
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"scale": (1.0, 100.0)}

    scale: float = Field(10.0, ge=0)
    teacher_epochs: int = Field(0, ge=0)

    def on_epoch(self, loader: Passes) -> None:
        if "embeddings" not in self.memory:
            self.memory["embeddings"] = self._embeddings(self._taught(loader), loader)

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        assert heads.batch is not None
        losses = super().loss(heads, labels)
        samples = torch.from_numpy(heads.batch.indices.copy()).to(losses.device)
        for features, teacher in zip(heads.features, self.memory["embeddings"], strict=True):
            losses = losses + self.scale * (features.float() - teacher[samples]).square().mean(1)
        return losses

    def _taught(self, loader: Passes) -> LateFusion:
        """Teachers of all modalities: encoders of one network, which have no loss in common."""
        model = self.run.fresh()
        optimiser = self.run.optimiser(model.parameters())
        model.train()
        for epoch in range(self.teacher_epochs or self.run.epochs):
            for _, inputs, labels in loader.shuffled(self.run.seed, epoch):
                optimiser.zero_grad(set_to_none=True)
                losses = [cross_entropies(logits, labels).mean() for logits in model(inputs).unimodal]
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return model

    @torch.no_grad()
    def _embeddings(self, model: LateFusion, loader: Passes) -> Tensor:
        """(M, n, d)."""
        model.eval()
        return torch.cat([torch.stack(model(inputs).features).float() for _, inputs, _ in loader], dim=1)
