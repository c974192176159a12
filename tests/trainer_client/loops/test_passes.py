"""Passes that are broken off, batches that are left out, loaders that pull ahead: no sample is lost, and none waits."""

import logging
import time
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tests.support.simulated import spec
from trainer_client import (
    Measurement,
    ScheduledBatchSampler,
    SchedulerClient,
    SecondIterationError,
    WithIndex,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
SAMPLES = 96
SPAWNED = "2 that are spawned"
LOADERS: dict[str, dict[str, Any]] = {
    "no workers": {},
    "2 workers": {"num_workers": 2},
    "4 workers, 8 batches each": {"num_workers": 4, "prefetch_factor": 8},
    "2 that stay": {"num_workers": 2, "prefetch_factor": 8, "persistent_workers": True},
    SPAWNED: {"num_workers": 2, "multiprocessing_context": "spawn"},
}
every_loader = pytest.mark.parametrize("kind", [kind for kind in LOADERS if kind != SPAWNED])  # those take seconds
every_loader_there_is = pytest.mark.parametrize("kind", LOADERS)


def loader_of(sampler: ScheduledBatchSampler, kind: str = "no workers", **options: Any) -> DataLoader[Any]:
    dataset = WithIndex(TensorDataset(torch.arange(SAMPLES)))
    return DataLoader(dataset, batch_sampler=sampler, **LOADERS[kind], **options)


def measured(index: torch.Tensor) -> Measurement:
    x = torch.sin(index * 12.9898) * 0.5 + 0.5
    return {"similarity": x, "loss": 3 - 2 * x, "probability": x[:, None].repeat(1, 3)}


@pytest.fixture(params=[None, (0, 2)], ids=["one rank", "rank 0 of 2"])
def sampler(client: SchedulerClient, job_name: str, request: pytest.FixtureRequest) -> Iterator[ScheduledBatchSampler]:
    ranks = {} if request.param is None else {"rank": request.param[0], "world_size": request.param[1]}
    job = spec(job_name, samples=SAMPLES, batch_size=6, policy="uniform", patience=0.0 if ranks else 60.0)
    with ScheduledBatchSampler(job, client, prefetch=4, **ranks) as made:
        yield made


@every_loader_there_is
def test_batches_that_were_pulled_and_not_trained_on_come_again(sampler: ScheduledBatchSampler, kind: str) -> None:
    loader, came = loader_of(sampler, kind), []
    for index, _ in loader:
        sampler.feedback(index, measured(index))
        came += index.tolist()
        if len(came) >= 5 * len(index):
            break
    for index, _ in loader:
        sampler.feedback(index, measured(index))
        came += index.tolist()
    assert len(came) == len(set(came)) == SAMPLES // sampler.world_size
    assert sampler.batches_trained == len(loader) == 16


@every_loader
def test_a_look_at_the_first_batch_costs_nothing(sampler: ScheduledBatchSampler, kind: str) -> None:
    loader = loader_of(sampler, kind)
    peeked, _ = next(iter(loader))
    came = [index.tolist() for index, _ in loader if sampler.feedback(index) is None]
    assert came[0] == peeked.tolist()
    assert len(came) == 16


@every_loader
@pytest.mark.filterwarnings("ignore:no feedback was given")
def test_a_loop_without_feedback_goes_from_epoch_to_epoch(sampler: ScheduledBatchSampler, kind: str) -> None:
    loader = loader_of(sampler, kind)
    epochs = [np.concatenate([index for index, _ in loader]).tolist() for _ in range(3)]
    assert [len(set(epoch)) for epoch in epochs] == 3 * [SAMPLES // sampler.world_size]
    assert epochs[0] != epochs[1]
    assert sampler.batches_trained == 48


@pytest.mark.parametrize("kind", ["no workers", "4 workers, 8 batches each"])
def test_two_iterations_at_once_are_an_error(sampler: ScheduledBatchSampler, kind: str) -> None:
    loader = loader_of(sampler, kind)
    with pytest.raises(SecondIterationError, match="goes on after another one over the same sampler has begun"):
        list(zip(loader, loader, strict=True))
    came = []
    with pytest.raises(SecondIterationError):
        for index, _ in loader:
            sampler.feedback(index)
            came += index.tolist()
            for inner, _ in loader:
                sampler.feedback(inner)
                came += inner.tolist()
    assert len(came) == len(set(came)) == SAMPLES // sampler.world_size


@every_loader
def test_a_checkpoint_counts_what_the_loop_was_given(sampler: ScheduledBatchSampler, kind: str) -> None:
    batches = iter(loader_of(sampler, kind))
    for _ in range(3):
        next(batches)
    assert sampler.batches_trained == 3  # it gives no feedback
    index, _ = next(batches)
    sampler.feedback(index)
    assert sampler.batches_trained == 4


class TestABatchThatIsLeftOut:
    """A loss that is not finite, and `continue`."""

    @pytest.fixture(params=["no workers", "2 workers"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    @pytest.mark.parametrize("interval", [None, 1, 2, 5])
    def test_it_is_said_with_skip(
        self, client: SchedulerClient, job_name: str, kind: str, interval: int | None
    ) -> None:
        job = spec(job_name, samples=SAMPLES, batch_size=6, interval=interval, lag=4, patience=60)
        with ScheduledBatchSampler(job, client) as sampler:
            for _ in range(2):
                for index, _ in loader_of(sampler, kind):
                    if 0 in index:
                        sampler.skip(index)
                        continue
                    sampler.feedback(index, measured(index))
            assert sampler.batches_trained == 32
            assert sampler.stats.passed_over == 0
            sampler.flush()
            assert client.job(job_name).fed_back_until == 32

    @pytest.mark.parametrize("interval", [1, 2, 5])
    def test_if_nothing_is_said_nobody_waits(self, client: SchedulerClient, job_name: str, interval: int) -> None:
        job = spec(job_name, samples=SAMPLES, batch_size=6, interval=interval, patience=60)
        started = time.monotonic()
        with ScheduledBatchSampler(job, client) as sampler:
            with pytest.warns(UserWarning, match=r"step 7 was passed over .* call sampler\.skip\(index\)"):
                for step, (index, _) in enumerate(loader_of(sampler)):
                    if step % 8 != 7:
                        sampler.feedback(index, measured(index))
            assert sampler.stats.passed_over >= 1
        assert time.monotonic() - started < 30

    def test_a_checkpoint_stands_behind_it(self, client: SchedulerClient, job_name: str, kind: str) -> None:
        job = spec(job_name, samples=SAMPLES, batch_size=6)
        with ScheduledBatchSampler(job, client) as sampler:
            for step, (index, _) in enumerate(loader_of(sampler, kind)):
                if step != 2:
                    sampler.feedback(index, measured(index))
                if step == 11:
                    break
            state = sampler.state_dict()
        assert state["step"] == 12
        with ScheduledBatchSampler(job, client) as sampler:
            sampler.load_state_dict(state)
            rest = [index for index, _ in loader_of(sampler, kind) if sampler.feedback(index) is None]
            assert len(rest) == 4
            sampler.flush()
            assert client.job(job_name).fed_back_until == 16

    def test_what_was_passed_over_takes_no_feedback_any_more(self, client: SchedulerClient, job_name: str) -> None:
        job = spec(job_name, samples=SAMPLES, batch_size=6, interval=2)
        with ScheduledBatchSampler(job, client) as sampler, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batches = [
                index
                for step, (index, _) in zip(range(6), loader_of(sampler), strict=False)
                if fed(sampler, step, index)
            ]
            with pytest.raises(ValueError, match="has no feedback yet"):
                sampler.feedback(batches[3])


def fed(sampler: ScheduledBatchSampler, step: int, index: torch.Tensor) -> bool:
    if step != 3:
        sampler.feedback(index)
    return True


def test_a_hold_of_more_than_a_second_is_logged_with_its_cause(
    client: SchedulerClient, job_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = spec(job_name, samples=SAMPLES, batch_size=6, interval=2, patience=1.5)
    with (
        caplog.at_level(logging.WARNING, "trainer_client"),
        ScheduledBatchSampler(job, client, rank=0, world_size=2) as sampler,
    ):
        for step, (index, _) in enumerate(loader_of(sampler)):
            sampler.feedback(index)
            if step == 3:
                break
    held = [r.message for r in caplog.records if "waited for" in r.message]
    assert len(held) == len(set(held)) in (1, 2)  # one a hold
    assert held[0].startswith("step 2 is waited for: the scheduler draws its interval when the feedback of all 2 ranks")


class TestACollateFunctionThatDropsSamples:
    """Unreadable files: what is left of a batch has its feedback, the rest counts as not measured."""

    @pytest.mark.parametrize("kind", ["no workers", "2 workers"])
    def test_feedback_is_of_those_that_are_left(self, client: SchedulerClient, job_name: str, kind: str) -> None:
        def readable(samples: list[Any]) -> Any:
            return default_collate([sample for sample in samples if sample[0] % 5])

        job = spec(job_name, samples=SAMPLES, batch_size=6, policy="uniform")
        with ScheduledBatchSampler(job, client) as sampler:
            for index, _ in loader_of(sampler, kind, collate_fn=readable):
                sampler.feedback(index, measured(index))
            sampler.flush()
            next(iter(sampler))  # the next plan learns it
            state = client.job(job_name)
            samples = {i: client.sample(job_name, i) for i in (0, 7, 95)}
        assert state.steps_fed_back == 16
        assert state.samples_measured == sum(i % 5 > 0 for i in range(SAMPLES))
        expected = float(measured(torch.tensor([7]))["loss"][0])
        assert samples[7].signals["loss"] == pytest.approx(expected)
        assert samples[0].signals["loss"] is samples[95].signals["loss"] is None

    def test_a_batch_of_which_nothing_is_left_is_skipped(self, client: SchedulerClient, job_name: str) -> None:
        with ScheduledBatchSampler(spec(job_name, samples=SAMPLES, batch_size=6), client) as sampler:
            index, _ = next(iter(loader_of(sampler)))
            with pytest.raises(ValueError, match="index must be a batch of this rank"):
                sampler.feedback([])
            sampler.skip(index[:1])
            assert sampler.batches_trained == 1

    def test_another_order_is_fine_and_a_stranger_is_not(self, client: SchedulerClient, job_name: str) -> None:
        with ScheduledBatchSampler(spec(job_name, samples=SAMPLES, batch_size=6), client) as sampler:
            batches = loader_of(sampler)
            index, _ = next(iter(batches))
            stranger = next(i for i in range(SAMPLES) if i not in index)
            with pytest.raises(ValueError, match="got"):
                sampler.feedback([*index[:3].tolist(), stranger])
            turned = index.flip(0)[:4]
            sampler.feedback(turned, measured(turned))
            assert [index.tolist() for index, _ in batches if sampler.feedback(index) is None]
            sampler.flush()
            next(iter(sampler))
            for i in turned.tolist():
                known = client.sample(job_name, i).signals["similarity"]
                assert known == pytest.approx(float(measured(torch.tensor([i]))["similarity"][0]))


def test_a_loop_that_forgets_feedback_is_told_the_line(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name, samples=SAMPLES, batch_size=6), client) as sampler:
        loader = loader_of(sampler)
        list(loader)
        with pytest.warns(
            UserWarning, match=r"no feedback .* 16 batches .*sampler\.feedback\(index, measure\(\.\.\.\)\)"
        ):
            list(loader)


@every_loader
def test_what_a_loop_lets_go_of_is_gone(sampler: ScheduledBatchSampler, kind: str) -> None:
    class Model:
        """Something large of the user's."""

    model = Model()
    gone = weakref.ref(model)
    for index, _ in loader_of(sampler, kind):
        sampler.feedback(index, measured(index))
        break
    del model
    assert gone() is None
