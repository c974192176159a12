"""A network small enough to compute by hand, and a run of it."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer_client.exchange.prefetch import ScheduledBatch
from trainer_client.reference.model import LateFusion
from trainer_client.reference.rivals import Heads, Rival, Run

CLASSES = 2
SAMPLES = 6


class Pair(LateFusion):
    """Two modalities of two numbers; encoders are scalars times the input, heads are the embedding itself."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.encoders = nn.ModuleDict({"a": Scale(), "b": Scale()})
        self.heads = nn.ModuleDict({"a": nn.Identity(), "b": nn.Identity()})
        self.joint = Added()


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Added(nn.Module):
    """The joint logits are the sum of the embeddings."""

    def forward(self, embeddings: Iterable[Tensor], unimodal: object) -> Tensor:
        return torch.stack([*embeddings]).sum(0)

    def shares(self, embeddings: Iterable[Tensor]) -> list[Tensor]:
        return [*embeddings]


def started(
    rival: Rival, model: LateFusion | None = None, *, epochs: int = 4, rate: float = 1.0, seed: int = 0
) -> Rival:
    """A rival in a run of the pair, by plain gradient descent."""
    model = model or Pair()
    rival.start(
        Run(
            model=model,
            samples=SAMPLES,
            classes=CLASSES,
            epochs=epochs,
            seed=seed,
            fresh=Pair,
            optimiser=lambda parameters: torch.optim.SGD(parameters, lr=rate),
        )
    )
    rival.memory["epoch"] = 0
    return rival


def heads(model: LateFusion, *inputs: list[list[float]], samples: list[int] | None = None) -> Heads:
    """What the network makes of M inputs (g, 2)."""
    batch = None if samples is None else ScheduledBatch(0, np.array(samples), 0, 1, 0)
    return Heads(*model([torch.tensor(x) for x in inputs]), batch)


def step(rival: Rival, given: Heads, labels: list[int], rate: float = 1.0) -> Tensor:
    """One update by plain gradient descent."""
    optimiser = torch.optim.SGD(rival.parameter_groups(), lr=rate)
    return rival.step(given, torch.tensor(labels), Tensor.mean, optimiser)


class Loader:
    """Passes over these few samples."""

    def __init__(self, inputs: list[list[list[float]]], labels: list[int]) -> None:
        self._batch: Any = (torch.arange(len(labels)), [torch.tensor(x) for x in inputs], torch.tensor(labels))

    def __len__(self) -> int:
        return len(self._batch[2])

    def __iter__(self) -> Any:
        return iter([self._batch])

    def shuffled(self, *seed: int) -> Any:
        return iter(self)

    def validation(self) -> Any:
        return iter(self)
