"""The batch sampler in a DataLoader, against a real service."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bss_service.protocol.training import AttachRequest
from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client import (
    ConflictError,
    JobExistsError,
    JobSpec,
    LagError,
    Measurement,
    OutageError,
    ScheduledBatchSampler,
    SchedulerClient,
    SchedulerError,
    StepsRequest,
    WithIndex,
)

StartService = Callable[..., Service]
SAMPLES = 50


def loader(sampler: ScheduledBatchSampler, workers: int = 0) -> DataLoader[Any]:
    return DataLoader(WithIndex(TensorDataset(torch.arange(SAMPLES))), batch_sampler=sampler, num_workers=workers)


def measured(step: int, index: torch.Tensor) -> Measurement:
    x = torch.sin(index * 12.9898 + step * 0.37) * 0.5 + 0.5
    return {"similarity": x, "loss": 3 - 2 * x, "probability": x[:, None].repeat(1, 3)}


def train_epoch(
    sampler: ScheduledBatchSampler, batches: DataLoader[Any], stop_at: int | None = None
) -> list[list[int]]:
    """One epoch of a training loop without a model; the batches as they came out of the loader."""
    came = []
    for index, (sample,) in batches:
        assert (index == sample).all()
        step = sampler.batch_of(index).step
        sampler.feedback(index, measured(step, index))
        came.append(index.tolist())
        if step + 1 == stop_at:
            return came
    end = sampler.batches_trained
    sampler.validation(
        loss=2 - end / 100, accuracy=0.5, modalities={"audio": (0.5, 0.5), "video": (0.3, 0.3 + end / 1000)}
    )
    return came


def train(client: SchedulerClient, job: JobSpec, epochs: int, workers: int = 0, **options: Any) -> list[list[int]]:
    with ScheduledBatchSampler(job, client, **options) as sampler:
        batches = loader(sampler, workers)
        return [batch for _ in range(epochs) for batch in train_epoch(sampler, batches)]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_comes_once_an_epoch(client: SchedulerClient, job_name: str, workers: int) -> None:
    came = flat(train(client, spec(job_name, policy="balance_code"), 4, workers))
    for epoch in range(3):
        assert sorted(came[SAMPLES * epoch : SAMPLES * (epoch + 1)]) == list(range(SAMPLES))


def test_loader_workers_change_neither_order_nor_scores(client: SchedulerClient, job_name: str) -> None:
    alone = train(client, spec(f"{job_name}-0", policy="balance"), 4, workers=0)
    workers = train(client, spec(f"{job_name}-2", policy="balance"), 4, workers=2)
    assert alone == workers


def test_short_intervals_are_the_same_with_and_without_workers(client: SchedulerClient, job_name: str) -> None:
    fields: dict[str, Any] = {"interval": 2, "lag": 4, "samples": 50, "batch_size": 4, "policy": "balance_code"}
    alone = train(client, spec(f"{job_name}-0", **fields), 3, workers=0)
    workers = train(client, spec(f"{job_name}-2", **fields), 3, workers=2)
    assert alone == workers


def test_a_loader_that_pulls_further_ahead_than_the_lag_is_told_so(client: SchedulerClient, job_name: str) -> None:
    job = spec(job_name, interval=2, lag=0, batch_size=4)
    with pytest.raises(LagError, match=r"num_workers · prefetch_factor \(now 0\)"):
        train(client, job, 1, workers=2)


@pytest.mark.parametrize(("tail", "length", "epochs"), [("drop", 6, [6, 6, 6, 6]), ("carry", 7, [6, 6, 6, 7])])
def test_one_length_serves_a_whole_run(
    client: SchedulerClient, job_name: str, tail: str, length: int, epochs: list[int]
) -> None:
    job = spec(job_name, tail=tail)
    with ScheduledBatchSampler(job, client) as sampler:
        batches = loader(sampler)
        taken_once = len(batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0), 1.0, total_steps=4 * taken_once + 1
        )
        trained = []
        for _ in range(4):
            trained.append(len(train_epoch(sampler, batches)))
            assert len(batches) == taken_once == length
            for _ in range(trained[-1]):
                schedule.optimizer.step()
                schedule.step()
    assert trained == epochs
    assert job.calendar().epoch_start(4) == sum(epochs)


def test_feedback_finds_its_batch_in_any_order(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
        came = [index for index, _ in loader(sampler)]
        for step in reversed(range(len(came))):
            sampler.feedback(came[step], measured(step, came[step]))
        sampler.flush()
        list(loader(sampler))  # the next plan learns the feedback
        for step, index in enumerate(came):
            answer = client.sample(job_name, int(index[0]))
            assert answer.last_measured == step
            assert answer.signals["similarity"] == pytest.approx(float(measured(step, index)["similarity"][0]))


def test_feedback_for_a_batch_that_was_never_given_is_refused(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        index, _ = next(iter(loader(sampler)))
        with pytest.raises(ValueError, match="index must be a batch of this rank"):
            sampler.feedback(index.repeat(2))
        sampler.feedback(index)
        with pytest.raises(ValueError, match="no feedback yet"):
            sampler.feedback(index)
        with pytest.raises(ValueError, match="step must be one that was given out"):
            sampler.feedback(40)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"entropy": torch.zeros(8)},
            "entropy is not a signal of this job, which declares similarity, loss",
        ),
        ({"loss": torch.zeros(7)}, r"loss must have shape \(8,\), got \(7,\)"),
        ({"probability": np.zeros((8, 2))}, r"probability must have shape \(8, 3\), got \(8, 2\)"),
    ],
)
def test_a_measurement_that_does_not_fit_the_job_is_refused_and_may_be_given_again(
    client: SchedulerClient, job_name: str, changes: dict[str, Any], reason: str
) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        index, _ = next(iter(loader(sampler)))
        with pytest.raises(ValueError, match=reason):
            sampler.feedback(index, {**measured(0, index), **changes})
        sampler.feedback(index, measured(0, index))


def test_a_signal_that_was_not_measured_is_not_known_and_the_others_are(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
        for index, _ in loader(sampler):
            sampler.feedback(index, {"loss": np.ones(8)})
        sampler.flush()
        next(iter(loader(sampler)))
        sample = client.sample(job_name, int(index[0]))
    assert sample.signals["loss"] == 1.0
    assert sample.signals["similarity"] is None
    assert sample.times_measured == 1


def test_a_diverged_model_does_not_end_the_run(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        for index, _ in loader(sampler):
            bad = measured(0, index)
            bad["loss"][0] = float("nan")
            sampler.feedback(index, bad)
        sampler.flush()
        assert sampler.stats.unmeasured_samples == 6
        assert client.job(job_name).steps_fed_back == 6


@pytest.mark.filterwarnings("ignore:no feedback was given")
def test_a_loop_that_forgets_feedback_is_not_held_up(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name, policy="uniform", patience=60), client) as sampler:
        came = [index for _ in range(3) for index, _ in loader(sampler)]
    assert len(came) == 18


def test_a_swap_from_outside_takes_effect_at_the_announced_step_despite_prefetch(
    client: SchedulerClient, job_name: str
) -> None:
    versions, answer = {}, None
    job = spec(job_name, samples=400, batch_size=8, policy="uniform")
    with ScheduledBatchSampler(job, client, prefetch=4) as sampler:
        batches = DataLoader(WithIndex(TensorDataset(torch.arange(400))), batch_sampler=sampler, num_workers=2)
        came = []
        for index, _ in batches:
            batch = sampler.batch_of(index)
            versions[batch.step] = batch.policy_version
            sampler.feedback(index, measured(batch.step, index))
            came += index.tolist()
            if batch.step == 10:
                answer = client.swap(job_name, "balance_code", at="now")
    assert answer is not None
    assert 10 < answer.first_step < 30
    assert versions == {step: 1 if step < answer.first_step else 2 for step in range(50)}
    assert sorted(came) == list(range(400))


@pytest.mark.parametrize("stop_at", [3, 6, 8, 17])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_in_an_epoch_goes_on_as_if_it_had_not(
    client: SchedulerClient, job_name: str, stop_at: int, workers: int
) -> None:
    expected = train(client, spec(f"{job_name}-whole"), 4)
    job = spec(f"{job_name}-parts")
    came: list[list[int]] = []
    with ScheduledBatchSampler(job, client) as sampler:
        batches = loader(sampler, workers)
        while len(came) < stop_at:
            came += train_epoch(sampler, batches, stop_at)
        state = sampler.state_dict()
    assert state["step"] == stop_at
    with ScheduledBatchSampler(job, client) as sampler:
        sampler.load_state_dict(state)
        batches = loader(sampler, workers)
        while len(came) < len(expected):
            came += train_epoch(sampler, batches)
    assert came == expected


def test_the_state_passes_through_a_file_that_can_hold_no_code(
    client: SchedulerClient, job_name: str, tmp_path: Any
) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        train_epoch(sampler, loader(sampler), stop_at=2)
        torch.save(sampler.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        sampler.load_state_dict(state)
        assert sampler.batches_trained == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_peek_at_the_first_batch_costs_no_sample(client: SchedulerClient, job_name: str, workers: int) -> None:
    with ScheduledBatchSampler(spec(job_name, policy="uniform"), client) as sampler:
        batches = loader(sampler, workers)
        peeked, _ = next(iter(batches))
        came = train_epoch(sampler, batches)
    assert came[0] == peeked.tolist()
    assert len(set(flat(came))) == 48


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_was_broken_off_goes_on_behind_its_last_feedback(
    client: SchedulerClient, job_name: str, workers: int
) -> None:
    expected = train(client, spec(f"{job_name}-whole"), 2)
    with ScheduledBatchSampler(spec(f"{job_name}-parts"), client) as sampler:
        batches = loader(sampler, workers)
        came = train_epoch(sampler, batches, stop_at=2)
        came += train_epoch(sampler, batches)
        came += train_epoch(sampler, batches)
    assert came == expected


def test_a_state_taken_before_any_feedback_counts_no_prefetched_batch(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        train_epoch(sampler, loader(sampler), stop_at=2)
        state = sampler.state_dict()
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        sampler.load_state_dict(state)
        next(iter(loader(sampler, 2)))
        assert sampler.state_dict()["step"] == 2


def test_a_validation_that_is_not_finite_is_left_out(client: SchedulerClient, job_name: str) -> None:
    heads = {"audio": (0.5, 0.5), "video": (0.5, 1.0004)}
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        with pytest.warns(UserWarning, match="a validation report was left out: it is not finite"):
            sampler.validation(loss=float("nan"), accuracy=0.5, modalities=heads)
        sampler.validation(loss=1.0, accuracy=0.5, modalities=heads)
        sampler.flush()
        with pytest.raises(ValueError, match="modalities must be"):
            sampler.validation(loss=1.0, accuracy=0.5, modalities={"audio": (0.5, 0.5)})
    answer = client.job(job_name).validation
    assert answer is not None
    assert answer.modalities["video"].probability == 1.0


def test_a_closed_sampler_says_so(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        pass
    with pytest.raises(SchedulerError, match="the sampler is closed"):
        next(iter(sampler))


def test_another_jobs_state_is_refused(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        state = sampler.state_dict()
        with pytest.raises(ValueError, match="job must be"):
            sampler.load_state_dict({**state, "job": "another"})
        with pytest.raises(ValueError, match="version must be 1, got 9"):
            sampler.load_state_dict({**state, "version": 9})


@pytest.mark.filterwarnings("ignore:steps 0 to 11 are skipped")
def test_epochs_can_be_set_ahead_and_never_back(client: SchedulerClient, job_name: str) -> None:
    expected = train(client, spec(f"{job_name}-whole", policy="uniform"), 4)
    with ScheduledBatchSampler(spec(f"{job_name}-set", policy="uniform"), client) as sampler:
        sampler.set_epoch(2)
        third = train_epoch(sampler, loader(sampler))
        sampler.set_epoch(0)
        fourth = train_epoch(sampler, loader(sampler))
    assert (third, fourth) == (expected[12:18], expected[18:])


def test_ranks_share_each_batch_and_the_order_of_one(client: SchedulerClient, job_name: str) -> None:
    expected = train(client, spec(f"{job_name}-1"), 3)
    job = spec(f"{job_name}-2")
    came: list[list[list[int]]] = [[], []]
    barrier = threading.Barrier(2)

    def run(rank: int) -> None:
        with ScheduledBatchSampler(job, client, rank=rank, world_size=2) as sampler:
            batches = loader(sampler)
            for _ in range(3):
                for index, _ in batches:
                    sampler.feedback(index, measured(sampler.batch_of(index).step, index))
                    came[rank].append(index.tolist())
                if rank == 0:
                    end = sampler.batches_trained
                    video = (0.3, 0.3 + end / 1000)
                    sampler.validation(
                        loss=2 - end / 100, accuracy=0.5, modalities={"audio": (0.5, 0.5), "video": video}
                    )
                barrier.wait(timeout=30)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [a + b for a, b in zip(*came, strict=True)] == expected


def test_rank_and_world_size_come_from_the_environment(
    client: SchedulerClient, job_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    client.create_job(spec(job_name))
    client.attach(job_name, AttachRequest(rank=0, world_size=4, client="leads", host="gpu-1", process=7))
    client.steps(job_name, StepsRequest(start=0, client="leads"))
    with pytest.warns(UserWarning, match="WORLD_SIZE is 4"), ScheduledBatchSampler(spec(job_name), client) as sampler:
        assert (sampler.rank, sampler.world_size, len(next(iter(sampler)))) == (1, 4, 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 2, "world_size": 2}, "rank must be at least 0 and less than world_size = 2, got 2"),
        ({"rank": 0}, "rank must be given together with world_size, got 0 alone"),
        ({"rank": 0, "world_size": 3}, "world_size must divide the batch size 8, got 3"),
        ({"on_outage": "panic"}, "on_outage must be wait, local or raise, got 'panic'"),
        ({"on_outage": "local", "rank": 0, "world_size": 2}, "on_outage must be wait or raise with more than one rank"),
        ({"prefetch": 0}, "prefetch must be at least 1 and at most 4096, got 0"),
    ],
)
def test_wrong_arguments_are_named(client: SchedulerClient, job_name: str, options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ScheduledBatchSampler(spec(job_name), client, **options)


def test_another_spec_of_the_job_is_refused_at_once(client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    with pytest.raises(ConflictError, match="seed of job"):
        ScheduledBatchSampler(spec(job_name, seed=3), client)


class TestOutage:
    """The service is killed while a loop trains."""

    def test_wait_gives_the_batches_of_an_undisturbed_run(self, start_service: StartService) -> None:
        service = start_service()
        with service.client(retries=0) as client:
            expected = train(client, spec("undisturbed"), 5)
            with ScheduledBatchSampler(spec("disturbed"), client, on_outage="wait", prefetch=2) as sampler:
                batches, came = loader(sampler), []
                for epoch in range(5):
                    if epoch in (1, 3):
                        came += train_epoch(sampler, batches, stop_at=sampler.batches_trained + 2)
                        service.kill()
                        threading.Timer(0.5, service.start).start()
                    came += train_epoch(sampler, batches)
                assert sampler.stats.outages >= 1
        assert came == expected

    def test_local_sees_every_sample_once_and_tells_the_service(self, start_service: StartService) -> None:
        service = start_service()
        job = spec("job", policy="balance_code")
        with service.client(retries=0, timeout=2) as client:
            sampler = ScheduledBatchSampler(job, client, on_outage="local", outage_after=0.2, prefetch=2)
            with sampler:
                batches = loader(sampler)
                came = train_epoch(sampler, batches, stop_at=3)
                service.kill()
                while len(came) < 9:  # through the end of the epoch and into the next
                    came += train_epoch(sampler, batches, stop_at=9)
                service.start()
                assert sampler.flush(10)
                while len(came) < 25:
                    came += train_epoch(sampler, batches)
                assert sampler.stats.local_batches >= 5
            recorded = client.batches("job", 0, 25)
            assert client.job("job").steps_fed_back == 25
        assert recorded.indices.tolist() == came
        assert 0 in recorded.policy_version.tolist()
        for epoch in range(4):
            assert sorted(flat(came)[SAMPLES * epoch : SAMPLES * (epoch + 1)]) == list(range(SAMPLES))

    def test_local_goes_on_from_a_checkpoint(self, start_service: StartService) -> None:
        service = start_service()
        job = spec("job", policy="uniform")
        with service.client(retries=0, timeout=2) as client:
            with ScheduledBatchSampler(job, client) as sampler:
                came = train_epoch(sampler, loader(sampler), stop_at=3)
                state = sampler.state_dict()
            with ScheduledBatchSampler(job, client, on_outage="local", outage_after=0.1) as sampler:
                sampler.load_state_dict(state)
                batches = iter(loader(sampler))
                service.kill()
                for _ in range(3):
                    index, _ = next(batches)
                    sampler.feedback(index, measured(0, index))
                    came.append(index.tolist())
                service.start()
        assert len(set(flat(came))) == 48

    def test_what_was_drawn_locally_is_given_out_again_after_a_restart(self, start_service: StartService) -> None:
        service = start_service()
        job = spec("job", policy="uniform")
        options: dict[str, Any] = {"on_outage": "local", "outage_after": 0.1, "prefetch": 2}
        with service.client(retries=0, timeout=2) as client:
            with ScheduledBatchSampler(job, client, **options) as sampler:
                batches = loader(sampler)
                came = train_epoch(sampler, batches, stop_at=1)
                service.kill()
                while len(came) < 4:
                    came += train_epoch(sampler, batches, stop_at=4)
                state = sampler.state_dict()
                sampler.close(timeout=0.1)
            service.start()
            with ScheduledBatchSampler(job, client, **options) as sampler:
                sampler.load_state_dict(state)
                assert sampler.flush(10)
                batches = loader(sampler)
                came += train_epoch(sampler, batches, stop_at=5)
                service.kill()
                while len(came) < 12:
                    came += train_epoch(sampler, batches, stop_at=12)
                service.start()
                assert sampler.flush(10)
            recorded = client.batches("job", 0, 12).indices.tolist()
        assert recorded == came
        assert sorted(flat(came)[:SAMPLES]) == list(range(SAMPLES))

    def test_a_run_may_start_while_the_service_is_away(self, start_service: StartService) -> None:
        service = start_service()
        service.kill()
        threading.Timer(0.5, service.start).start()
        with service.client(retries=0) as client, ScheduledBatchSampler(spec("job"), client) as sampler:
            assert len(train_epoch(sampler, loader(sampler))) == 6

    def test_local_begins_without_the_service_too(self, start_service: StartService) -> None:
        service, job = start_service(), spec("job", policy="balance_code")
        service.kill()
        with service.client(retries=0, timeout=2) as client:
            with ScheduledBatchSampler(job, client, on_outage="local", outage_after=0.2, prefetch=2) as sampler:
                batches = loader(sampler)
                came = train_epoch(sampler, batches, stop_at=8)
                while len(came) < 8:
                    came += train_epoch(sampler, batches, stop_at=8)
                service.start()
                assert sampler.flush(20)
                while len(came) < 25:
                    came += train_epoch(sampler, batches)
                assert sampler.stats.local_batches >= 8
            recorded = client.batches("job", 0, 25)
            assert client.job("job").steps_fed_back == 25
        assert recorded.indices.tolist() == came
        for epoch in range(4):
            assert sorted(flat(came)[SAMPLES * epoch : SAMPLES * (epoch + 1)]) == list(range(SAMPLES))

    def test_local_that_began_alone_is_told_of_an_earlier_run(self, start_service: StartService) -> None:
        service, job = start_service(), spec("job", policy="uniform")
        with service.client(retries=0, timeout=2) as client:
            train(client, job, 1)
            service.kill()
            with ScheduledBatchSampler(job, client, on_outage="local", outage_after=0.1) as sampler:
                batches = loader(sampler)
                train_epoch(sampler, batches, stop_at=2)
                service.start()
                with pytest.raises(JobExistsError, match="has handed out 6 steps to an earlier run"):
                    for _ in range(10_000):
                        for index, _ in batches:
                            sampler.feedback(index, measured(0, index))

    def test_raise_raises(self, start_service: StartService) -> None:
        service = start_service()
        with (
            service.client(retries=0, timeout=2) as client,
            ScheduledBatchSampler(spec("job"), client, on_outage="raise", outage_after=0.2, prefetch=1) as sampler,
        ):
            batches = loader(sampler)
            train_epoch(sampler, batches, stop_at=2)
            service.kill()
            with pytest.raises(OutageError, match=r"out of reach for 0\.2 s"):
                for _ in range(2):
                    train_epoch(sampler, batches)

    def test_an_exception_in_the_loop_leaves_no_thread_behind(self, client: SchedulerClient, job_name: str) -> None:
        with pytest.raises(ZeroDivisionError), ScheduledBatchSampler(spec(job_name), client) as sampler:
            train_epoch(sampler, loader(sampler), stop_at=2)
            raise ZeroDivisionError
        assert not [t for t in threading.enumerate() if t.name == f"bss-worker-{job_name}"]
        assert client.job(job_name).steps_fed_back == 2


def test_a_measuring_pass_reaches_the_service(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name, policy="curriculum"), client) as sampler:
        sampler.scores(np.arange(SAMPLES), measured(0, torch.arange(SAMPLES)))
        first = flat(train_epoch(sampler, loader(sampler)))
    assert len(set(first)) == 9  # share .1864 of 50


def test_a_check_that_validation_runs_is_no_base_of_a_reward(client: SchedulerClient, job_name: str) -> None:
    """As Lightning makes one, of two batches, before the first step."""
    heads = {"audio": (0.5, 0.5), "video": (0.5, 0.5)}
    for name, checked in ((f"{job_name}-plain", False), (f"{job_name}-checked", True)):
        with ScheduledBatchSampler(spec(name, policy="uniform"), client) as sampler:
            if checked:
                sampler.validation(loss=9.0, accuracy=0.0, modalities=heads, samples=16)
            for loss in (1.0, 0.5):
                for index, _ in loader(sampler):
                    sampler.feedback(index, measured(0, index))
                sampler.validation(loss=loss, accuracy=0.5, modalities=heads, samples=500)
    plain, checked_too = (client.decisions(f"{job_name}-{kind}").decisions for kind in ("plain", "checked"))
    assert [d.gain for d in plain] == [d.gain for d in checked_too] == [None, 0.5]
