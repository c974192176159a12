"""What was answered survives kill -9, and a restarted service goes on as if nothing had happened."""

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from bss_service.core.signals import EVIDENCE
from bss_service.errors import StoreError
from bss_service.job.job import Job
from bss_service.journal.schema import VERSION
from bss_service.journal.store import Store
from bss_service.policies.base import policy_names
from bss_service.protocol.training import FeedbackRequest, StepsRequest
from bss_service.registry import SNAPSHOT_ENTRIES
from tests.support.services import Service
from tests.support.simulated import measured, order, report, spec, take, train, versions
from trainer_client.errors import OutageError, TooEarlyError

StartService = Callable[..., Service]


def test_a_killed_service_draws_what_an_undisturbed_one_draws(start_service: StartService) -> None:
    service = start_service()
    names = [name for name in policy_names() if name != "artefact"]  # which needs one: test_uploads.py
    with service.client() as client:
        # Without patience, since nobody acts on the job whose policy is external.
        fields = {"patience": 0.0, "signals": list(EVIDENCE)}
        undisturbed = [spec(f"{policy}-undisturbed", policy=policy, **fields) for policy in names]
        disturbed = [spec(f"{policy}-disturbed", policy=policy, **fields) for policy in names]
        for job in (*undisturbed, *disturbed):
            client.create_job(job)
        expected = [order(train(client, job, range(33))) for job in undisturbed]
        came = []
        for steps in (range(10), range(10, 21), range(21, 33)):
            came.append([order(train(client, job, steps)) for job in disturbed])
            service.kill()
            service.start()
    for k, name in enumerate(names):
        assert (np.concatenate([part[k] for part in came]) == expected[k]).all(), name


def test_a_step_is_the_same_after_a_crash(start_service: StartService) -> None:
    service = start_service()
    with service.client() as client:
        client.create_job(spec("job"))
        before = client.steps("job", StepsRequest(start=0, count=5)).batches
        service.kill()
        service.start()
        after = client.steps("job", StepsRequest(start=0, count=5)).batches
    assert before.model_dump_json() == after.model_dump_json()


def test_acknowledged_feedback_survives_and_is_not_counted_twice(start_service: StartService) -> None:
    service = start_service()
    with service.client() as client:
        client.create_job(spec("job"))
        batches = client.steps("job", StepsRequest(start=0)).batches
        request = FeedbackRequest(feedback=measured(0, batches.indices[0]))
        client.feedback("job", request)
        service.kill()
        service.start()
        assert client.feedback("job", request).feedback == ["repeated"]
        assert client.job("job").steps_fed_back == 1


def test_a_swap_survives(start_service: StartService) -> None:
    service = start_service()
    with service.client() as client:
        client.create_job(spec("job", policy="uniform"))
        client.steps("job", StepsRequest(start=0, count=2))
        answer = client.swap("job", "balance_code", at="now")
        service.kill()
        service.start()
        batches = take(client, "job", range(4))
    assert versions(batches) == [1, 1, answer.policy_version, answer.policy_version]


def test_a_stopped_service_exits_cleanly_and_goes_on(start_service: StartService) -> None:
    service = start_service()
    with service.client() as client:
        job = spec("job")
        client.create_job(job)
        first = train(client, job, range(8))
        assert service.stop() == 0
        service.start()
        again = client.batches("job", 0, 8)
    assert (again.indices.reshape(-1) == order(first)).all()


def test_a_restart_replays_only_what_came_after_the_last_snapshot(start_service: StartService) -> None:
    service = start_service()
    job = spec("job", samples=2000, batch_size=1000, policy="balance", patience=0.0)
    with service.client() as client:
        client.create_job(job)
        expected = train(client, job, range(150), count=1)
        service.kill()
        service.start()
        again = client.batches("job", 0, 150)
    assert (again.indices.reshape(-1) == order(expected)).all()
    replayed = next(line for line in service.log if "job loaded" in line)
    assert int(replayed.split("replayed=")[1].split()[0]) < 150 < SNAPSHOT_ENTRIES


def test_the_journal_alone_reproduces_every_plan(start_service: StartService) -> None:
    service = start_service()
    with service.client() as client:
        job = spec("job", policy="bandit", interval=4, lag=2)
        client.create_job(job)
        train(client, job, range(30), count=1)
        client.swap("job", "balance", {"coverage": "epoch"}, at="now")
        train(client, job, range(30, 60), count=1)
        drawn = client.batches("job", 0, 60).indices
    service.stop()
    store = Store(f"sqlite:///{service.store}")
    replayed, plans = Job(job), {}
    for entry in store.journal("job"):
        entry.event(job).apply(replayed)  # compares each plan with the checksum of the one handed out
        plans |= {plan.first_step + k: batch for plan in replayed.plans for k, batch in enumerate(plan.indices)}
    store.close()
    assert (np.array([plans[step] for step in range(60)]) == drawn).all()


def test_two_services_cannot_share_a_file(start_service: StartService) -> None:
    service = start_service()
    with pytest.raises(Exception, match="another service has the store"):
        Store(f"sqlite:///{service.store}")


