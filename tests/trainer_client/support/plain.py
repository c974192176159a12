"""A small training run, and its loop of plain PyTorch that integrations are held against."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bss_service.protocol.jobs import JobSpec
from trainer_client import ScheduledBatchSampler, SchedulerClient, WithIndex, measure

SAMPLES, BATCH, BATCHES, EPOCHS, CLASSES = 48, 6, 8, 3, 3
JOB: dict[str, Any] = {"modalities": ["input"], "unimodal_heads": False, "policy": "self_paced", "seed": 7}


class Data(Dataset[dict[str, torch.Tensor]]):
    """Samples as dictionaries, the way Hugging Face's trainers want them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
        self.x = torch.randn(CLASSES, 4, generator=generator)[self.labels]
        self.x = self.x + torch.randn(SAMPLES, 4, generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class Model(nn.Module):
    """One that gives loss and logits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layer = nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Run:
    """What came of one: the samples of its batches, and the weights."""

    def __init__(self) -> None:
        self.model = Model()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.batches: list[list[int]] = []

    def step(self, index: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A step on a batch; what was measured of it."""
        outputs = self.model(**batch)
        self.optimiser.zero_grad()
        outputs["loss"].backward()
        self.optimiser.step()
        self.batches.append(index.tolist())
        return measure([], outputs["logits"], batch["labels"])

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


def plain_run(client: SchedulerClient, name: str) -> Run:
    """The loop without an integration, to its end."""
    run = Run()
    with ScheduledBatchSampler(JobSpec(name=name, samples=SAMPLES, batch_size=BATCH, **JOB), client) as sampler:
        loader = DataLoader(WithIndex(Data()), batch_sampler=sampler)
        for _ in range(EPOCHS):
            for index, batch in loader:
                sampler.feedback(index, run.step(index, batch))
    return run


def accumulating_run(
    client: SchedulerClient, spec: JobSpec, at_once: int, *, whole: bool, epochs: int = EPOCHS
) -> tuple[Run, int]:
    """The loop with a step for so many batches, and one for what is left of an epoch; it, and its steps.

    whole: whether losses are divided by at_once for what is left, too, as Lightning and Accelerate do.
    """
    run, steps = Run(), 0
    with ScheduledBatchSampler(spec, client) as sampler:
        for _ in range(epochs):
            batches = list(DataLoader(WithIndex(Data()), batch_sampler=sampler))
            for start in range(0, len(batches), at_once):
                together = batches[start : start + at_once]
                for index, batch in together:
                    outputs = run.model(**batch)
                    (outputs["loss"] / (at_once if whole else len(together))).backward()
                    run.batches.append(index.tolist())
                    sampler.feedback(index, measure([], outputs["logits"], batch["labels"]))
                run.optimiser.step()
                run.optimiser.zero_grad()
                steps += 1
    return run, steps


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Bit for bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
