"""A WORLD_SIZE that is left over in the environment makes a sampler one of several ranks: that is said."""

import warnings
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.support.simulated import spec
from trainer_client import ScheduledBatchSampler, SchedulerClient

SENTENCE = (
    r"WORLD_SIZE is 4 in the environment, and there is no process group: this sampler takes the share of rank 0 of 4, "
    r"2 of the 8 samples of each batch\. If this process trains alone, unset WORLD_SIZE and RANK; else create the "
    r"sampler after torch\.distributed\.init_process_group, or give it rank and world_size"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")


def test_it_is_said_at_the_start_and_once(client: SchedulerClient, job_name: str) -> None:
    with pytest.warns(UserWarning, match=SENTENCE) as said:
        sampler = ScheduledBatchSampler(spec(job_name, policy="uniform"), client)
    assert len(said) == 1
    assert said[0].filename == __file__
    with sampler:
        assert len(next(iter(sampler))) == 2


def test_it_is_said_before_a_batch_that_it_does_not_divide(client: SchedulerClient, job_name: str) -> None:
    with (
        pytest.warns(UserWarning, match="WORLD_SIZE is 4 in the environment"),
        pytest.raises(ValueError, match="world_size must divide the batch size 6, got 4"),
    ):
        ScheduledBatchSampler(spec(job_name, batch_size=6), client)


def test_a_place_that_is_given_is_no_accident(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name, policy="uniform"), client, rank=0, world_size=1) as sampler:
        assert len(next(iter(sampler))) == 8


def test_a_world_of_one_needs_no_word(client: SchedulerClient, job_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
        assert len(next(iter(sampler))) == 8


class TestTorchrun:
    """Its environment is no left-over, and the process group may come after the sampler: then nothing is said."""

    @pytest.fixture(autouse=True)
    def launched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    def test_a_group_that_comes_before_the_first_batch(
        self, client: SchedulerClient, job_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
            monkeypatch.setattr(dist, "is_initialized", lambda: True)
            monkeypatch.setattr(dist, "get_rank", lambda: 0)
            monkeypatch.setattr(dist, "get_world_size", lambda: 4)
            assert len(next(iter(sampler))) == 2

    def test_where_none_comes_it_is_said_with_the_first_batch(self, client: SchedulerClient, job_name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sampler = ScheduledBatchSampler(spec(job_name, policy="uniform"), client)
        with sampler, pytest.warns(UserWarning, match=SENTENCE):
            next(iter(sampler))
