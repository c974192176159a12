"""Training through a network that fails, and a service that is killed."""

import threading
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.services import Service
from tests.trainer_client.support.clusters import EPOCHS, SAMPLES, STEPS, Run, job, train
from tests.trainer_client.support.proxy import FAULTS, Proxy, evenly
from trainer_client import (
    JobSpec,
    OutageError,
    ScheduledBatchSampler,
    SchedulerClient,
    StepsRequest,
    StrangeAnswerError,
)
from trainer_client.reference.training import Trainer, TrainingConfig

StartService = Callable[..., Service]
Shape = dict[str, Any]
EPOCH_INTERVALS: Shape = {"patience": 0.5}
SHORT_INTERVALS: Shape = {"patience": 0.5, "interval": 3, "lag": 4}
TIMEOUT = 0.3
NUMBERS = count()


@pytest.fixture
def job_name() -> str:
    """The shared one shortens the long names here to the same one."""
    return f"faults-{next(NUMBERS)}"


@pytest.fixture
def proxied(service: Service) -> Iterator[Callable[..., Proxy]]:
    """Proxies before the shared service."""
    opened: list[Proxy] = []

    def proxied(**options: Any) -> Proxy:
        opened.append(Proxy(service.port, **options))
        return opened[-1]

    yield proxied
    for proxy in opened:
        proxy.close()


@pytest.fixture(scope="session")
def undisturbed(service: Service) -> Callable[..., Run]:
    """Runs over a network without faults, each trained once."""

    @cache
    def undisturbed(policy: str, short: bool) -> Run:
        with service.client() as client:
            name = f"undisturbed-{policy}-{short}"
            return train(client, job(name, policy, **(SHORT_INTERVALS if short else EPOCH_INTERVALS)))

    return undisturbed


def through(proxy: Proxy) -> SchedulerClient:
    """A client that has met the service before the faults begin: to who has not, a page is a wrong address."""
    client = SchedulerClient(proxy.url, timeout=TIMEOUT, retries=60)
    faults, proxy.faults = proxy.faults, {}
    client.policies()
    proxy.faults = faults
    return client.without_retries()


def is_on_record(client: SchedulerClient, spec: JobSpec, run: Run) -> bool:
    """Whether the service knows what the trainer trained on: batches, policy versions, and feedback of each."""
    recorded = client.batches(spec.name, 0, STEPS)
    return (
        recorded.indices.tolist() == run.batches
        and recorded.policy_version.tolist() == run.versions
        and client.job(spec.name).steps_fed_back == STEPS
    )


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "pass"])
def test_under_wait_no_fault_changes_a_batch(
    proxied: Callable[..., Proxy], client: SchedulerClient, job_name: str, undisturbed: Callable[..., Run], fault: str
) -> None:
    proxy = proxied(faults={fault: 0.26}, seed=1)  # the first request, the fourth, …
    spec = job(job_name, "bandit", **EPOCH_INTERVALS)
    with through(proxy) as disturbed:
        run = train(disturbed, spec, prefetch=4)
    assert run.ended_like(undisturbed("bandit", False))
    assert is_on_record(client, spec, run)
    assert proxy.injected[fault] >= 2


@pytest.mark.parametrize(
    ("policy", "short", "workers"),
    [("balance", False, 0), ("balance", True, 2), ("bandit", False, 2), ("bandit", True, 0)],
)
def test_under_wait_a_run_through_faults_and_an_outage_ends_like_an_undisturbed_one(
    proxied: Callable[..., Proxy],
    client: SchedulerClient,
    job_name: str,
    undisturbed: Callable[..., Run],
    policy: str,
    short: bool,
    workers: int,
) -> None:
    proxy = proxied(faults=evenly(0.3), seed=workers)
    spec = job(job_name, policy, **(SHORT_INTERVALS if short else EPOCH_INTERVALS))
    with through(proxy) as disturbed:
        run = train(
            disturbed,
            spec,
            {9: lambda _: proxy.down_for(0.5), 15: lambda _: proxy.down_for(0.2)},
            TrainingConfig(epochs=EPOCHS, workers=workers),
            prefetch=3,
        )
    assert run.ended_like(undisturbed(policy, short))
    assert is_on_record(client, spec, run)
    assert proxy.injected["outage"] == 2
    assert sum(proxy.injected[name] for name in evenly(1)) >= 2
    assert run.outages >= 1


def test_under_wait_a_killed_service_behind_a_faulty_network_changes_nothing(
    start_service: StartService, undisturbed: Callable[..., Run]
) -> None:
    service = start_service()
    proxy = Proxy(service.port, faults=evenly(0.2))
    spec = job("killed", "bandit", **SHORT_INTERVALS)

    def kill(trainer: Trainer) -> None:
        service.kill()
        service.start()

    with through(proxy) as disturbed:
        run = train(disturbed, spec, dict.fromkeys((4, 18), kill), TrainingConfig(epochs=EPOCHS, workers=2), prefetch=3)
    with service.client() as client:
        assert is_on_record(client, spec, run)
    assert run.ended_like(undisturbed("bandit", True))
    proxy.close()


