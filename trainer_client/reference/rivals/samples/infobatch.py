"""InfoBatch: a share of the samples that are learnt already is passed over, and the others of them count for more."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from trainer_client.exchange.prefetch import ScheduledBatch
from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals.base import Cost, Heads, Rival

FEWEST = 2  # rows of a batch, for the sake of batch normalisation


class InfoBatch(Rival):
    """Unbiased dynamic data pruning, within the batches that the scheduler hands out.

    Qin, Wang, Zheng, Gu, Peng, Xu, Zhou, Shang, Sun, Xie, You: *InfoBatch: Lossless Training Speed Up by Unbiased
    Dynamic Data Pruning*, ICLR 2024. With H_i the latest loss of sample i and H̄ their mean, a sample with H_i < H̄ is
    left out of an epoch with probability r, and where it stays its loss counts 1/(1 − r), so that the expected
    gradient is that of all samples; from epoch δ·T on nothing is left out. What is left out is not passed through the
    network, and has no feedback. The sum over the others is divided by the size of the whole batch, so that each
    step's gradient is unbiased. The authors fill batches up again and take fewer steps; here an epoch has as many
    steps, of fewer samples each.

    prune: r, 0.5, at most 0.9 as released. anneal: δ, 0.875.
    form: "paper" leaves out each with probability r; "code", as released, keeps exactly ⌊(1 − r)·k⌋ of the k below the
    mean, and leaves something out in the first ⌊δ·T⌋ epochs, where the paper's δ·T is rounded up; where δ·T is no
    whole number, what was rescaled last stays so to the end. A sample that was not seen counts 3 in the mean there;
    here it is no part of it.
    Rescaling acts as a higher learning rate: compare it with `uniform` given as many samples, that is as many passes
    through the network, at a rate tuned for it, or its saving is none.
    """

    paper: ClassVar[str] = (
        "Qin et al., InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning, ICLR 2024"
    )
    cost: ClassVar[Cost] = Cost.LESS
    one_process: ClassVar[str] = "a process knows the losses of those samples alone that it was given before"
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"prune": (0.1, 0.7)}
    beside: ClassVar[str] = "uniform, with as many samples through the network, at a tuned learning rate"

    prune: float = Field(0.5, gt=0, lt=1)
    anneal: float = Field(0.875, ge=0, le=1)
    form: Literal["paper", "code"] = "paper"

    def on_epoch(self, loader: Passes) -> None:
        losses: Tensor = self.memory.setdefault("losses", torch.full((self.run.samples,), torch.nan))
        weights = torch.ones(self.run.samples)
        wanted = self.anneal * self.run.epochs  # epochs in which samples are left out
        if self.epoch < (math.floor(wanted) if self.form == "code" else wanted):
            below = (losses < losses.nanmean()).nonzero()[:, 0]
            rng = np.random.default_rng((self.run.seed, self.epoch))
            weights[below] = 1 / (1 - self.prune)
            weights[below[torch.from_numpy(self._left_out(len(below), rng))]] = 0.0
        elif self.form == "code" and not wanted.is_integer() and "weights" in self.memory:
            weights = torch.where(self.memory["weights"] > 0, self.memory["weights"], weights)
        self.memory["weights"] = weights

    def rows(self, batch: ScheduledBatch) -> Tensor:
        weights: Tensor = self.memory["weights"]
        kept = weights[torch.from_numpy(batch.indices.copy())] > 0
        dropped = (~kept).nonzero()[:, 0]
        kept[dropped[: max(0, FEWEST - int(kept.sum()))]] = True  # their loss counts 0
        return kept.nonzero()[:, 0]

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        assert heads.batch is not None
        losses = super().loss(heads, labels)
        weights: Tensor = self.memory["weights"]
        samples = torch.from_numpy(heads.batch.indices.copy())
        self.memory["losses"][samples] = losses.detach().float().cpu()
        return losses * weights[samples].to(losses.device)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.update(state)  # stays on the CPU, where samples are chosen

    def _left_out(self, count: int, rng: np.random.Generator) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Which of `count` samples below the mean, (k,)."""
        if self.form == "code":
            return rng.permutation(count)[int((1 - self.prune) * count) :]
        return np.flatnonzero(rng.random(count) < self.prune)
