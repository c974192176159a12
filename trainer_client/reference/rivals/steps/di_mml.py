"""DI-MML: encoders are trained apart, and agree by a common head and by dimensions that only one of them masters."""

from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer_client.reference.fusion import Concat
from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals.base import Cost, Heads, Rival, Run, cross_entropies

PART: Final = 512  # samples whose distances are held at once


class DiMml(Rival):
    """Detached and interactive multimodal learning.

    Fan, Xu, Wang, Liu, Guo: *Detached and Interactive Multimodal Learning*, ACM MM 2024. Each encoder has a
    cross-entropy of its own, and one more, weight w, through a head that all share. Before epoch `begins`, once,
    dimensions of an embedding are found effective where, on its own, the coordinate of the nearest class mean is the
    label's more often than the average dimension's is. From then on, for each ordered pair of modalities, student s and
    teacher t, on the dimensions effective for t and not for s, the contrastive loss −log softmax_j(φ^s_i·φ^t_j / τ) at
    j = i draws s to t, t being detached. The joint head is trained on detached embeddings, and the prediction is the
    sum of the logits of all M + 1 heads, weighed by softmax(max softmax / T) of each.
    The authors train the joint head when the encoders are done; here it is trained beside them. The loss, dimensions
    and weights of heads are as released.

    weight: w, 1. temperature: τ, 1 by default as released, 50 in what they run for CREMA-D, of embeddings as large as a
    ResNet's. T is 1. begins: 20 as released. unimodal_weight is not used.
    """

    paper: ClassVar[str] = "Fan et al., Detached and Interactive Multimodal Learning, ACM MM 2024"
    cost: ClassVar[Cost] = Cost.HEADS
    one_process: ClassVar[str] = "each process would contrast with the samples of its own share of the batch alone"
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"weight": (0.1, 4.0), "temperature": (0.1, 50.0)}

    weight: float = Field(1.0, ge=0)
    temperature: float = Field(1.0, gt=0)
    begins: int = Field(20, ge=0)

    def start(self, run: Run) -> None:
        super().start(run)
        model = run.model
        if not isinstance(model.joint, Concat):
            raise ValueError("fusion must be concat for di_mml, whose joint head is one of its own")
        joint = BySurety(model.joint)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            joint.shared = nn.Linear(model.joint.weight.shape[1] // run.modalities, run.classes)
        model.joint = joint.to(model.joint.weight.device)

    def on_epoch(self, loader: Passes) -> None:
        if self.epoch >= self.begins and "effective" not in self.memory:
            self.memory["effective"] = self._effective(loader)

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        joint = self.run.model.joint
        assert isinstance(joint, BySurety)
        losses = cross_entropies(joint.fused(heads.features), labels)
        for features, logits in zip(heads.features, heads.unimodal, strict=True):
            losses = losses + cross_entropies(logits, labels)
            losses = losses + self.weight * cross_entropies(joint.shared(features), labels)
        if "effective" in self.memory:
            losses = losses + complement(heads.features, self.memory["effective"], self.temperature)
        return losses

    @torch.no_grad()
    def _effective(self, loader: Passes) -> Tensor:
        """Which dimensions each modality masters, (M, d)."""
        model = self.run.model
        was_training = model.training
        model.eval()
        parts = [(torch.stack(model(inputs).features).float(), labels) for _, inputs, labels in loader]
        model.train(was_training)
        return effective(torch.cat([f for f, _ in parts], dim=1), torch.cat([y for _, y in parts]), self.run.classes)


class BySurety(Concat):
    """The logits of all heads, the joint one on detached embeddings, weighed by how sure each is of a sample."""

    def __init__(self, joint: Concat) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = joint.weight, joint.bias
        self.shared: nn.Module = nn.Identity()

    def forward(self, embeddings: Sequence[Tensor], unimodal: Sequence[Tensor]) -> Tensor:
        logits = torch.stack([*unimodal, self.fused(embeddings)])
        weights = logits.float().softmax(2).amax(2).softmax(0)
        return (weights[:, :, None] * logits).sum(0)

    def fused(self, embeddings: Sequence[Tensor]) -> Tensor:
        """What the joint head says, (g, c), no gradient of which reaches an encoder."""
        return super().forward([e.detach() for e in embeddings], [])


def effective(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Which dimensions tell classes apart better than the average one does, (M, d), of embeddings (M, n, d)."""
    sums = features.new_zeros(len(features), classes, features.shape[2]).index_add_(1, labels, features)
    means = sums / torch.bincount(labels, minlength=classes).clamp(min=1)[:, None]
    right = torch.zeros(features.shape[0], features.shape[2], device=features.device)
    for start in range(0, len(labels), PART):
        part, mine = features[:, start : start + PART], labels[start : start + PART]
        nearest = (part[:, :, None] - means[:, None]).abs().argmin(2)
        right += (nearest == mine[:, None]).sum(1)
    return right > right.mean(1, keepdim=True)


def complement(features: Sequence[Tensor], is_effective: Tensor, temperature: float) -> Tensor:
    """The contrastive loss of each sample, (g,), summed over ordered pairs of modalities."""
    losses = features[0].new_zeros(len(features[0]), dtype=torch.float32)
    for t, teacher in enumerate(features):
        for s, student in enumerate(features):
            only = is_effective[t] & ~is_effective[s]
            if s != t and only.any():
                logits = student[:, only].float() @ teacher[:, only].detach().float().T / temperature
                losses = losses - logits.log_softmax(1).diagonal()
    return losses
