"""Which rank of how many a sampler is: left over in the environment, told of later, and another by now."""

import warnings
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from bss_service.protocol.training import AttachRequest, StepsRequest
from tests.support.simulated import spec
from trainer_client import JobSpec, ScheduledBatchSampler, SchedulerClient
from trainer_client.integrations.schedule import schedule

Group = Callable[[int, int], None]

SENTENCE = (
    r"WORLD_SIZE is 4 in the environment, and there is no process group: this sampler takes the share of rank 0 of 4, "
    r"2 of the 8 samples of each batch\. If this process trains alone, unset WORLD_SIZE and RANK; else create the "
    r"sampler after torch\.distributed\.init_process_group, or give it rank and world_size"
)


@pytest.fixture
def left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """Puts this process into a process group, as one rank of so many."""

    def group(rank: int, size: int) -> None:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: size)

    return group


@pytest.mark.usefixtures("left_over")
class TestLeftOver:
    """A WORLD_SIZE without a process group may be an accident: it is said."""

    def test_it_is_said_at_the_start_and_once(self, client: SchedulerClient, job_name: str) -> None:
        with pytest.warns(UserWarning, match=SENTENCE) as said:
            sampler = ScheduledBatchSampler(spec(job_name, policy="uniform"), client)
        assert len(said) == 1
        assert said[0].filename == __file__
        with sampler:
            assert len(next(iter(sampler))) == 2

    def test_it_is_said_before_a_batch_that_it_does_not_divide(self, client: SchedulerClient, job_name: str) -> None:
        with (
            pytest.warns(UserWarning, match="WORLD_SIZE is 4 in the environment"),
            pytest.raises(ValueError, match="world_size must divide the batch size 6, got 4"),
        ):
            ScheduledBatchSampler(spec(job_name, batch_size=6), client)

    def test_a_place_that_is_given_is_no_accident(self, client: SchedulerClient, job_name: str) -> None:
        with ScheduledBatchSampler(spec(job_name, policy="uniform"), client, rank=0, world_size=1) as sampler:
            assert len(next(iter(sampler))) == 8

    def test_a_world_of_one_needs_no_word(
        self, client: SchedulerClient, job_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "1")
        with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
            assert len(next(iter(sampler))) == 8


@pytest.mark.usefixtures("left_over")
class TestTorchrun:
    """Its environment is no left-over, and the process group may come after the sampler: then nothing is said."""

    @pytest.fixture(autouse=True)
    def launched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    def test_a_group_that_comes_before_the_first_batch(
        self, client: SchedulerClient, job_name: str, group: Group
    ) -> None:
        with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
            group(0, 4)
            assert len(next(iter(sampler))) == 2

    def test_where_none_comes_it_is_said_with_the_first_batch(self, client: SchedulerClient, job_name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sampler = ScheduledBatchSampler(spec(job_name, policy="uniform"), client)
        with sampler, pytest.warns(UserWarning, match=SENTENCE):
            next(iter(sampler))


def lead(client: SchedulerClient, job: str) -> None:
    """Be rank 0 of two, and ask for a step: only that rank's asking has an interval drawn."""
    client.attach(job, AttachRequest(rank=0, world_size=2, client="leads", host="gpu-1", process=7))
    client.steps(job, StepsRequest(start=0, client="leads"))


class TestAGroupThatComesLater:
    """A framework that starts its other processes itself, such as Lightning, has no group while a script is read."""

    def test_a_sampler_takes_its_place_there(self, client: SchedulerClient, job_name: str, group: Group) -> None:
        with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
            assert (sampler.rank, sampler.world_size) == (0, 1)
            group(1, 2)
            assert (sampler.rank, sampler.world_size) == (1, 2)
            lead(client, job_name)
            assert len(next(iter(sampler))) == 4
            assert [trainer.rank for trainer in client.job(job_name).trainers] == [0, 1]

    def test_one_that_its_batch_does_not_fit_is_refused(
        self, client: SchedulerClient, job_name: str, group: Group
    ) -> None:
        with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
            group(0, 3)
            with pytest.raises(ValueError, match="world_size must divide the batch size 8, got 3"):
                next(iter(sampler))

    def test_a_loader_is_scheduled_for_as_many_as_will_be(
        self, client: SchedulerClient, job_name: str, group: Group
    ) -> None:
        loader: DataLoader[Any] = DataLoader(TensorDataset(torch.arange(48)), batch_size=6)
        scheduled, sampler = schedule(loader, name=job_name, modalities=["x"], url=client, world_size=2)
        with sampler:
            assert (sampler.spec.batch_size, sampler.rank) == (12, 0)
            group(1, 2)
            lead(client, job_name)
            assert len(next(iter(scheduled))[0]) == 6
            assert [trainer.rank for trainer in client.job(job_name).trainers] == [0, 1]

    def test_more_than_a_loader_was_scheduled_for_are_refused(
        self, client: SchedulerClient, job_name: str, group: Group
    ) -> None:
        loader: DataLoader[Any] = DataLoader(TensorDataset(torch.arange(48)), batch_size=6)
        scheduled, sampler = schedule(loader, name=job_name, modalities=["x"], url=client)
        group(1, 2)
        refused = r"world_size must be that of the process group, 2 by now, got 1: .* or give it world_size=2"
        with sampler, pytest.raises(ValueError, match=refused):
            next(iter(scheduled))


class TestAGroupThatChangesInAnEpoch:
    """No sample is lost, and none comes twice."""

    @pytest.fixture
    def job(self, job_name: str) -> JobSpec:
        return spec(job_name, samples=48, policy="uniform")

    def train(self, sampler: ScheduledBatchSampler) -> list[int]:
        """What comes in half an epoch."""
        came: list[int] = []
        for batch in islice(sampler, 3):
            sampler.feedback(torch.tensor(batch))
            came += batch
        return came

    def test_of_two_ranks_one_goes_on_alone(self, client: SchedulerClient, job: JobSpec, group: Group) -> None:
        group(0, 2)
        with ScheduledBatchSampler(job, client) as lasting:
            with ScheduledBatchSampler(job, client, rank=1, world_size=2) as leaving:
                came = self.train(lasting) + self.train(leaving)
            group(0, 1)
            came += self.train(lasting)
        assert sorted(came) == list(range(48))
        assert client.job(job.name).steps_fed_back == 6

    def test_one_is_joined_by_another(self, client: SchedulerClient, job: JobSpec, group: Group) -> None:
        group(0, 1)
        with ScheduledBatchSampler(job, client) as lasting:
            came = self.train(lasting)
            state = lasting.state_dict()
            group(0, 2)
            came += self.train(lasting)
            with ScheduledBatchSampler(job, client, rank=1, world_size=2) as joining:
                joining.load_state_dict(state)
                came += self.train(joining)
        assert sorted(came) == list(range(48))
        assert client.job(job.name).steps_fed_back == 6
