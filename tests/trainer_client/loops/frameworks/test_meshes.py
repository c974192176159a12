"""Several processes that are one data-parallel rank: they get the same rows, and one of them gives feedback."""

from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.stateful import Stateful
from torch.utils.data import DataLoader

from tests.support.simulated import spec
from tests.trainer_client.support.plain import BATCH, BATCHES, JOB, SAMPLES, Data
from trainer_client import JobSpec, ScheduledBatchSampler, SchedulerClient
from trainer_client.integrations.meshes import rank_in
from trainer_client.integrations.schedule import schedule
from trainer_client.integrations.torchtitan import ScheduledDataLoader


def mesh(place: tuple[int, ...] | None, **dimensions: int) -> Any:
    """What a DeviceMesh says in the process at a place."""
    return SimpleNamespace(
        mesh_dim_names=tuple(dimensions), shape=tuple(dimensions.values()), get_coordinate=lambda: place
    )


@pytest.mark.parametrize(
    ("place", "expected"), [((0, 0), (0, True)), ((0, 1), (0, False)), ((1, 0), (1, True)), ((1, 1), (1, False))]
)
def test_the_last_process_of_each_rank_leads(place: tuple[int, ...], expected: tuple[int, bool]) -> None:
    rank, follows = expected
    assert rank_in(mesh(place, dp=2, tp=2), "dp") == {"rank": rank, "world_size": 2, "follows": follows}


def test_batches_may_be_shared_out_over_several_dimensions() -> None:
    place = mesh((1, 0, 2, 1), pp=2, dp_replicate=2, dp_shard=3, tp=2)
    assert rank_in(place, "dp_replicate", "dp_shard") == {"rank": 2, "world_size": 6, "follows": False}
    assert rank_in(place, "dp_shard") == {"rank": 2, "world_size": 3, "follows": True}


def test_a_dimension_that_the_mesh_has_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"the mesh's dimensions \('dp', 'tp'\), got \('data',\)"):
        rank_in(mesh((0, 0), dp=2, tp=2), "data")
    with pytest.raises(ValueError, match="one that this process is in"):
        rank_in(mesh(None, dp=2, tp=2), "dp")


def train(sampler: ScheduledBatchSampler, steps: int = BATCHES) -> list[list[int]]:
    came: list[list[int]] = []
    for batch in sampler:
        sampler.feedback(torch.tensor(batch), {"loss": torch.tensor(batch).float()})
        came.append(batch)
        if len(came) == steps:
            break
    return came


@pytest.fixture
def job(job_name: str) -> JobSpec:
    return spec(job_name, samples=SAMPLES, batch_size=BATCH, policy="uniform")


@pytest.fixture
def two(client: SchedulerClient, job: JobSpec) -> Iterator[tuple[ScheduledBatchSampler, ScheduledBatchSampler]]:
    """One that leads, and one that follows."""
    with ExitStack() as opened:
        samplers = [
            opened.enter_context(ScheduledBatchSampler(job, client, rank=0, world_size=1, follows=follows))
            for follows in (False, True)
        ]
        yield samplers[0], samplers[1]


def test_who_follows_is_given_the_same_and_gives_nothing(
    client: SchedulerClient, job: JobSpec, two: tuple[ScheduledBatchSampler, ScheduledBatchSampler]
) -> None:
    leads, follows = two
    for _ in range(2):
        assert train(leads) == train(follows)
        for sampler in (leads, follows):
            sampler.validation(loss=1.0, accuracy=0.5, modalities={"audio": (0.5, 0.5), "video": (0.5, 0.5)})
    assert [sampler.flush() for sampler in two] == [True, True]
    state = client.job(job.name)
    assert (state.steps_fed_back, len(state.trainers)) == (2 * BATCHES, 1)
    assert [sampler.stats.repeated_feedback for sampler in two] == [0, 0]


def test_either_ones_checkpoint_goes_on(
    client: SchedulerClient, job: JobSpec, two: tuple[ScheduledBatchSampler, ScheduledBatchSampler]
) -> None:
    leads, follows = two
    came = train(leads, 3)
    assert train(follows, 3) == came
    states = [leads.state_dict(), follows.state_dict()]
    assert [state["step"] for state in states] == [3, 3]
    leads.close()
    with ScheduledBatchSampler(job, client) as later:
        later.load_state_dict(states[1])
        came += train(later)
    assert sorted(i for batch in came for i in batch) == list(range(SAMPLES))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"if_exists": "new"}, "if_exists must be fail where processes share a rank, got new"),
        ({"on_outage": "local"}, "on_outage must be wait or raise where processes share a rank, got local"),
    ],
)
def test_what_the_processes_of_a_rank_could_not_agree_on_is_refused(
    client: SchedulerClient, job: JobSpec, options: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        ScheduledBatchSampler(job, client, rank=0, world_size=1, follows=True, **options)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchtitans_loader_goes_on_from_a_distributed_checkpoint(
    client: SchedulerClient, job_name: str, tmp_path: Any
) -> None:
    def loader() -> ScheduledDataLoader:
        return ScheduledDataLoader(
            *schedule(DataLoader(Data(), batch_size=BATCH), name=job_name, url=client, **{**JOB, "policy": "uniform"})
        )

    def take(dataloader: ScheduledDataLoader, steps: int) -> list[int]:
        came: list[int] = []
        for _, (index, _) in zip(range(steps), dataloader, strict=False):
            dataloader.sampler.feedback(index, {"loss": index.float()})
            came += index.tolist()
        return came

    first = loader()
    assert isinstance(first, Stateful)
    came = take(first, BATCHES + 3)  # over the end of an epoch
    dcp.save({"dataloader": first}, checkpoint_id=tmp_path)
    first.close()
    second = loader()
    dcp.load({"dataloader": second}, checkpoint_id=tmp_path)
    came += take(second, BATCHES - 3)
    second.close()
    assert [sorted(came[:SAMPLES]), sorted(came[SAMPLES:])] == 2 * [list(range(SAMPLES))]
