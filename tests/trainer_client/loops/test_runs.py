"""A job is one run's: a script that is run twice, two trainers at once, a trainer that died, ranks that come and go."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bss_service.protocol.jobs import JobChange
from bss_service.protocol.training import AttachRequest, StepsAnswer
from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client import (
    ConflictError,
    JobExistsError,
    JobSpec,
    ScheduledBatchSampler,
    SchedulerClient,
    SchedulerError,
    TooEarlyError,
    WithIndex,
)
from trainer_client.exchange import attachment

SAMPLES = 48
Batches = list[list[int]]


def train(
    sampler: ScheduledBatchSampler, epochs: int = 1, steps: int | None = None, workers: int = 0, samples: int = SAMPLES
) -> Batches:
    """What a user's script does."""
    loader: DataLoader[Any] = DataLoader(
        WithIndex(TensorDataset(torch.arange(samples))), batch_sampler=sampler, num_workers=workers
    )
    came: Batches = []
    for _ in range(epochs):
        for index, _ in loader:
            sampler.feedback(index, {"loss": index.float()})
            came.append(index.tolist())
            if len(came) == steps:
                return came
        sampler.validation(loss=1.0, accuracy=0.5, modalities={"audio": (0.5, 0.5), "video": (0.5, 0.5)})
    return came


@pytest.fixture
def job(job_name: str) -> JobSpec:
    return spec(job_name, samples=SAMPLES, batch_size=8, policy="uniform")


def script(job: JobSpec, client: SchedulerClient, **options: Any) -> Batches:
    with ScheduledBatchSampler(job, client, **options) as sampler:
        return train(sampler, 3)


