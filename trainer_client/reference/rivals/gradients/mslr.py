"""MSLR: each modality has a learning rate of its own."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals.base import Cost, Heads, Rival, Weigh


class Mslr(Rival):
    """Modality-specific learning rates.

    Yao, Mihalcea: *Modality-specific Learning Rates for Effective Multimodal Additive Late-fusion*, Findings of ACL
    2022. Encoder and head of modality m learn at η^m = factor^m·η. "keep": the rates stay, those that are best for
    each modality alone. "dynamic": they are multiplied, before each epoch, by the modality's validation accuracy over
    its mean after the `window` epochs before the last, once there are as many, so that what still gains learns faster.
    The paper has a third strategy, whose rates are searched for: tune `first` and `second`.

    first, second: factors of the first modality and of all others, tuned from 0.1 to 10. window: 5.
    unimodal_weight: 0 in the paper, whose joint head is the sum of unimodal ones.
    Not compared with the authors' code, of which none was found. "dynamic" is as the authors of AGM have it, who scale
    gradients instead of rates, by 0.9 and 1.1 at first for CREMA-D, and measure accuracy on test samples.
    """

    paper: ClassVar[str] = (
        "Yao and Mihalcea, Modality-specific Learning Rates for Effective Multimodal Additive Late-fusion, "
        "Findings of ACL 2022"
    )
    cost: ClassVar[Cost] = Cost.PLAIN
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"first": (0.1, 10.0), "second": (0.1, 10.0)}

    first: float = Field(1.0, gt=0)
    second: float = Field(1.0, gt=0)
    strategy: Literal["keep", "dynamic"] = "dynamic"
    window: int = Field(5, ge=1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One of each modality, and one of what is common."""
        model = self.run.model
        groups = [[*model.encoders[name].parameters(), *model.heads[name].parameters()] for name in model.encoders]
        return [{"params": group} for group in [*groups, list(model.joint.parameters())]]

    def on_epoch(self, loader: Passes) -> None:
        factors = [self.first] + [self.second] * (self.run.modalities - 1)
        if self.strategy == "dynamic" and self.epoch > 0:
            accuracies = self.memory.setdefault("accuracies", [])
            accuracies.append(self._accuracies(loader))
            *before, now = accuracies[-self.window - 1 :]
            if len(before) == self.window:
                ratios = torch.tensor(now) / torch.tensor(before).mean(0).clamp(min=1e-8)
                factors = [f * r for f, r in zip(factors, ratios.tolist(), strict=True)]
        self.memory["factors"] = factors

    def step(self, heads: Heads, labels: Tensor, weigh: Weigh, optimiser: Optimizer) -> Tensor:
        common = optimiser.param_groups[-1]["lr"]
        for group, factor in zip(optimiser.param_groups, self.memory["factors"], strict=False):
            group["lr"] = common * factor
        return super().step(heads, labels, weigh, optimiser)

    @torch.no_grad()
    def _accuracies(self, loader: Passes) -> list[float]:
        """Of the unimodal heads on the validation samples, (M,)."""
        model = self.run.model
        was_training = model.training
        model.eval()
        right = [
            torch.stack([z.argmax(1) == labels for z in model(inputs).unimodal])
            for _, inputs, labels in loader.validation()
        ]
        model.train(was_training)
        accuracies: list[float] = torch.cat(right, dim=1).float().mean(1).tolist()
        return accuracies
