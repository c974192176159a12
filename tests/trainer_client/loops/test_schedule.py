"""Existing DataLoaders, turned into scheduled ones."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from lightning.fabric import Fabric
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.support.services import Service
from tests.trainer_client.support.plain import (
    BATCH,
    BATCHES,
    EPOCHS,
    JOB,
    SAMPLES,
    Data,
    Run,
    accumulating_run,
    plain_run,
    same_weights,
)
from trainer_client import JobSpec, ScheduledBatchSampler, SchedulerClient, measure
from trainer_client.integrations.accelerate import schedule_prepared
from trainer_client.integrations.schedule import schedule

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
NUMBERS = count()
TENSORS = TensorDataset(torch.arange(SAMPLES))


@pytest.fixture(scope="module")
def plain(service: Service) -> Run:
    """The run that all others are held against."""
    with service.client() as client:
        return plain_run(client, f"plain-{next(NUMBERS)}")


@pytest.fixture
def job(client: SchedulerClient) -> dict[str, Any]:
    return {"name": f"schedule-{next(NUMBERS)}", "url": client, **JOB}


def train(run: Run, loader: Any, sampler: ScheduledBatchSampler, until: int = EPOCHS * BATCHES) -> None:
    while len(run.batches) < until:
        for index, batch in loader:
            sampler.feedback(index, run.step(index, batch))
            if len(run.batches) == until:
                return


def collated(samples: list[Any]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in ("x", "labels")}


LOADERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shuffled": {"shuffle": True, "drop_last": True},
    "workers": {"num_workers": 2, "prefetch_factor": 3, "persistent_workers": True, "collate_fn": collated},
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_scheduled_loader_trains_as_the_plain_loop(job: dict[str, Any], plain: Run, kind: str) -> None:
    loader: DataLoader[Any] = DataLoader(Data(), batch_size=BATCH, **LOADERS[kind])
    scheduled, sampler = schedule(loader, **job)
    for name in ("num_workers", "prefetch_factor", "persistent_workers"):
        assert getattr(scheduled, name) == getattr(loader, name)
    run = Run()
    with sampler:
        train(run, scheduled, sampler)
    assert run.batches == plain.batches
    assert same_weights(run.model, plain.model)


def test_a_ranks_loader_gets_its_share(client: SchedulerClient, job: dict[str, Any], plain: Run) -> None:
    loader: DataLoader[Any] = DataLoader(TENSORS, batch_size=BATCH // 2)
    ranks = [schedule(loader, **job, rank=rank, world_size=2)[1] for rank in range(2)]
    batches = [next(iter(sampler)) for sampler in ranks]
    assert batches[0] + batches[1] == plain.batches[0]
    for sampler in ranks:
        sampler.close()


def test_what_the_loader_pulls_ahead_is_the_jobs_lag(job: dict[str, Any]) -> None:
    loader: DataLoader[Any] = DataLoader(TENSORS, batch_size=BATCH, num_workers=2, prefetch_factor=3)
    _, sampler = schedule(loader, **job, interval=4)
    assert sampler.spec.lag == 6
    sampler.close()


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(SAMPLES))


@pytest.mark.parametrize(
    ("loader", "sentence"),
    [
        (DataLoader(Stream(), batch_size=BATCH), "must have a map-style data set, .* got a Stream"),
        (DataLoader(TENSORS, batch_size=None), "must make batches by batch_size alone, got batch_size=None"),
        (DataLoader(TENSORS, batch_sampler=[[0, 1]]), "must make batches by batch_size alone, got a list"),
        (
            DataLoader(TENSORS, batch_size=BATCH, sampler=WeightedRandomSampler([1.0] * SAMPLES, SAMPLES)),
            "must shuffle plainly, got a WeightedRandomSampler",
        ),
        ([[0, 1]], "must be a DataLoader of torch .* got a builtins.list"),
    ],
    ids=["stream", "no batches", "own batches", "own order", "a list"],
)
def test_a_loader_that_it_cant_take_is_refused_by_name(job: dict[str, Any], loader: Any, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"loader {sentence}"):
        schedule(loader, **job)


def test_a_scheduled_loader_is_not_scheduled_again(job: dict[str, Any]) -> None:
    scheduled, sampler = schedule(DataLoader(TENSORS, batch_size=BATCH), **job)
    with sampler, pytest.raises(ValueError, match="loader must not be scheduled yet"):
        schedule(scheduled, **job)


@pytest.mark.parametrize("stop", [3, BATCHES + 3])
def test_torchdatas_loader_goes_on_from_its_own_state(
    job: dict[str, Any], plain: Run, tmp_path: Path, stop: int
) -> None:
    def scheduled() -> tuple[StatefulDataLoader[Any], ScheduledBatchSampler]:
        return schedule(StatefulDataLoader(Data(), batch_size=BATCH, snapshot_every_n_steps=1), **job)

    run, file = Run(), tmp_path / "state.pt"
    loader, sampler = scheduled()
    with sampler:
        train(run, loader, sampler, until=stop)
        torch.save(loader.state_dict(), file)
    loader, sampler = scheduled()
    with sampler:
        loader.load_state_dict(torch.load(file, weights_only=True))
        train(run, loader, sampler)
    assert run.batches == plain.batches
    assert same_weights(run.model, plain.model)


def test_fabric_leaves_a_scheduled_loader_as_it_is(job: dict[str, Any], plain: Run) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    loader, sampler = schedule(DataLoader(Data(), batch_size=BATCH), **job)
    run = Run()
    with sampler:
        train(run, fabric.setup_dataloaders(loader, use_distributed_sampler=False), sampler)
    assert run.batches == plain.batches
    assert same_weights(run.model, plain.model)


@pytest.fixture
def accelerator(tmp_path: Path) -> Iterator[Accelerator]:
    yield Accelerator(cpu=True, project_dir=tmp_path)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def accelerated(accelerator: Accelerator, job: dict[str, Any]) -> tuple[Run, Any, ScheduledBatchSampler]:
    run = Run()
    loader, sampler = schedule_prepared(DataLoader(Data(), batch_size=BATCH), accelerator, **job)
    run.model, run.optimiser = accelerator.prepare(run.model, run.optimiser)
    return run, loader, sampler


def test_accelerate_goes_on_from_its_own_checkpoint(
    accelerator: Accelerator, job: dict[str, Any], plain: Run, tmp_path: Path
) -> None:
    first, loader, sampler = accelerated(accelerator, job)
    with sampler:
        train(first, loader, sampler, until=BATCHES + 3)
        assert len(loader) == BATCHES
        accelerator.save_state(str(tmp_path / "checkpoint"))
    accelerator.free_memory()
    accelerator._custom_objects.clear()  # another process would have none
    second, loader, sampler = accelerated(accelerator, job)
    with sampler:
        accelerator.load_state(str(tmp_path / "checkpoint"))
        train(second, loader, sampler, until=EPOCHS * BATCHES - len(first.batches))
    assert first.batches + second.batches == plain.batches
    assert same_weights(accelerator.unwrap_model(second.model), plain.model)


@pytest.mark.parametrize(("fields", "workers"), [({}, 0), ({}, 2), ({"tail": "carry"}, 0)])
def test_accelerate_takes_a_step_with_the_gradients_left_at_the_end_of_an_epoch(
    client: SchedulerClient, job: dict[str, Any], tmp_path: Path, fields: dict[str, Any], workers: int
) -> None:
    """Of 8 batches with 3, 3 and 2; with tail="carry" of 6, 5 and 5 with 3 or 2."""
    size = 9 if fields else BATCH
    spec = JobSpec(**{**JOB, **fields, "name": f"{job['name']}-plain", "samples": SAMPLES, "batch_size": size})
    plain, _ = accumulating_run(client, spec, 3, whole=True)
    accelerator, run = Accelerator(cpu=True, gradient_accumulation_steps=3), Run()
    loader, sampler = schedule_prepared(
        DataLoader(Data(), batch_size=size, num_workers=workers), accelerator, **job, **fields
    )
    run.model, run.optimiser = accelerator.prepare(run.model, run.optimiser)
    with sampler:
        for _ in range(EPOCHS):
            for index, batch in loader:
                with accelerator.accumulate(run.model):
                    outputs = run.model(**batch)
                    accelerator.backward(outputs["loss"])
                    run.optimiser.step()
                    run.optimiser.zero_grad()
                run.batches.append(index.tolist())
                sampler.feedback(index, measure([], outputs["logits"], batch["labels"]))
            assert accelerator.gradient_state.active_dataloader is None
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    assert run.batches == plain.batches
    assert same_weights(run.model, plain.model)
