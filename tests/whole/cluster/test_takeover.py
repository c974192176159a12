"""Services that share a store: who is stopped, killed or cut off is replaced, and no batch is lost or repeated."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.cluster import SECONDS, Cluster, shards_of, until
from tests.support.postgres import Postgres
from tests.support.services import Service, metric
from tests.support.simulated import order, spec, take, train

RUN = range(42)  # six epochs of six or seven steps
MOST = 10.0  # seconds until another serves, by default settings

StartCluster = Callable[..., Cluster]


@pytest.fixture
def start_cluster(postgres: Postgres, job_name: str, tmp_path: Path) -> Iterator[StartCluster]:
    clusters = []

    def start(size: int, *flags: str) -> Cluster:
        cluster = Cluster(tmp_path, postgres.database(job_name[-40:]), *flags)
        clusters.append(cluster)
        for _ in range(size):
            cluster.add()
        cluster.settle()
        return cluster

    yield start
    for cluster in clusters:
        cluster.close()


@pytest.fixture(scope="module")
def expected(service: Service) -> np.ndarray:
    """What the same job draws over SQLite, undisturbed."""
    with service.client() as client:
        job = spec("undisturbed")
        client.create_job(job)
        return order(train(client, job, RUN))


class Asked:
    """A request to a service that is stopped, answered when it goes on."""

    def __init__(self, service: Service, path: str, message: Any) -> None:
        self._thread = threading.Thread(target=self._ask, args=(f"{service.url}{path}", message))
        self._thread.start()

    def _ask(self, url: str, message: Any) -> None:
        self._answer = httpx.post(url, json=message, timeout=2 * SECONDS)

    @property
    def answer(self) -> httpx.Response:
        self._thread.join()
        return self._answer


def drill(cluster: Cluster, expected: np.ndarray, within: float) -> None:
    """Stop the owner of a job in mid-epoch, train on with another, and let the first go on."""
    job = spec("run", patience=1.0)
    [*_, entry] = cluster.services
    while cluster.owner_of(job.name) is entry:
        job = job.model_copy(update={"name": f"{job.name}-"})
    owner = cluster.owner_of(job.name)
    with entry.client(retries=1000) as client, owner.client() as direct:
        client.create_job(job)
        answers = train(direct, job, range(16))
        owner.process.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        late = [
            Asked(owner, f"/v1/jobs/{job.name}/steps", {"start": step, "count": 1}) for step in (16, 18)
        ]  # of which the second is not drawn yet
        answers += train(client, job, range(16, 17), count=1)
        assert time.monotonic() - stopped_at < within
        answers += train(client, job, range(17, 30))
        owner.process.send_signal(signal.SIGCONT)
        assert {asked.answer.status_code for asked in late} <= {307, 503}
        until(lambda: metric(owner, "bss_live_jobs") == 0)  # it lets go
        answers += train(client, job, range(30, 42))
        np.testing.assert_array_equal(order(answers), expected)
        np.testing.assert_array_equal(order(take(client, job.name, RUN)), expected)
        assert client.job(job.name).steps_fed_back == len(RUN)
    cluster.settle()


def test_a_stopped_owner_is_replaced_and_stores_nothing_when_it_goes_on(
    start_cluster: StartCluster, expected: np.ndarray
) -> None:
    drill(start_cluster(2, "--term", "1"), expected, within=MOST)


@pytest.mark.long
def test_by_default_it_is_replaced_within_ten_seconds(start_cluster: StartCluster, expected: np.ndarray) -> None:
    drill(start_cluster(3), expected, within=MOST)


def test_a_new_service_takes_its_share_and_one_that_is_killed_loses_it_without_a_change_to_any_batch(
    start_cluster: StartCluster, expected: np.ndarray
) -> None:
    cluster = start_cluster(1, "--term", "1")
    [first] = cluster.services
    jobs = [spec(f"run-{k}", patience=1.0) for k in range(2)]
    answers: dict[str, list[Any]] = {job.name: [] for job in jobs}

    def train_all(steps: range) -> None:
        for job in jobs:
            answers[job.name] += train(client, job, steps)

    with first.client(retries=1000) as client:
        for job in jobs:
            client.create_job(job)
        train_all(range(5))
        second = cluster.add()
        cluster.settle()
        owners = {cluster.owner_of(job.name).port for job in jobs}
        assert owners == {first.port, second.port}
        train_all(range(5, 10))
        second.kill()
        train_all(range(10, 15))
        assert shards_of(first) == 256
        second.start()
        cluster.settle()
        second.stop()  # which gives its shards away at once
        assert shards_of(first) in (256, 128)
        train_all(range(15, 20))
        for name in answers:
            np.testing.assert_array_equal(order(answers[name]), expected[: 20 * 8])


def test_what_is_asked_of_all_jobs_any_service_answers_and_what_is_asked_of_one_its_owner(
    start_cluster: StartCluster,
) -> None:
    cluster = start_cluster(2, "--term", "3")
    first, second = cluster.services
    free = [f"run-{k}" for k in range(12)]
    names = [name for owner in (first, second) for name in [n for n in free if cluster.owner_of(n) is owner][:2]]
    with first.client() as client, second.client() as other:
        for name in names:
            job = spec(name, seed=names.index(name) // 2, policy="balance" if name in names[::2] else "uniform")
            client.create_job(job)
            train(client, job, range(7))
        assert {cluster.owner_of(name) for name in names} == {first, second}
        states = [{state.spec.name: state for state in c.jobs().jobs} for c in (client, other)]
        assert states[0].keys() == states[1].keys() == set(names)
        for name in names:
            assert states[0][name].next_step == states[1][name].next_step == 7
        compared = [c.compare(*names).model_dump() for c in (client, other)]
        assert compared[0] == compared[1]
    owner = cluster.owner_of(names[0])
    stranger = second if owner is first else first
    answer = httpx.get(f"{stranger.url}/v1/jobs/{names[0]}/batches?start=0&count=2")
    assert (answer.status_code, answer.headers["content-type"]) == (307, "application/problem+json")
    assert answer.headers["location"] == f"{owner.url}/v1/jobs/{names[0]}/batches?start=0&count=2"
    assert (answer.json()["field"], answer.json()["value"]) == ("owner", owner.url)
    assert httpx.get(answer.headers["location"]).status_code == 200
    deleted = httpx.delete(f"{stranger.url}/v1/jobs/{names[0]}", follow_redirects=True)
    assert deleted.status_code == 204
