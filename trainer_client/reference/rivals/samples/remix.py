"""Data Remixing: each sample trains only the modality that is least sure of it."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals.base import Cost, Heads, Rival, Weigh, cross_entropies, with_modalities


class Remix(Rival):
    """Data remixing: samples are assigned to modalities, and batches hold samples of one modality.

    Ma, Chen, Deng: *Improving Multimodal Learning Balance and Sufficiency through Data Remixing*, ICML 2025. From epoch
    `warm_up` on, before each epoch, each sample is assigned to the modality whose head says least of it: the one with
    the smallest KL(p^m ‖ uniform), p^m its softmax. The sample is then trained with the other embeddings zero, by the
    joint head's cross-entropy and γ times that modality's own, and batches are put together by modality, so that
    modalities do not meet in one gradient. Before, the loss is the joint head's and α times each unimodal one.

    The authors pass over one modality's samples and then the other's. Here the scheduler puts batches together, and
    each is split: an update for each modality, by those of its samples that are assigned to it. The rest is as
    released, where a sample of which two heads say as much goes to video, here to the first of them.

    warm_up: 10 epochs as released. alpha: ½. gamma: γ, 1. unimodal_weight is not used.
    """

    paper: ClassVar[str] = (
        "Ma et al., Improving Multimodal Learning Balance and Sufficiency through Data Remixing, ICML 2025"
    )
    cost: ClassVar[Cost] = Cost.PASS
    one_process: ClassVar[str] = "a process may have no samples of a modality in a batch, and would make fewer updates"
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"gamma": (0.1, 4.0), "alpha": (0.1, 2.0)}

    warm_up: int = Field(10, ge=0)
    alpha: float = Field(0.5, ge=0)
    gamma: float = Field(1.0, ge=0)

    def on_epoch(self, loader: Passes) -> None:
        if self.epoch >= self.warm_up:
            self.memory["assigned"] = self._assigned(loader)

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        own = torch.stack([cross_entropies(z, labels) for z in heads.unimodal])
        return cross_entropies(heads.joint, labels) + self.alpha * own.sum(0)

    def step(self, heads: Heads, labels: Tensor, weigh: Weigh, optimiser: Optimizer) -> Tensor:
        if "assigned" not in self.memory:
            return super().step(heads, labels, weigh, optimiser)
        assert heads.batch is not None
        assigned = self.memory["assigned"][torch.from_numpy(heads.batch.indices.copy()).to(labels.device)]
        total = torch.zeros((), device=labels.device)
        for k in range(len(heads.features)):
            mine = assigned == k
            if not mine.any():
                continue
            losses = mine * self.loss_alone(heads, labels, k)
            loss = weigh(losses) * len(mine) / mine.sum()  # the mean of those that are assigned
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total = total + loss.detach()
        return total

    def loss_alone(self, heads: Heads, labels: Tensor, modality: int) -> Tensor:
        """Of each sample, (g,), where one modality alone is trained."""
        head = list(self.run.model.heads.values())[modality]
        joint = with_modalities(self.run, heads, [modality])
        return cross_entropies(joint, labels) + self.gamma * cross_entropies(head(heads.features[modality]), labels)

    @torch.no_grad()
    def _assigned(self, loader: Passes) -> Tensor:
        """The modality of each sample, (n,)."""
        model = self.run.model
        was_training = model.training
        model.eval()
        assigned = [surety(model(inputs).unimodal).argmin(0) for _, inputs, _ in loader]
        model.train(was_training)
        return torch.cat(assigned)


def surety(unimodal: list[Tensor]) -> Tensor:
    """KL(p ‖ uniform) of each head, in nats, (M, g), from logits (g, c): log c less the entropy."""
    logs = torch.stack(unimodal).float().log_softmax(2)
    return (logs.exp() * logs).sum(2) + torch.tensor(float(logs.shape[2])).log()
