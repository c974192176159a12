"""Grain's DataLoader, without JAX and without torch: batch number k is step k."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grain
import numpy as np
import pytest

from bss_service.protocol.validation import ValidationReport
from tests.support.services import Service
from trainer_client import JobExistsError, JobSpec, ScheduledBatchSampler, SchedulerClient
from trainer_client.integrations.grain import ScheduledSampler

SAMPLES, BATCH, EPOCH = 48, 12, 4
Batches = list[list[int]]


class Source:
    """A data source; a sample is its own number."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> np.int64:
        return np.int64(index)

    def __repr__(self) -> str:
        return "Source()"


def job_of(name: str, **fields: Any) -> JobSpec:
    fields = {"policy": "uniform", "modalities": ["x"], "unimodal_heads": False, **fields}
    return JobSpec(name=name, samples=SAMPLES, batch_size=BATCH, seed=7, **fields)


def loader_of(sampler: ScheduledSampler, workers: int = 0) -> grain.DataLoader:
    batch = grain.transforms.Batch(sampler.share)
    return grain.DataLoader(data_source=Source(), sampler=sampler, operations=[batch], worker_count=workers)


def train(sampler: ScheduledSampler, batches: Iterator[Any], steps: range) -> Batches:
    came: Batches = []
    for step, batch in zip(steps, batches, strict=False):
        sampler.feedback(step, {"loss": batch / SAMPLES})
        came.append(batch.tolist())
    return came


@pytest.fixture
def whole(client: SchedulerClient, job_name: str) -> Batches:
    """The batches of three epochs without Grain."""
    whole: Batches = []
    with ScheduledBatchSampler(job_of(f"{job_name}-whole"), client) as sampler:
        for _ in range(3):
            for batch in sampler:
                sampler.feedback(len(whole), {"loss": np.array(batch) / SAMPLES})
                whole.append(batch)
    return whole


def test_a_batch_of_the_loader_is_a_step_of_the_job(
    service: Service, client: SchedulerClient, job_name: str, whole: Batches
) -> None:
    sampler = ScheduledSampler(job_of(job_name), service.url)
    assert train(sampler, iter(loader_of(sampler)), range(len(whole))) == whole
    sampler.validation(ValidationReport(step=len(whole), loss=0.5, accuracy=0.5, modalities={}))
    state = client.job(job_name)
    assert state.validation is not None
    assert (state.fed_back_until, state.validation.step) == (len(whole), len(whole))
    sampler.close()
    assert [trainer.left for trainer in client.job(job_name).trainers] == [True]


def test_shards_are_the_ranks(service: Service, client: SchedulerClient, job_name: str, whole: Batches) -> None:
    shards = [grain.sharding.ShardOptions(k, 2) for k in range(2)]
    samplers = [ScheduledSampler(job_of(job_name), service.url, shard_options=shard) for shard in shards]
    iterators = [iter(loader_of(sampler)) for sampler in samplers]
    for step, batch in enumerate(whole):
        ranks = [train(s, i, range(step, step + 1))[0] for s, i in zip(samplers, iterators, strict=True)]
        assert ranks[0] + ranks[1] == batch
    assert client.job(job_name).fed_back_until == len(whole)
    for sampler in samplers:
        sampler.close()


@pytest.mark.parametrize("stop", [EPOCH - 1, EPOCH + 2])  # the first: threads ask for the next epoch at once
def test_it_goes_on_from_grains_own_checkpoint(
    service: Service, client: SchedulerClient, job_name: str, whole: Batches, stop: int
) -> None:
    first = ScheduledSampler(job_of(job_name), service.url)
    batches = iter(loader_of(first))
    came, state = train(first, batches, range(stop)), batches.get_state()
    first.close()
    with pytest.raises(JobExistsError):
        ScheduledSampler(job_of(job_name), service.url)
    second = ScheduledSampler(job_of(job_name), service.url, if_exists="resume")
    batches = iter(loader_of(second))
    batches.set_state(state)
    assert came + train(second, batches, range(stop, len(whole))) == whole
    second.close()


def test_the_same_index_is_the_same_record(service: Service, job_name: str, whole: Batches) -> None:
    with ExitStack() as opened:
        sampler = ScheduledSampler(job_of(job_name), service.url)
        opened.callback(sampler.close)
        drawn = [sampler[k] for k in (0, 17, 17, 3, 0)]
        assert [record.record_key for record in drawn] == [whole[k // BATCH][k % BATCH] for k in (0, 17, 17, 3, 0)]
        assert drawn[0].rng.random() == drawn[4].rng.random() != drawn[3].rng.random()
        with pytest.raises(IndexError):
            sampler[-1]


def test_a_checkpoint_of_another_job_is_refused_by_grain(service: Service, job_name: str) -> None:
    samplers = [ScheduledSampler(job_of(name), service.url) for name in (job_name, f"{job_name}-other")]
    ours, theirs = (iter(loader_of(sampler)) for sampler in samplers)
    with pytest.raises(ValueError, match="Sampler in checkpoint does not match"):
        ours.set_state(theirs.get_state())
    for sampler in samplers:
        sampler.close()


@pytest.mark.parametrize(
    ("fields", "options", "sentence"),
    [
        ({"weighted": True}, {}, "weighted must be False with Grain"),
        ({}, {"shard_options": grain.sharding.ShardOptions(0, 5)}, "shard_count must divide the batch size 12, got 5"),
    ],
)
def test_what_it_cant_do_is_refused(service: Service, job_name: str, fields: Any, options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ScheduledSampler(job_of(job_name, **fields), service.url, **options)


def test_worker_processes_are_refused(service: Service, job_name: str) -> None:
    sampler = ScheduledSampler(job_of(job_name), service.url)
    with pytest.raises(TypeError, match="give the DataLoader worker_count=0"):
        next(iter(loader_of(sampler, workers=1)))
    sampler.close()


def test_it_needs_no_torch() -> None:
    program = "import sys; import trainer_client.integrations.grain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, timeout=60).returncode == 0
