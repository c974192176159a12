"""What a rival is: a training method that may change the loss, the gradients, the samples or the whole update."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.optim import Optimizer

from trainer_client.exchange.prefetch import ScheduledBatch
from trainer_client.logits.losses import multimodal_loss
from trainer_client.reference.model import LateFusion
from trainer_client.reference.passes import Passes

Weigh = Callable[[Tensor], Tensor]
"""Losses (k,) of the samples of a step -> their weighted mean (), as the scheduler wants it."""


class Cost(StrEnum):
    """What a step costs beside plain training."""

    LESS = "less than plain training"
    PLAIN = "as plain training"
    HEADS = "the heads and their losses again, no encoder"
    BACKWARD = "a backward pass for each loss"
    PASS = "a forward pass over the training set each epoch"
    TRAINING = "other networks are trained first or beside"


@dataclass(frozen=True, slots=True)
class Heads:
    """What the network made of the samples of a step, with the graph to differentiate."""

    unimodal: Sequence[Tensor]  # M logits (g, c)
    joint: Tensor  # (g, c), logits
    features: Sequence[Tensor]  # M embeddings (g, d)
    batch: ScheduledBatch | None = None  # these samples, with their numbers and weights


@dataclass(frozen=True, slots=True)
class Run:
    """The training run that a rival is part of."""

    model: LateFusion  # a rival may change its heads before training begins
    samples: int  # n, to train on
    classes: int
    epochs: int
    seed: int
    fresh: Callable[[], LateFusion]  # another network as `model` was at the start
    optimiser: Callable[[Iterable[Any]], Optimizer]  # as the run's own, on parameters or groups of them

    @property
    def modalities(self) -> int:
        """M."""
        return len(self.model.encoders)


class Rival(BaseModel):
    """A rival; its fields are its hyper-parameters, checked when it is made.

    What it remembers from step to step stands in `memory`, of tensors, numbers, strings and lists of them, and is part
    of a checkpoint. It draws nothing from a global generator: chance follows from the run's seed and the step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: ClassVar[str] = ""  # authors, title, venue, year
    cost: ClassVar[Cost] = Cost.PLAIN
    one_process: ClassVar[str] = ""  # why it does not run with DistributedDataParallel; empty: it does
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}  # of what to tune, for a log-uniform search
    beside: ClassVar[str] = ""  # a control without which its figures mean little

    unimodal_weight: float = Field(0.5, ge=0, le=1)  # λ of the loss that it starts from; most papers have 0

    _run: Run = PrivateAttr()
    _memory: dict[str, Any] = PrivateAttr(default_factory=dict)

    def start(self, run: Run) -> None:
        """Before the optimiser is made."""
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    @property
    def memory(self) -> dict[str, Any]:
        return self._memory

    @property
    def epoch(self) -> int:
        """The number of the epoch that is trained, from 0; −1 before the first."""
        return int(self._memory.get("epoch", -1))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser is made of."""
        return [{"params": list(self.run.model.parameters())}]

    def begin_epoch(self, epoch: int, loader: Passes) -> None:
        """Before an epoch's first step; a second time it does nothing."""
        if epoch != self.epoch:
            self._memory["epoch"] = epoch
            self.on_epoch(loader)

    def on_epoch(self, loader: Passes) -> None:
        """Before the first step of epoch `self.epoch`; what is passed through a network here is extra."""

    def rows(self, batch: ScheduledBatch) -> Tensor | None:
        """Which rows of a batch are trained on, (k,) int64 on the CPU; None: all."""
        return None

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        """The loss of each sample, (g,), to be weighed and differentiated."""
        return multimodal_loss(
            heads.unimodal, heads.joint, labels, unimodal_weight=self.unimodal_weight, batch=heads.batch
        )

    def after_backward(self, model: LateFusion) -> None:
        """Between backward pass and update: may change the gradients."""

    def step(self, heads: Heads, labels: Tensor, weigh: Weigh, optimiser: Optimizer) -> Tensor:
        """One update; the loss (), detached."""
        loss = weigh(self.loss(heads, labels))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.after_backward(self.run.model)
        optimiser.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(self._memory)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        device = next(self.run.model.parameters()).device
        self._memory = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()}


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each sample, (g,), in single precision."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def label_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax at the label of each sample, (g,), in single precision."""
    return logits.float().softmax(1).gather(1, labels[:, None])[:, 0]


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over the processes of a group, so that all of them change their gradients alike."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.detach().clone()
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values


def modality_logits(run: Run, heads: Heads) -> Sequence[Tensor]:
    """What each modality alone says, M logits (g, c): its share of the joint head, else its own head."""
    return run.model.joint.shares(heads.features) or heads.unimodal


def with_modalities(run: Run, heads: Heads, kept: Sequence[int]) -> Tensor:
    """Joint logits (g, c) where the embeddings of all modalities but those `kept` are 0."""
    features = [e if k in kept else torch.zeros_like(e) for k, e in enumerate(heads.features)]
    return run.model.joint(features, heads.unimodal)  # type: ignore[no-any-return]


def shapley(values: Mapping[tuple[int, ...], Tensor], modalities: int) -> list[Tensor]:
    """Shapley values of M modalities, from what each subset of them, sorted, is worth; that of none is 0."""
    subsets = list(values)
    factor = _factorials(modalities)
    phi = []
    for k in range(modalities):
        with_k = [s for s in subsets if k in s]
        parts = []
        for s in with_k:
            without = tuple(j for j in s if j != k)
            gain = values[s] - values[without] if without else values[s]
            parts.append(factor[len(without)] * gain)
        phi.append(torch.stack(parts).sum(0))
    return phi


def subsets_of(modalities: int) -> list[tuple[int, ...]]:
    """All subsets of M modalities but the empty one, each sorted."""
    return [tuple(k for k in range(modalities) if code >> k & 1) for code in range(1, 2**modalities)]


def _factorials(modalities: int) -> list[float]:
    """|S|!·(M − |S| − 1)!/M! for |S| = 0 … M − 1."""
    whole = math.factorial(modalities)
    return [math.factorial(s) * math.factorial(modalities - s - 1) / whole for s in range(modalities)]
