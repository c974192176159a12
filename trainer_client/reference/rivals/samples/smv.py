"""SMV: a modality that adds little for a sample is trained more on that sample, alone."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals.base import (
    Cost,
    Heads,
    Rival,
    cross_entropies,
    shapley,
    subsets_of,
    with_modalities,
)


class Smv(Rival):
    """Sample-level modality valuation, with re-sampling.

    Wei, Feng, Wang, Hu: *Enhancing Multimodal Cooperation via Sample-level Modality Valuation*, CVPR 2024. What a
    subset S of modalities is worth for a sample is |S| if the joint head is right with the others' embeddings zero,
    else 0; φ_i^m is modality m's Shapley value, for two from −½ to 1½. From epoch `warm_up` on, before each epoch,
    each sample is taken again 2·(1 − φ_i^m) times, rounded and at least 0, with modality m alone: once for ½, twice
    for 0, three times for −½, as released.

    The authors append these copies to the epoch. Here the scheduler chooses the samples, so that copies are losses
    beside the sample's own in the same step: the sum over an epoch is the same, the number of steps is not, and
    encoders run once for all of a sample's copies.

    warm_up: 5 epochs as released. unimodal_weight: 0 in the paper. The paper's modality-level form is not here.
    As released for two modalities, but for the steps; of more, the authors have no code.
    """

    paper: ClassVar[str] = "Wei et al., Enhancing Multimodal Cooperation via Sample-level Modality Valuation, CVPR 2024"
    cost: ClassVar[Cost] = Cost.PASS
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"strength": (0.25, 2.0)}

    warm_up: int = Field(5, ge=0)
    strength: float = Field(1.0, gt=0)  # of the copies' losses; 1 in the paper

    def on_epoch(self, loader: Passes) -> None:
        if self.epoch >= self.warm_up:
            self.memory["copies"] = self._copies(loader)

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        losses = super().loss(heads, labels)
        if "copies" not in self.memory:
            return losses
        assert heads.batch is not None
        copies = self.memory["copies"][torch.from_numpy(heads.batch.indices.copy()).to(losses.device)]
        for k in range(len(heads.features)):
            alone = cross_entropies(with_modalities(self.run, heads, [k]), labels)
            losses = losses + self.strength * copies[:, k] * alone
        return losses

    @torch.no_grad()
    def _copies(self, loader: Passes) -> Tensor:
        """How often each sample is taken again with each modality, (n, M)."""
        model = self.run.model
        was_training = model.training
        model.eval()
        values = []
        for _, inputs, labels in loader:
            heads = Heads(*model(inputs))
            values.append(valuation(self.run.modalities, heads, labels, self))
        model.train(was_training)
        return (2 * (1 - torch.cat(values))).round().clamp(min=0)


def valuation(modalities: int, heads: Heads, labels: Tensor, rival: Rival) -> Tensor:
    """φ (g, M) of samples."""
    worth = {
        subset: len(subset) * (with_modalities(rival.run, heads, subset).argmax(1) == labels).float()
        for subset in subsets_of(modalities)
    }
    return torch.stack(shapley(worth, modalities), dim=1)
