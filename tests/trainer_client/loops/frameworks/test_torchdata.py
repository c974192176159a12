"""torchdata's StatefulDataLoader keeps a state of the sampler with each batch that it pulls, and goes on with that."""

import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.support.simulated import spec
from trainer_client import JobSpec, ScheduledBatchSampler, SchedulerClient, WithIndex

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:no feedback was given"),
]
NUMBERS = count()
SAMPLES, BATCHES, EPOCHS = 48, 8, 3  # batches of an epoch
LOADERS: dict[str, dict[str, Any]] = {
    "no workers": {},
    "1 worker": {"num_workers": 1},
    "2 workers": {"num_workers": 2, "prefetch_factor": 3},
    "2 that stay": {"num_workers": 2, "persistent_workers": True},
    "4 that stay": {"num_workers": 4, "persistent_workers": True},
}
Batches = list[list[int]]


def job_of(name: str, **fields: Any) -> JobSpec:
    return spec(name, samples=SAMPLES, batch_size=6, policy="uniform", **fields)


def loader_of(sampler: ScheduledBatchSampler, kind: str, **options: Any) -> StatefulDataLoader[Any]:
    dataset = WithIndex(TensorDataset(torch.arange(SAMPLES)))
    return StatefulDataLoader(dataset, batch_sampler=sampler, **LOADERS[kind], **options)


class Script:
    """A user's script, which keeps the loader's state in a file, stops, and is started again."""

    def __init__(self, client: SchedulerClient, job: JobSpec, file: Path, kind: str, *, feeds: bool = True) -> None:
        self.client, self.job, self.file, self.kind, self.feeds = client, job, file, kind, feeds
        self.came: Batches = []
        self.epoch = 0

    def run(self, *, until: int | None = None, saves_after_epoch: bool = False, **options: Any) -> None:
        with ScheduledBatchSampler(self.job, self.client) as sampler:
            loader = loader_of(sampler, self.kind, **options)
            if self.file.exists():
                loader.load_state_dict(torch.load(self.file, weights_only=True))
            while self.epoch < EPOCHS:
                for index, _ in loader:
                    self.came.append(index.tolist())
                    if self.feeds:
                        sampler.feedback(index, {"loss": index.float()})
                    if len(self.came) == until and not saves_after_epoch:
                        torch.save(loader.state_dict(), self.file)
                        return
                self.epoch += 1
                if len(self.came) == until:
                    torch.save(loader.state_dict(), self.file)
                    return


@pytest.fixture
def job_name() -> str:
    return f"torchdata-{next(NUMBERS)}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "loader.pt"


@pytest.fixture
def whole(client: SchedulerClient, job_name: str, file: Path) -> Batches:
    """The batches of an uninterrupted run."""
    script = Script(client, job_of(f"{job_name}-whole"), file, "no workers")
    script.run()
    assert len({i for batch in script.came[:BATCHES] for i in batch}) == SAMPLES
    return script.came


@pytest.mark.parametrize("feeds", [True, False], ids=["feedback", "no feedback"])
@pytest.mark.parametrize("kind", LOADERS)
def test_a_run_that_is_stopped_again_and_again_has_the_batches_of_one_that_is_not(
    client: SchedulerClient, job_name: str, whole: Batches, file: Path, kind: str, feeds: bool
) -> None:
    script = Script(client, job_of(job_name), file, kind, feeds=feeds)
    for until in (3, BATCHES, BATCHES + 7):  # in an epoch, with its last batch, and before the last
        script.run(until=until)
        assert len(script.came) == until
    script.run()
    assert script.came == whole
    assert not feeds or client.job(job_name).fed_back_until == EPOCHS * BATCHES


@pytest.mark.parametrize("kind", ["no workers", "2 workers", "2 that stay"])
def test_a_state_of_an_epochs_end_begins_the_next(
    client: SchedulerClient, job_name: str, whole: Batches, file: Path, kind: str
) -> None:
    script = Script(client, job_of(job_name), file, kind)
    script.run(until=BATCHES, saves_after_epoch=True)
    assert script.epoch == 1
    script.run()
    assert script.came == whole


@pytest.mark.parametrize("kind", ["no workers", "2 workers"])
def test_snapshots_of_every_third_batch_are_enough(
    client: SchedulerClient, job_name: str, whole: Batches, file: Path, kind: str
) -> None:
    script = Script(client, job_of(job_name), file, kind)
    for until in (4, BATCHES + 5):
        script.run(until=until, snapshot_every_n_steps=3)
    script.run(snapshot_every_n_steps=3)
    assert script.came == whole


def test_a_checkpoint_of_the_samplers_own_is_right_with_its_loader_too(
    client: SchedulerClient, job_name: str, whole: Batches
) -> None:
    came: Batches = []
    with ScheduledBatchSampler(job_of(job_name), client) as sampler:
        for index, _ in loader_of(sampler, "2 workers"):
            sampler.feedback(index)
            came.append(index.tolist())
            if len(came) == 3:
                break
        state = sampler.state_dict()
    with ScheduledBatchSampler(job_of(job_name), client) as sampler:
        sampler.load_state_dict(state)
        came += [index.tolist() for index, _ in loader_of(sampler, "2 workers")]
    assert came == whole[:BATCHES]


@pytest.mark.parametrize("kind", ["no workers", "2 workers"])
def test_pulling_waits_for_no_other_rank(client: SchedulerClient, job_name: str, kind: str) -> None:
    """A checkpoint of the sampler's own waits, at most ten seconds; a state with each batch must not."""
    started = time.monotonic()
    with ScheduledBatchSampler(job_of(job_name), client, rank=0, world_size=2) as sampler:
        loader = loader_of(sampler, kind)
        for index, _ in loader:
            sampler.feedback(index)
            assert loader.state_dict()
    assert time.monotonic() - started < 8