class TestTheSameScriptRunTwice:
    def test_it_is_refused_with_the_three_ways_out(self, client: SchedulerClient, job: JobSpec) -> None:
        script(job, client)
        with pytest.raises(JobExistsError) as refused:
            script(job, client)
        assert str(refused.value) == (
            f"job '{job.name}' has handed out 18 steps to an earlier run: give this run another name, or "
            f"if_exists='new' for a job of its own ({job.name}-2, …), or go on with the earlier one by "
            "if_exists='resume' or load_state_dict of its checkpoint"
        )

    def test_a_new_job_is_one_of_its_own(
        self, client: SchedulerClient, job: JobSpec, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = script(job, client)
        for number in (2, 3):
            with ScheduledBatchSampler(job, client, if_exists="new") as sampler:
                assert train(sampler, 3) == first
                assert sampler.spec.name == f"{job.name}-{number}"
                sampler.flush()
                assert client.job(sampler.spec.name).steps_fed_back == 18
            assert f"this run is job '{job.name}-{number}'" in caplog.text

    def test_a_new_job_has_the_plain_name_where_that_is_free(self, client: SchedulerClient, job: JobSpec) -> None:
        with ScheduledBatchSampler(job, client, if_exists="new") as sampler:
            train(sampler)
            assert sampler.spec.name == job.name

    def test_a_resumed_job_goes_on_behind_its_feedback(
        self, client: SchedulerClient, job: JobSpec, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = script(job.model_copy(update={"name": f"{job.name}-whole"}), client)
        with ScheduledBatchSampler(job, client) as sampler:
            came = train(sampler, steps=4)
        with ScheduledBatchSampler(job, client, if_exists="resume") as sampler:
            came += train(sampler, 3)
        assert came == whole
        assert "is resumed without a checkpoint, at step 4" in caplog.text

    def test_a_checkpoint_says_enough(self, client: SchedulerClient, job: JobSpec) -> None:
        whole = script(job.model_copy(update={"name": f"{job.name}-whole"}), client)
        with ScheduledBatchSampler(job, client) as sampler:
            came = train(sampler, steps=8)
            state = sampler.state_dict()
        with ScheduledBatchSampler(job, client) as sampler:
            sampler.load_state_dict(state)
            came += train(sampler, 2)
        assert came == whole

    def test_a_checkpoint_of_a_job_that_was_named_anew_finds_it(self, client: SchedulerClient, job: JobSpec) -> None:
        script(job, client)
        with ScheduledBatchSampler(job, client, if_exists="new") as sampler:
            came = train(sampler, steps=2)
            state = sampler.state_dict()
        with ScheduledBatchSampler(job, client, if_exists="new") as sampler:
            sampler.load_state_dict(state)
            came += train(sampler)
            assert sampler.spec.name == f"{job.name}-2"
        assert len({i for batch in came for i in batch}) == SAMPLES

    def test_a_job_that_nobody_was_handed_steps_of_is_no_obstacle(self, client: SchedulerClient, job: JobSpec) -> None:
        client.create_job(job)
        with ScheduledBatchSampler(job, client):
            pass
        assert len(script(job, client)) == 18

    def test_another_word_is_refused(self, client: SchedulerClient, job: JobSpec) -> None:
        with pytest.raises(ValueError, match="if_exists must be fail, new or resume, got 'overwrite'"):
            ScheduledBatchSampler(job, client, if_exists="overwrite")  # type: ignore[arg-type]


class TestTwoTrainersAtOnce:
    def test_the_second_is_told_who_holds_the_place(self, client: SchedulerClient, job: JobSpec) -> None:
        with ScheduledBatchSampler(job, client) as first, ScheduledBatchSampler(job, client) as second:
            train(first, steps=2)
            with pytest.raises(
                ConflictError, match=rf"rank 0 of job .* is held by process {os.getpid()} on .* its place is free when"
            ):
                train(second)
            train(first)

    def test_a_sampler_that_was_closed_holds_nothing(self, client: SchedulerClient, job: JobSpec) -> None:
        with ScheduledBatchSampler(job, client) as first:
            train(first, steps=2)
        with ScheduledBatchSampler(job, client, if_exists="resume") as second:
            train(second)

    def test_a_cell_of_a_notebook_that_is_run_again_holds_nothing(self, client: SchedulerClient, job: JobSpec) -> None:
        gc.disable()  # nobody waits for it
        try:
            for k in range(3):
                sampler = ScheduledBatchSampler(job, client, if_exists="resume" if k else "fail")
                train(sampler, steps=2)
        finally:
            gc.enable()
        assert sampler.batches_trained == 6
        sampler.close()

    def test_one_whose_place_was_taken_is_told(self, client: SchedulerClient, job: JobSpec) -> None:
        with ScheduledBatchSampler(job, client, prefetch=1) as first:
            train(first, steps=2)
            (held,) = client.job(job.name).trainers
            other = AttachRequest(client="other", host="gpu-2", process=7, resume=True, instead_of=[held.client])
            client.attach(job.name, other)
            with pytest.raises(SchedulerError, match="was taken over by process 7 on gpu-2"):
                train(first, 3)

    def test_a_place_is_kept_while_the_loop_is_elsewhere(
        self, client: SchedulerClient, job: JobSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainer_client.exchange.worker.KEEP", 0.05)
        calls: list[str] = []
        attach = SchedulerClient.attach
        monkeypatch.setattr(SchedulerClient, "attach", lambda *a, **k: calls.append("attach") or attach(*a, **k))
        with ScheduledBatchSampler(job, client) as sampler:
            train(sampler, steps=2)
            deadline = time.monotonic() + 20
            while len(calls) < 4 and time.monotonic() < deadline:
                time.sleep(0.02)
        assert len(calls) >= 4


def endless(url: str, job: JobSpec, started: Any) -> None:
    with SchedulerClient(url) as client, ScheduledBatchSampler(job, client) as sampler:
        train(sampler, steps=3)
        sampler.flush()
        started.set()
        time.sleep(600)


@pytest.fixture
def killed(service: Service, job: JobSpec) -> Iterator[None]:
    """A trainer took three steps and was killed."""
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=endless, args=(service.url, job, started))
    process.start()
    assert started.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    yield


def test_a_second_validation_of_a_step_is_told_to_be_left_out(
    client: SchedulerClient, job: JobSpec, caplog: pytest.LogCaptureFixture
) -> None:
    with ScheduledBatchSampler(job, client) as sampler:
        train(sampler)
        modalities = {"audio": (0.5, 0.5), "video": (0.5, 0.5)}
        sampler.validation(loss=1.0, accuracy=0.5, modalities=modalities)  # the same again
        assert sampler.flush()
        assert "left out" not in caplog.text
        sampler.validation(loss=0.7, accuracy=0.9, modalities=modalities)  # of averaged weights, perhaps
        assert sampler.flush()
    assert "the validation at step 6 was left out" in caplog.text


@pytest.mark.usefixtures("killed")
class TestATrainerThatDied:
    def test_its_place_is_free_at_once_on_the_same_machine(self, client: SchedulerClient, job: JobSpec) -> None:
        started = time.monotonic()
        with ScheduledBatchSampler(job, client, if_exists="resume") as sampler:
            assert len(train(sampler)) == 3
        assert time.monotonic() - started < 20

    @pytest.mark.long
    def test_its_place_is_free_after_a_time_out_elsewhere(
        self, client: SchedulerClient, job: JobSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(attachment, "_machine", lambda: "another")
        with ScheduledBatchSampler(job, client, if_exists="resume") as sampler:
            assert len(train(sampler)) == 3
        assert "s from now if it is heard of no more: waiting for that" in caplog.text

    def test_one_that_was_closed_out_of_reach_is_gone_for_its_own_process(
        self, start_service: Callable[..., Service], caplog: pytest.LogCaptureFixture
    ) -> None:
        service, job = start_service(), spec("run", samples=SAMPLES, batch_size=8, policy="uniform", patience=0.0)
        with service.client() as client:
            sampler = ScheduledBatchSampler(job, client)
            train(sampler, steps=3)
            service.kill()
            sampler.close(0.1)
            service.start()
            with ScheduledBatchSampler(job, client, if_exists="resume") as again:
                assert len(train(again)) >= 3
        assert "waiting for that" not in caplog.text

    def test_the_script_run_again_is_refused_for_its_steps(self, client: SchedulerClient, job: JobSpec) -> None:
        with pytest.raises(JobExistsError, match="has handed out"):
            script(job, client)


class TestRanks:
    def test_ranks_of_one_run_share_a_job(self, client: SchedulerClient, job: JobSpec) -> None:
        came = together(client, job, 2)
        assert sorted(i for rank in came for batch in rank for i in batch) == sorted(3 * list(range(SAMPLES)))

    @pytest.mark.parametrize("steps", [0, 7])
    def test_ranks_that_resume_begin_at_the_same_step(self, client: SchedulerClient, job: JobSpec, steps: int) -> None:
        if steps:
            with ScheduledBatchSampler(job, client) as sampler:
                train(sampler, 2, steps=steps)
        came = together(client, job, 2, epochs=2, if_exists="resume")
        assert [len(rank) for rank in came] == 2 * [12 - steps % 6]
        for whole in zip(*came, strict=True):
            assert len({i for rank in whole for i in rank}) == 8

    def test_feedback_that_a_waiting_rank_sends_again_is_not_repeated(
        self, client: SchedulerClient, job_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused, steps = threading.Semaphore(0), SchedulerClient.steps

        def told(*arguments: Any, **options: Any) -> StepsAnswer:
            try:
                return steps(*arguments, **options)
            except TooEarlyError:
                refused.release()
                raise

        monkeypatch.setattr(SchedulerClient, "steps", told)
        job = spec(job_name, samples=SAMPLES, batch_size=8, interval=2, patience=0)
        with (
            ScheduledBatchSampler(job, client, rank=0, world_size=2, prefetch=1) as zero,
            ScheduledBatchSampler(job, client, rank=1, world_size=2, prefetch=1) as one,
        ):
            slow = iter(zero)
            next(slow)
            ahead = threading.Thread(target=train, args=(one,))
            ahead.start()
            assert all(refused.acquire(timeout=30) for _ in range(3))  # it asks again and again, with its feedback
            for step in range(5):
                zero.feedback(step)
                next(slow)
            zero.feedback(5)
            ahead.join()
        assert (zero.stats.repeated_feedback, one.stats.repeated_feedback) == (0, 0)

    def test_a_rerun_is_refused_on_every_rank(self, client: SchedulerClient, job: JobSpec) -> None:
        together(client, job, 2)
        for rank in (0, 1):
            with pytest.raises(JobExistsError):
                script(job, client, rank=rank, world_size=2)

    def test_a_rerun_gets_a_new_job_on_every_rank(self, client: SchedulerClient, job: JobSpec) -> None:
        first = together(client, job, 2)
        assert together(client, job, 2, if_exists="new") == first
        assert client.job(f"{job.name}-2").steps_fed_back == 18

    @pytest.mark.parametrize("world_size", [1, 2, 4])
    def test_an_elastic_restart_goes_on_with_any_number_of_ranks(
        self, client: SchedulerClient, job: JobSpec, world_size: int
    ) -> None:
        with (
            ScheduledBatchSampler(job, client, rank=0, world_size=2) as zero,
            ScheduledBatchSampler(job, client, rank=1, world_size=2) as one,
        ):
            came = [*train(zero, steps=3), *train(one, steps=3)]
            state = zero.state_dict()

        def load(sampler: ScheduledBatchSampler) -> None:
            sampler.load_state_dict(state)

        for rank in together(client, job, world_size, epochs=1, prepare=load):
            came += rank
        assert sorted(i for batch in came for i in batch) == list(range(SAMPLES))

    def test_a_restart_of_the_service_changes_nothing(self, start_service: Callable[..., Service]) -> None:
        service, job = start_service(), spec("run", samples=SAMPLES, batch_size=8, policy="uniform")
        with service.client() as client, ScheduledBatchSampler(job, client) as sampler:
            came = train(sampler, steps=3)
            service.kill()
            service.start()
            came += train(sampler)
            with pytest.raises(ConflictError, match="is held by process"):
                script(job, client)
        assert len({i for batch in came for i in batch}) == SAMPLES


def together(
    client: SchedulerClient,
    job: JobSpec,
    world_size: int,
    epochs: int = 3,
    prepare: Callable[[ScheduledBatchSampler], object] = lambda sampler: None,
    **options: Any,
) -> list[Batches]:
    """The ranks of one run, a thread each."""
    came: list[Batches] = [[] for _ in range(world_size)]
    over = threading.Barrier(world_size)

    def run(rank: int) -> None:
        with ScheduledBatchSampler(job, client, rank=rank, world_size=world_size, **options) as sampler:
            prepare(sampler)
            came[rank] = train(sampler, epochs)
            over.wait(60)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return came


class TestMoreEpochsThanPlanned:
    def test_the_horizon_of_a_resumed_job_is_the_new_one(self, client: SchedulerClient, job: JobSpec) -> None:
        short, long = (job.model_copy(update={"horizon": horizon}) for horizon in (12, 30))
        with ScheduledBatchSampler(short, client) as sampler:
            train(sampler, 2)
            state = sampler.state_dict()
        with ScheduledBatchSampler(long, client) as sampler:
            sampler.load_state_dict(state)
            assert len(train(sampler, 3)) == 18
        changed = client.job(job.name)
        assert (changed.spec.horizon, changed.next_step) == (30, 30)

    def test_a_run_that_is_refused_changes_nothing(self, client: SchedulerClient, job: JobSpec) -> None:
        with ScheduledBatchSampler(job.model_copy(update={"horizon": 12}), client) as sampler:
            train(sampler, 2)
        with pytest.raises(JobExistsError):
            script(job.model_copy(update={"horizon": 30}), client)
        assert client.job(job.name).spec.horizon == 12

    def test_it_survives_a_restart(self, start_service: Callable[..., Service]) -> None:
        service, job = start_service(), spec("run", samples=SAMPLES, batch_size=8, horizon=12)
        with service.client() as client:
            with ScheduledBatchSampler(job, client) as sampler:
                train(sampler)
            client.change_job("run", JobChange(horizon=24, patience=5.0))
            service.kill()
            service.start()
            kept = client.job("run").spec
            assert (kept.horizon, kept.patience, len(client.job("run").trainers)) == (24, 5.0, 1)
            client.put_snapshot("copy", client.snapshot("run"))
            assert client.job("copy").spec.horizon == 24


def flat(came: Batches) -> list[int]:
    return sorted(index for batch in came for index in batch)


class TestGrowingData:
    MORE = 64

    @pytest.mark.parametrize("workers", [0, 2])
    def test_new_samples_come_from_the_next_epoch_on(self, client: SchedulerClient, job: JobSpec, workers: int) -> None:
        with ScheduledBatchSampler(job, client) as sampler:
            came = train(sampler, workers=workers)
            assert len(sampler) == 6
            sampler.grow(self.MORE)
            assert len(sampler) == 8
            more = train(sampler, 2, workers=workers, samples=self.MORE)
        assert flat(came) == list(range(SAMPLES))
        assert [flat(more[:8]), flat(more[8:])] == [list(range(self.MORE))] * 2

    def test_a_growth_by_somebody_else_reaches_a_pass_that_has_begun(
        self, client: SchedulerClient, job: JobSpec
    ) -> None:
        with ScheduledBatchSampler(job, client) as sampler:
            train(sampler)
            loader: DataLoader[Any] = DataLoader(
                WithIndex(TensorDataset(torch.arange(self.MORE))), batch_sampler=sampler, num_workers=2
            )
            client.change_job(job.name, JobChange(samples=self.MORE))  # of which this sampler does not know yet
            came = []
            for index, _ in loader:
                sampler.feedback(index, {"loss": index.float()})
                came.append(index.tolist())
            assert flat(came) == list(range(self.MORE))
            assert sampler.spec.samples == self.MORE

    @pytest.mark.parametrize("world_size", [1, 2])
    @pytest.mark.parametrize("step", [3, 9])
    def test_a_run_goes_on_from_before_and_behind_the_growth(
        self, client: SchedulerClient, job: JobSpec, step: int, world_size: int
    ) -> None:
        with ScheduledBatchSampler(job, client) as sampler:
            came = train(sampler, steps=3)
            state = sampler.state_dict()
            came += train(sampler)
            sampler.grow(self.MORE)
            came += train(sampler, steps=3, samples=self.MORE)
            state = state if step == 3 else sampler.state_dict()
            came += train(sampler, samples=self.MORE)
        assert (flat(came[:6]), flat(came[6:])) == (list(range(SAMPLES)), list(range(self.MORE)))
        again: list[Batches] = [[] for _ in range(world_size)]

        def run(rank: int) -> None:
            with ScheduledBatchSampler(job, client, rank=rank, world_size=world_size) as resumed:  # as it was made
                resumed.load_state_dict(state)
                again[rank] = train(resumed, 2 if step == 3 else 1, samples=self.MORE)

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        batches = [[index for part in parts for index in part] for parts in zip(*again, strict=True)]
        assert batches == came[step:]

    def test_ranks_that_register_keys_have_the_same_samples_and_epochs(
        self, client: SchedulerClient, job: JobSpec
    ) -> None:
        keys = [f"clip {k}" for k in range(SAMPLES)]
        found: list[list[int]] = []

        def register(sampler: ScheduledBatchSampler) -> None:
            found.append(sampler.register(keys).tolist())

        came = together(client, job.model_copy(update={"samples": 8}), 2, epochs=2, prepare=register)
        assert found == [list(range(SAMPLES))] * 2
        both = [[*zero, *one] for zero, one in zip(*came, strict=True)]
        assert [flat(both[:6]), flat(both[6:])] == [list(range(SAMPLES))] * 2

    def test_an_epoch_drawn_locally_over_the_growth_has_each_sample_once(
        self, start_service: Callable[..., Service]
    ) -> None:
        service, job = start_service(), spec("run", samples=SAMPLES, batch_size=8, policy="uniform")
        with service.client(retries=0, timeout=1) as client:
            with ScheduledBatchSampler(job, client, on_outage="local", outage_after=0.1) as sampler:
                train(sampler)
                sampler.grow(self.MORE)
                came = train(sampler, steps=2, samples=self.MORE)
                service.kill()
                came += train(sampler, samples=self.MORE)
                service.start()
                assert sampler.flush(20)
                after = train(sampler, samples=self.MORE)
            assert (flat(came), flat(after)) == (list(range(self.MORE)),) * 2
            assert client.batches("run", 6, 8).indices.tolist() == came