@pytest.mark.parametrize(
    ("policy", "shape", "workers"),
    [
        ("balance", EPOCH_INTERVALS, 2),
        ("balance", SHORT_INTERVALS, 0),
        ("bandit", EPOCH_INTERVALS, 0),
        ("bandit", SHORT_INTERVALS, 2),
    ],
)
def test_under_local_every_sample_comes_once_an_epoch_and_the_record_agrees(
    proxied: Callable[..., Proxy], client: SchedulerClient, job_name: str, policy: str, shape: Shape, workers: int
) -> None:
    proxy = proxied(faults=evenly(0.1), seed=workers)
    parameters = {"coverage": "epoch"} if policy == "balance" else {}
    spec = job(job_name, policy, parameters, **shape)

    def back(trainer: Trainer) -> None:
        proxy.up()
        proxy.faults = {}  # an answer that comes late would be the next outage
        assert trainer.sampler.flush(30)

    with through(proxy) as disturbed:
        run = train(
            disturbed,
            spec,
            {5: lambda _: proxy.down(), 18: back},
            TrainingConfig(epochs=EPOCHS, workers=workers),
            on_outage="local",
            outage_after=0.2,
            prefetch=2,
        )
    assert 0 in run.versions
    assert run.versions[-1] > 0
    assert is_on_record(client, spec, run)
    if policy == "balance":
        came = np.array(run.batches).reshape(-1)
        for epoch in range(EPOCHS - 1):
            assert sorted(came[SAMPLES * epoch : SAMPLES * (epoch + 1)]) == list(range(SAMPLES))
    planned = {step for row in client.decisions(spec.name).decisions for step in range(row.first_step, row.end_step)}
    assert planned & set(range(STEPS)) == {step for step, version in enumerate(run.versions) if version > 0}


@pytest.mark.parametrize(("short", "workers"), [(False, 2), (True, 0)])
def test_under_raise_a_run_ends_and_goes_on_from_its_checkpoint_to_the_same_end(
    proxied: Callable[..., Proxy],
    client: SchedulerClient,
    job_name: str,
    undisturbed: Callable[..., Run],
    tmp_path: Path,
    short: bool,
    workers: int,
) -> None:
    proxy = proxied(faults={"doubled": 0.1, "again later": 0.1, "delayed": 0.1})
    spec = job(job_name, "bandit", **(SHORT_INTERVALS if short else EPOCH_INTERVALS))
    config = TrainingConfig(epochs=EPOCHS, workers=workers, checkpoint=tmp_path / "run.pt", checkpoint_every=1)
    options: dict[str, Any] = {"on_outage": "raise", "outage_after": 0.2, "prefetch": 2}
    run = Run()
    with through(proxy) as disturbed:
        with pytest.raises(OutageError, match=r"out of reach for 0\.2 s"):
            train(disturbed, spec, {9: lambda _: proxy.down()}, config, run, **options)
        assert 9 <= len(run.batches) < STEPS
        proxy.up()
        train(disturbed, spec, None, config, run, **options)
    assert run.ended_like(undisturbed("bandit", short))
    assert is_on_record(client, spec, run)


@pytest.mark.parametrize("patience", [30.0, 0.1], ids=["is held", "is told to ask again"])
def test_a_rank_that_waits_for_rank_0_has_not_lost_the_service(
    proxied: Callable[..., Proxy], client: SchedulerClient, job_name: str, patience: float
) -> None:
    proxy = proxied()
    spec = job(job_name, "uniform", patience=patience)
    with through(proxy) as disturbed:
        waiting = ScheduledBatchSampler(spec, disturbed, rank=1, world_size=2, on_outage="raise", outage_after=1.0)
        blink = threading.Timer(1.5, proxy.down_for, [0.1])
        rank_0 = threading.Timer(3.5, client.steps, [job_name, StepsRequest(start=0, world_size=2)])
        for timer in (blink, rank_0):
            timer.start()
        assert next(iter(waiting))
        assert waiting.stats.outages == 1
        waiting.close(0)
        rank_0.join()


def test_a_run_may_start_through_faults(proxied: Callable[..., Proxy], job_name: str) -> None:
    proxy = proxied()
    with through(proxy) as disturbed:
        proxy.down_for(0.4)
        assert (
            len(
                train(disturbed, job(job_name, "curriculum"), config=TrainingConfig(EPOCHS, measure_first=True)).batches
            )
            == STEPS
        )


def test_under_raise_a_start_without_the_service_is_given_up(proxied: Callable[..., Proxy], job_name: str) -> None:
    proxy = proxied(faults={"swallowed": 1})
    with through(proxy) as disturbed, pytest.raises(OutageError, match="did not answer: TimeoutError"):
        train(disturbed, job(job_name), on_outage="raise", outage_after=0.1)


@pytest.mark.parametrize("call", ["delete_job", "end_shadow", "snapshot", "policy_file", "job"])
def test_a_page_of_something_else_is_not_taken_for_an_answer(proxied: Callable[..., Proxy], call: str) -> None:
    with SchedulerClient(proxied(faults={"page": 1}).url) as disturbed:
        for _ in range(12):  # of several statuses
            with pytest.raises(StrangeAnswerError, match="not the scheduler's"):
                getattr(disturbed, call)("x")


def test_a_page_is_an_outage_for_who_has_met_the_scheduler_there(proxied: Callable[..., Proxy]) -> None:
    with through(proxied(faults={"page": 1})) as disturbed, pytest.raises(OutageError, match="not the scheduler's"):
        disturbed.job("x")
