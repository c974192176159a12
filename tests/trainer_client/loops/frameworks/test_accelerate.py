"""A loader that Accelerate prepared in one process trains as it would have without."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader, TensorDataset

from tests.support.simulated import spec
from trainer_client import DoubleSkipError, JobExistsError, JobSpec, ScheduledBatchSampler, SchedulerClient, WithIndex

pytestmark = [
    pytest.mark.filterwarnings("ignore:no feedback was given"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]
NUMBERS = count()
SAMPLES, BATCHES = 48, 8
Batches = list[list[int]]
LOADERS: dict[str, dict[str, Any]] = {"no workers": {}, "2 workers": {"num_workers": 2}}
every_loader = pytest.mark.parametrize("kind", LOADERS)
feedback_or_not = pytest.mark.parametrize("feeds", [True, False], ids=["feedback", "no feedback"])


@pytest.fixture(params=[False, True], ids=["", "stateful"])
def accelerator(request: pytest.FixtureRequest) -> Iterator[Accelerator]:
    yield Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_stateful_dataloader=request.param))
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture
def job() -> JobSpec:
    return spec(f"accelerate-{next(NUMBERS)}", samples=SAMPLES, batch_size=6, policy="uniform")


@pytest.fixture
def whole(client: SchedulerClient, job: JobSpec) -> Batches:
    """The batches of three epochs without Accelerate."""
    with ScheduledBatchSampler(job.model_copy(update={"name": f"{job.name}-whole"}), client) as sampler:
        return [batch for _ in range(3) for batch in sampler]


def plain(sampler: ScheduledBatchSampler, kind: str) -> DataLoader[Any]:
    return DataLoader(WithIndex(TensorDataset(torch.arange(SAMPLES))), batch_sampler=sampler, **LOADERS[kind])


def train(
    sampler: ScheduledBatchSampler, loader: Any, *, feeds: bool = True, epochs: int = 1, steps: int | None = None
) -> Batches:
    came: Batches = []
    for _ in range(epochs):
        for index, _ in loader:
            came.append(index.tolist())
            if feeds:
                sampler.feedback(index, {"loss": index.float()})
            if len(came) == steps:
                return came
    return came


@feedback_or_not
@every_loader
def test_epochs_follow_in_turn(
    client: SchedulerClient, job: JobSpec, whole: Batches, accelerator: Accelerator, kind: str, feeds: bool
) -> None:
    with ScheduledBatchSampler(job, client) as sampler:
        loader = accelerator.prepare(plain(sampler, kind))
        assert train(sampler, loader, feeds=feeds, epochs=3) == whole
        assert sampler.batches_trained == 3 * BATCHES


@feedback_or_not
@every_loader
@pytest.mark.parametrize("stop", [3, BATCHES - 1, BATCHES + 3])
def test_a_checkpoint_goes_on_where_training_was(
    client: SchedulerClient, job: JobSpec, whole: Batches, accelerator: Accelerator, kind: str, feeds: bool, stop: int
) -> None:
    with ScheduledBatchSampler(job, client) as sampler:
        came = train(sampler, accelerator.prepare(plain(sampler, kind)), feeds=feeds, epochs=2, steps=stop)
        state = sampler.state_dict()
    assert state["step"] == stop
    with ScheduledBatchSampler(job, client) as sampler:
        sampler.load_state_dict(state)
        loader = accelerator.prepare(plain(sampler, kind))
        came += train(sampler, loader, feeds=feeds, epochs=2 if stop > BATCHES else 3)
    assert came == whole


@every_loader
def test_a_state_may_come_after_prepare_unless_workers_of_a_stateful_loader_have_pulled(
    client: SchedulerClient, job: JobSpec, whole: Batches, accelerator: Accelerator, kind: str
) -> None:
    with ScheduledBatchSampler(job, client) as sampler:
        came = train(sampler, plain(sampler, kind), steps=3)
        state = sampler.state_dict()
    with ScheduledBatchSampler(job, client) as sampler:
        if kind == "2 workers" and accelerator.use_stateful_dataloader:
            with pytest.raises(JobExistsError, match="or load_state_dict of its checkpoint"):
                accelerator.prepare(plain(sampler, kind))
            return
        loader = accelerator.prepare(plain(sampler, kind))
        sampler.load_state_dict(state)
        assert came + train(sampler, loader) == whole[:BATCHES]


@pytest.mark.parametrize("stop", [3, BATCHES])
def test_a_stateful_loaders_own_state_is_enough(
    client: SchedulerClient, job: JobSpec, whole: Batches, accelerator: Accelerator, stop: int
) -> None:
    if not accelerator.use_stateful_dataloader:
        return
    with ScheduledBatchSampler(job, client) as sampler:
        loader = accelerator.prepare(plain(sampler, "no workers"))
        came = train(sampler, loader, steps=stop)
        state = loader.state_dict()
    with ScheduledBatchSampler(job, client) as sampler:
        loader = accelerator.prepare(plain(sampler, "no workers"))
        loader.load_state_dict(state)
        came += train(sampler, loader, epochs=2 if stop == BATCHES else 3)
    assert came == whole


@every_loader
def test_skipping_what_was_trained_on_is_refused(
    client: SchedulerClient, job: JobSpec, accelerator: Accelerator, kind: str
) -> None:
    with ScheduledBatchSampler(job, client) as sampler:
        train(sampler, plain(sampler, kind), steps=3)
        state = sampler.state_dict()
    with ScheduledBatchSampler(job, client) as sampler:
        sampler.load_state_dict(state)
        loader = skip_first_batches(accelerator.prepare(plain(sampler, kind)), 3)
        with pytest.raises(DoubleSkipError, match="the loop skips 3 batches, but this sampler goes on where training"):
            next(iter(loader))


def test_a_loop_of_ones_own_that_skips_by_that_name_is_left_alone(client: SchedulerClient, job: JobSpec) -> None:
    class Trainer:
        skip_batches = 5

        def train(self, sampler: ScheduledBatchSampler) -> Batches:
            return train(sampler, plain(sampler, "no workers"))

    with ScheduledBatchSampler(job, client) as sampler:
        assert len(Trainer().train(sampler)) == BATCHES
