"""Several ranks with DistributedDataParallel over gloo: real processes, which also die."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from tests.support.services import Service
from tests.support.simulated import spec
from tests.trainer_client.support.proxy import Proxy
from tests.trainer_client.support.rank import JOB, measured
from trainer_client import ScheduledBatchSampler, SchedulerClient
from trainer_client.reference.checkpoint import read_checkpoint

STEPS = 14  # an epoch has 6
HANG = 60
NUMBERS = count()
Batches = dict[int, list[int]]


class World:
    """The ranks of one job, over a folder with their checkpoint."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.url = service.url
        self.folder = folder
        self.job = f"ddp-{next(NUMBERS)}"
        self._generation = count()
        self._started: list[subprocess.Popen[str]] = []

    def start(self, rank: int, size: int, until: int, dies_at: int | None = None) -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-m",
            "tests.trainer_client.support.rank",
            self.url,
            self.job,
            str(self.folder),
            str(until),
        ]
        command += [] if dies_at is None else [str(dies_at)]
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
        self._started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return self._started[-1]

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def meet_anew(self) -> None:
        """Another meeting place: those who wait there are met by no one who is dead."""
        temporary = self.folder / "generation.new"
        temporary.write_text(str(next(self._generation)))
        temporary.replace(self.folder / "generation")

    def run(self, size: int, until: int = STEPS) -> Batches:
        """The global batches that all ranks together trained on."""
        self.meet_anew()
        return together([self.start(rank, size, until) for rank in range(size)])


def together(ranks: "list[subprocess.Popen[str]]") -> Batches:
    batches: list[dict[str, list[int]]] = []
    for process in ranks:
        stdout, _ = process.communicate(timeout=HANG)
        assert process.returncode == 0
        batches.append(json.loads(stdout.splitlines()[-1]))
    assert all(rows.keys() == batches[0].keys() for rows in batches)
    return {int(step): [index for rows in batches for index in rows[step]] for step in batches[0]}


@pytest.fixture
def world(service: Service, tmp_path: Path) -> Iterator[World]:
    opened = World(service, tmp_path)
    yield opened
    opened.end()


@pytest.fixture(scope="module")
def alone(service: Service) -> Batches:
    """The batches of one rank, in this process."""
    batches: Batches = {}
    with (
        service.client() as client,
        ScheduledBatchSampler(spec(f"ddp-alone-{os.getpid()}", **JOB), client, rank=0, world_size=1) as sampler,
    ):
        while len(batches) < STEPS:
            for indices in sampler:
                step = len(batches)
                batches[step] = indices
                sampler.feedback(step, measured(step, torch.tensor(indices)))
                if len(batches) == STEPS:
                    return batches
            heads = {"audio": (0.5, 0.5), "video": (0.3, 0.3 + len(batches) / 1000)}
            sampler.validation(loss=2 - len(batches) / 100, accuracy=0.5, modalities=heads)
    raise AssertionError


def counted_once(client: SchedulerClient, world: World) -> bool:
    """Whether the service has the feedback of each step whole, and none beside."""
    return client.job(world.job).steps_fed_back == STEPS


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.long)])
def test_the_ranks_batches_are_together_those_of_one_rank(
    world: World, client: SchedulerClient, alone: Batches, size: int
) -> None:
    assert world.run(size) == alone
    assert counted_once(client, world)


@pytest.mark.parametrize(
    ("first", "then"), [(2, 1), pytest.param(2, 4, marks=pytest.mark.long), pytest.param(4, 1, marks=pytest.mark.long)]
)
def test_a_run_goes_on_in_an_epoch_with_another_number_of_ranks(
    world: World, client: SchedulerClient, alone: Batches, first: int, then: int
) -> None:
    assert {**world.run(first, until=8), **world.run(then)} == alone
    assert counted_once(client, world)


@pytest.mark.long
def test_ranks_that_are_restarted_after_one_died_train_on_the_same_batches(
    world: World, client: SchedulerClient, alone: Batches
) -> None:
    world.meet_anew()
    survivor, dying = world.start(0, 2, STEPS), world.start(1, 2, STEPS, dies_at=9)
    assert dying.wait(HANG) == -signal.SIGKILL
    survivor.kill()  # as torchrun does
    survivor.communicate()
    assert read_checkpoint(world.folder / "checkpoint.pt")["step"] == 8
    assert world.run(2) == {step: alone[step] for step in range(8, STEPS)}
    assert counted_once(client, world)


@pytest.mark.long
def test_a_rank_that_dies_and_comes_back_alone_trains_on_the_same_batches(
    world: World, client: SchedulerClient, alone: Batches
) -> None:
    world.meet_anew()
    survivor, dying = world.start(0, 2, STEPS), world.start(1, 2, STEPS, dies_at=9)
    assert dying.wait(HANG) == -signal.SIGKILL
    dying.communicate()
    world.meet_anew()
    back = world.start(1, 2, STEPS)
    rows = [json.loads(process.communicate(timeout=HANG)[0].splitlines()[-1]) for process in (survivor, back)]
    assert {step: rows[0][str(step)] + rows[1][str(step)] for step in range(8, STEPS)} == {
        step: alone[step] for step in range(8, STEPS)
    }
    assert counted_once(client, world)


def test_a_checkpoint_of_one_rank_waits_for_the_feedback_of_all(service: Service, client: SchedulerClient) -> None:
    job, proxy = spec(f"ddp-{next(NUMBERS)}", policy="uniform"), Proxy(service.port)
    with (
        SchedulerClient(proxy.url) as other,
        ScheduledBatchSampler(job, client, rank=0, world_size=2) as first,
        ScheduledBatchSampler(job, other, rank=1, world_size=2) as second,
    ):
        batches = zip(first, second, strict=True)
        ours, theirs = next(batches)
        proxy.down_for(0.5)  # the other rank's feedback can't leave before
        second.feedback(0, measured(0, torch.tensor(theirs)))
        first.feedback(0, measured(0, torch.tensor(ours)))
        assert first.state_dict()["step"] == 1
        assert client.job(job.name).steps_fed_back == 1
    proxy.close()


def test_a_checkpoint_without_the_feedback_of_a_rank_says_so(
    client: SchedulerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_client.exchange.session.RANKS_SECONDS", 0.1)
    with ScheduledBatchSampler(spec(f"ddp-{next(NUMBERS)}", policy="uniform"), client, rank=0, world_size=2) as sampler:
        sampler.feedback(next(iter(sampler)))
        with pytest.warns(UserWarning, match="a checkpoint of step 1 is taken without the feedback of all ranks"):
            assert sampler.state_dict()["step"] == 1
