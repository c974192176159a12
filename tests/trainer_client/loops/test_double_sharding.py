"""A sampler that yields its rank's share must not be sharded again, and says so."""

import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client import DoubleShardingError, ScheduledBatchSampler, SchedulerClient, WithIndex

NUMBERS = count()
HANG = 60
REFUSED = r"yields its rank's share of each batch already, .*: keep the DataLoader out of Accelerate's prepare"


@pytest.fixture
def job_name() -> str:
    return f"sharding-{next(NUMBERS)}"


def accelerated(service: Service, job: str, folder: Path, how: str) -> list[str]:
    """What two ranks under Accelerate came to; one that is left waiting for the other is not asked."""
    command = [
        sys.executable,
        "-m",
        "tests.trainer_client.support.prepared_by_accelerate",
        service.url,
        job,
        str(folder),
        how,
    ]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [process.communicate(timeout=HANG)[0].strip() for process in reversed(ranks)]
    return [words for words in reversed(outputs) if words]


@pytest.mark.parametrize(
    "how", ["prepared", *(pytest.param(how, marks=pytest.mark.long) for how in ("uneven", "split", "dispatched"))]
)
def test_accelerates_prepare_is_refused(service: Service, job_name: str, tmp_path: Path, how: str) -> None:
    outputs = accelerated(service, job_name, tmp_path, how)
    assert outputs
    assert all(words.startswith("refused: this sampler yields its rank's share") for words in outputs)


def test_a_loader_that_accelerate_does_not_prepare_trains(service: Service, job_name: str, tmp_path: Path) -> None:
    assert accelerated(service, job_name, tmp_path, "left alone") == ["trained 6", "trained 6"]


def test_lightnings_replacement_of_the_sampler_is_refused(client: SchedulerClient, job_name: str) -> None:
    """As `pytorch_lightning.utilities.data` 2.6 goes about it: see `_dataloader_init_kwargs_resolve_sampler`."""
    with ScheduledBatchSampler(spec(job_name), client, rank=0, world_size=2) as sampler:
        loader: DataLoader[Any] = DataLoader(WithIndex(TensorDataset(torch.arange(50))), batch_sampler=sampler)
        wrapper = DistributedSampler(loader.sampler, num_replicas=2, rank=0)  # type: ignore[arg-type]
        assert type(loader.batch_sampler) is not BatchSampler
        with pytest.raises(DoubleShardingError, match=REFUSED):
            assert hasattr(loader.batch_sampler, "batch_size")
            type(loader.batch_sampler)(wrapper, batch_size=8, drop_last=False)  # type: ignore[call-arg, misc, arg-type]


def test_a_part_of_a_batch_tells_of_sharding(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client, rank=0, world_size=2) as sampler:
        batches = iter(sampler)
        sampler.feedback(next(batches))
        with pytest.raises(DoubleShardingError, match=REFUSED):
            sampler.feedback(next(batches)[:2])


def test_another_ranks_batch_tells_of_sharding(client: SchedulerClient, job_name: str) -> None:
    with (
        ScheduledBatchSampler(spec(job_name), client, rank=0, world_size=2) as first,
        ScheduledBatchSampler(spec(job_name), client, rank=1, world_size=2) as second,
        pytest.raises(DoubleShardingError, match=REFUSED),
    ):
        second.feedback(next(iter(first)))


def test_a_sampler_of_one_rank_may_be_asked_for_anything(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        assert not hasattr(sampler, "batch_size")


@pytest.mark.filterwarnings("ignore:no feedback was given")
@pytest.mark.parametrize("workers", [0, 2])
def test_loops_of_all_kinds_are_left_alone(client: SchedulerClient, job_name: str, workers: int) -> None:
    job = spec(job_name, policy="uniform", patience=0.1)
    with ScheduledBatchSampler(job, client, rank=0, world_size=2) as sampler:
        keeps: dict[str, Any] = {"prefetch_factor": 3, "persistent_workers": True} if workers else {}
        loader: DataLoader[Any] = DataLoader(
            WithIndex(TensorDataset(torch.arange(50))), batch_sampler=sampler, num_workers=workers, **keeps
        )
        next(iter(loader))  # a peek
        for index, _ in loader:  # broken off
            sampler.feedback(index)
            break
        for k, (index, _) in enumerate(loader):  # gradients gathered over two batches, told of the second
            if k % 2:
                sampler.feedback(index)
                fed_back = index
        with pytest.raises(ValueError, match="index must be a batch of this rank") as raised:
            sampler.feedback(fed_back)
        assert not isinstance(raised.value, DoubleShardingError)