def test_the_plan_waits_for_feedback_of_the_interval_before(start_service: StartService) -> None:
    service = start_service()
    with service.client(timeout=1.0, retries=0) as client:
        impatient = spec("impatient", patience=0.2)
        client.create_job(impatient)
        client.validation("impatient", report(0))
        client.steps("impatient", StepsRequest(start=0, count=6))
        late = client.steps("impatient", StepsRequest(start=6)).batches
        assert late.scored_until.tolist() == [0]
    assert any("patience ran out" in line for line in service.log)


def test_what_was_missing_once_is_not_waited_for_again(start_service: StartService) -> None:
    service = start_service()
    job = spec("job", patience=1.0)
    with service.client(retries=0) as client:
        client.create_job(job)
        first = client.steps("job", StepsRequest(start=0, count=6)).batches
        for step in range(1, 6):  # the feedback of step 0 is lost
            client.feedback("job", FeedbackRequest(feedback=measured(step, first.indices[step])))
        train(client, job, range(6, 12))
        service.kill()
        service.start()
        started = time.monotonic()
        train(client, job, range(12, 30))
    assert time.monotonic() - started < 1


def test_only_rank_0_has_intervals_drawn(start_service: StartService) -> None:
    service = start_service()
    with service.client(retries=0) as client:
        client.create_job(spec("job", patience=0.1))
        with pytest.raises(TooEarlyError, match="rank 0 has not asked for yet"):
            client.steps("job", StepsRequest(start=0, rank=1, world_size=2))
        client.steps("job", StepsRequest(start=0, rank=0, world_size=2))
        assert client.steps("job", StepsRequest(start=0, rank=1, world_size=2)).batches.start == 0


def test_a_stop_lets_go_of_a_request_that_waits_for_feedback(start_service: StartService) -> None:
    service = start_service()
    outcome: list[Exception] = []
    with service.client(retries=0) as client:
        client.create_job(spec("job", patience=60))
        client.steps("job", StepsRequest(start=0, count=6))

        def wait() -> None:
            try:
                client.steps("job", StepsRequest(start=6))
            except OutageError as error:
                outcome.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.5)  # until the service holds the request
        started = time.monotonic()
        assert service.stop() == 0
        waiting.join()
    assert time.monotonic() - started < 5
    assert "503" in str(outcome[0])


def test_a_store_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the store 'nonsense' can't be opened: Could not parse SQLAlchemy URL"):
        Store("nonsense")
    with pytest.raises(StoreError, match="the store must be a file, got 'sqlite://'"):
        Store("sqlite://")
    with pytest.raises(StoreError, match="is not installed"):
        Store("mysql+pymysql://localhost/bss")
    (tmp_path / "file").write_text("not a database")
    with pytest.raises(StoreError, match="file is not a database"):
        Store(f"sqlite:///{tmp_path}/file")


def test_a_store_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bss.sqlite"
    Store(url).close()
    with sqlite3.connect(tmp_path / "bss.sqlite") as connection:
        connection.execute("UPDATE meta SET schema_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=f"schema version 99, this service needs {VERSION}"):
        Store(url)


def test_a_commit_that_fails_is_told_and_leaves_what_was_stored(start_service: StartService) -> None:
    service = start_service()
    with service.client(retries=0, timeout=20) as client:
        client.create_job(spec("job"))
        first = client.steps("job", StepsRequest(start=0)).batches
        blocker = sqlite3.connect(service.store, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")  # another process has the file locked for longer than the service waits
        with pytest.raises(OutageError, match="database is locked"):
            client.steps("job", StepsRequest(start=1, feedback=measured(0, first.indices[0])))
        blocker.execute("ROLLBACK")
        blocker.close()
        assert client.job("job").steps_fed_back == 0
        assert client.job("job").next_step == 1
        answer = client.steps("job", StepsRequest(start=1, feedback=measured(0, first.indices[0])))
        assert answer.feedback == ["applied"]


def test_a_job_that_cannot_be_read_is_told_apart_and_can_be_deleted(start_service: StartService) -> None:
    service = start_service()
    with service.client(retries=0) as client:
        for name in ("good", "bad"):
            client.create_job(spec(name))
            client.steps(name, StepsRequest(start=0))
        service.kill()
        with sqlite3.connect(service.store) as connection:
            connection.execute("UPDATE jobs SET spec = '{}' WHERE job = 'bad'")
        connection.close()
        service.start()
        listed = client.jobs()
        assert [state.spec.name for state in listed.jobs] == ["good"]
        assert "damaged" in listed.unreadable["bad"]
        client.delete_job("bad")
        assert client.jobs().unreadable == {}


def test_a_page_that_was_made_to_point_here_gets_nothing(start_service: StartService) -> None:
    service = start_service()
    with httpx.Client(base_url=service.url) as http:
        assert http.get("/v1/jobs").status_code == 200
        assert http.get("/v1/jobs", headers={"host": "evil.example"}).status_code == 421
