"""ReconBoost: one modality at a time learns what the others get wrong."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from trainer_client.reference.fusion import Fusion
from trainer_client.reference.rivals.base import Cost, Heads, Rival, Run, cross_entropies, label_probabilities
from trainer_client.reference.rivals.steps.mla import share_head


class ReconBoost(Rival):
    """Modality-alternating boosting with reconcilement.

    Hua, Xu, Bao, Yang, Huang: *ReconBoost: Boosting Can Achieve Modality Reconcilement*, ICML 2024. The joint logits
    are the sum of the modalities', which share one head. A stage has `epochs_per_stage` epochs in which modality
    m = stage mod M alone is trained, then `correct_epochs` in which all that had a stage are, by the cross-entropy of
    their sum. With z what m says, Z the sum of the logits of the others that had a stage, as it is, and p_y their
    softmax at the label,

        −w1·log p_y(z) + w2·p_y(Z)·log p_y(z) + α·‖p(z) − p(Z_last)‖²/c

    where p(Z_last) is what the modality trained before says: what the others know already pulls less, which is the
    gradient of a KL reconcilement, and the last term consolidates memory. The first stage has no last term, and Z = 0.

    weight1, weight2: 5 (4 for AVE and ModelNet40) and 1 as released. alpha: ½. epochs_per_stage, correct_epochs: 4 and
    4 as released.
    form: "paper"; "code", as released: both sides of the last term are detached, so that it changes the loss and no
    gradient, and in the first stage p_y is 1, a softmax over one number. Losses are over c there, the mean over classes
    instead of the sum; both forms do that.
    Not done here: the sum has a learnt factor there, which begins at 1, the shared head has a hidden layer of 256, and
    optimisers begin anew in each stage.
    """

    paper: ClassVar[str] = "Hua et al., ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024"
    cost: ClassVar[Cost] = Cost.LESS
    one_process: ClassVar[str] = (
        "only one encoder has gradients in a step, which DistributedDataParallel takes for a mistake"
    )
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (0.05, 2.0), "weight2": (0.1, 5.0)}

    weight1: float = Field(5.0, gt=0)
    weight2: float = Field(1.0, ge=0)
    alpha: float = Field(0.5, ge=0)
    epochs_per_stage: int = Field(4, ge=1)
    correct_epochs: int = Field(4, ge=0)
    form: Literal["paper", "code"] = "paper"

    def start(self, run: Run) -> None:
        super().start(run)
        share_head(run)
        run.model.joint = OfLogits()

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        stage, within = divmod(self.epoch, self.epochs_per_stage + self.correct_epochs)
        unimodal = heads.unimodal[: stage + 1]  # the others were not trained yet
        if within >= self.epochs_per_stage:
            return cross_entropies(torch.stack([*unimodal]).sum(0), labels)
        modality = stage % len(heads.unimodal)
        before = None if stage == 0 else (modality - 1) % len(heads.unimodal)
        return self.boosting(unimodal, labels, modality, before)

    def boosting(self, unimodal: Sequence[Tensor], labels: Tensor, modality: int, before: int | None) -> Tensor:
        """Of each sample, (g,), for the modality that is trained; before: the one that was trained last."""
        own = unimodal[modality].float()
        classes = own.shape[1]
        others = [z.detach().float() for k, z in enumerate(unimodal) if k != modality]
        known = label_probabilities(torch.stack(others).sum(0) if others else torch.zeros_like(own), labels)
        if not others and self.form == "code":
            known = torch.ones_like(known)
        losses = (self.weight1 - self.weight2 * known) * F.cross_entropy(own, labels, reduction="none") / classes
        if before is not None:
            said = own.detach() if self.form == "code" else own
            gap = said.softmax(1) - unimodal[before].detach().float().softmax(1)
            losses = losses + self.alpha * gap.square().mean(1)
        return losses


class OfLogits(Fusion):
    """The sum of the unimodal logits."""

    def forward(self, embeddings: Sequence[Tensor], unimodal: Sequence[Tensor]) -> Tensor:
        return torch.stack([*unimodal]).sum(0)
