"""A job is told from others of its name, a batch from others of its step: no stale feedback counts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bss_service.journal.backup import back_up
from bss_service.protocol.training import Feedback, FeedbackRequest, StepsRequest, batch_checksum
from tests.support.services import Service
from tests.support.simulated import measured, order, spec, take, train
from trainer_client import OtherJobError, ScheduledBatchSampler, SchedulerClient

StartService = Callable[..., Service]
N, G = 48, 8


def trained(sampler: ScheduledBatchSampler, steps: int) -> list[list[int]]:
    """The loop of a trainer, for some steps of an epoch."""
    came = []
    for step, indices in zip(range(sampler.batches_trained, sampler.batches_trained + steps), sampler, strict=False):
        sampler.feedback(step, {"loss": [0.5] * len(indices)})
        came.append(indices)
    assert sampler.flush()
    return came


def test_a_job_made_anew_takes_nothing_from_the_trainer_of_the_old_one(client: SchedulerClient, job_name: str) -> None:
    job = spec(job_name, N, G, interval=3)
    with ScheduledBatchSampler(job, client) as stale:
        trained(stale, 4)
        state = stale.state_dict()
        client.delete_job(job_name)
        client.create_job(job)
        train(client, job, range(6))  # caught up, by another
        fed_back = client.job(job_name)
        with pytest.raises(OtherJobError, match=r"is another than the one of that name that this trainer trains with"):
            trained(stale, 2)
        assert client.job(job_name) == fed_back
    with pytest.raises(OtherJobError, match="is another than the one that the checkpoint is of"):
        ScheduledBatchSampler(job, client).load_state_dict(state)


def restored_from_a_backup(service: Service, job: str) -> tuple[ScheduledBatchSampler, dict[int, dict[str, object]]]:
    """A trainer of eight steps whose service was restored from a backup of its fourth; its checkpoints by step."""
    copy = service.store.with_name("copy.sqlite")
    sampler = ScheduledBatchSampler(spec(job, N, G, interval=3, patience=0.1), service.url)
    trained(sampler, 4)
    checkpoints = {4: sampler.state_dict()}
    back_up(f"sqlite:///{service.store}", copy)
    trained(sampler, 1)
    checkpoints[5] = sampler.state_dict()
    service.stop()
    for part in service.folder.glob("bss.sqlite*"):
        part.unlink()
    shutil.move(copy, service.store)
    service.start()
    return sampler, checkpoints


def test_a_restored_backup_that_has_caught_up_takes_nothing_from_the_trainer_of_before(
    start_service: StartService,
) -> None:
    service = start_service()
    stale, _ = restored_from_a_backup(service, "job")
    with service.client(retries=0) as client:
        shared = client.job("job").next_step
        assert list(client.job("job").origins.values()) == [shared]
        train(client, spec("job", N, G, interval=3, patience=0.1), range(shared, 9))
        state = client.job("job")
        with pytest.raises(OtherJobError, match=rf"resume from a checkpoint of step {shared} or earlier"):
            for _ in range(3):
                trained(stale, 1)
        stale.close(0.1)
        assert client.job("job") == state


def test_a_trainer_goes_on_after_a_restored_backup_from_a_checkpoint_that_it_holds(start_service: StartService) -> None:
    service = start_service()
    stale, checkpoints = restored_from_a_backup(service, "job")
    with service.client(retries=0) as client:
        shared = client.job("job").next_step
        before = order(take(client, "job", range(shared)))
        beyond = {**checkpoints[5], "step": shared + 1}
        with (
            ScheduledBatchSampler(spec("job", N, G, interval=3, patience=0.1), client) as sampler,
            pytest.raises(OtherJobError, match=rf"load a checkpoint of step {shared} or earlier, got one of step"),
        ):
            sampler.load_state_dict(beyond)
        stale.close(0.1)
        with ScheduledBatchSampler(spec("job", N, G, interval=3, patience=0.1), client) as sampler:
            sampler.load_state_dict(checkpoints[4])
            came = trained(sampler, 2)
            assert np.concatenate(came)[: (shared - 4) * G].tolist() == before[4 * G : 6 * G].tolist()
            assert sampler.batches_trained == 6


def test_a_copy_by_snapshot_is_another_job_and_draws_the_same(client: SchedulerClient, job_name: str) -> None:
    job = spec(job_name, N, G, patience=0.0)
    client.create_job(job)
    train(client, job, range(4))
    copy = client.put_snapshot(f"{job_name}-copy", client.snapshot(job_name))
    own = client.job(job_name)
    assert copy.incarnation not in (None, own.incarnation)
    assert copy.origins == {own.incarnation: own.next_step}
    following = range(own.next_step, own.next_step + 6)
    assert (order(take(client, job_name, following)) == order(take(client, copy.spec.name, following))).all()


def test_who_says_nothing_of_the_incarnation_is_answered_as_ever(service: Service, job_name: str) -> None:
    with service.client() as client:
        state = client.create_job(spec(job_name))
    steps = f"{service.url}/v1/jobs/{job_name}/steps"
    assert httpx.post(steps, json={"start": 0}).status_code == 200
    assert httpx.post(steps, json={"start": 0}, headers={"bss-incarnation": str(state.incarnation)}).status_code == 200
    refused = httpx.post(steps, json={"start": 0}, headers={"bss-incarnation": "0" * 32})
    assert (refused.status_code, refused.json()["field"], refused.json()["value"]) == (409, "incarnation", "0" * 32)
    assert httpx.post(steps, json={"start": 0}, headers={"bss-incarnation": "x"}).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "",
        "trainers",
        "batches?start=0",
        "steps",
        "feedback",
        "validation",
        "scores",
        "groups",
        "keys",
        "window",
        "local-batches",
        "descriptions",
        "action",
    ],
)
def test_every_call_of_a_trainer_is_to_one_incarnation(service: Service, job_name: str, path: str) -> None:
    bodies = {
        "": {"samples": 100},
        "trainers": {"client": "c", "host": "h", "process": 1, "resume": True},
        "steps": {"start": 0},
        "feedback": {"feedback": {"step": [0], "loss": [[0.5] * 8]}},
        "validation": {"step": 0, "loss": 1.0, "accuracy": 0.5, "modalities": HEADS},
        "scores": {"indices": [0], "loss": [0.5]},
        "groups": {"groups": [0, 1] * 25},
        "keys": {"keys": ["a"]},
        "window": {"first_step": 0, "samples": list(range(8))},
        "descriptions": {"index": [0], "texts": ["a dog"]},
        "action": {"first_step": 0, "action": "balance"},
        "local-batches": {"start": 0, "indices": [[7, 6, 5, 4, 3, 2, 1, 0]]},
    }
    kinds: dict[str, Any] = {
        "groups": {"groups": 2},
        "window": {"stream": True, "interval": 1},
        "action": {"policy": "external"},
    }
    with service.client() as client:
        state = client.create_job(spec(job_name, **kinds.get(path, {})))
        if path not in kinds:
            client.steps(job_name, StepsRequest(start=0))
    puts = dict.fromkeys(["trainers", "scores", "descriptions", "groups", "window", "action"], "PUT")
    method = {"": "PATCH", "batches?start=0": "GET", **puts}.get(path, "POST")
    url = f"{service.url}/v1/jobs/{job_name}/{path}".rstrip("/")
    headers = {"bss-incarnation": "0" * 32}
    refused = httpx.request(method, url, json=bodies.get(path), headers=headers)
    assert (refused.status_code, refused.json()["field"]) == (409, "incarnation")
    allowed = httpx.request(method, url, json=bodies.get(path), headers={"bss-incarnation": str(state.incarnation)})
    assert allowed.status_code == 200, allowed.text


HEADS = {"audio": {"accuracy": 0.5, "probability": 0.5}, "video": {"accuracy": 0.5, "probability": 0.5}}


@pytest.mark.parametrize("wire", ["frame", "json"])
def test_feedback_of_another_batch_is_refused_by_step_and_checksums(service: Service, job_name: str, wire: str) -> None:
    with SchedulerClient(service.url, wire=wire, retries=0) as client:  # type: ignore[arg-type]
        client.create_job(spec(job_name))
        batches = client.steps(job_name, StepsRequest(start=0, count=2)).batches.indices
        right = [batch_checksum(batch) for batch in batches]

        def tell(*checksums: int) -> list[str]:
            told = [measured(step, batch) for step, batch in enumerate(batches)]
            both = {n: np.concatenate([getattr(t, n) for t in told]) for n in ("step", "similarity", "loss")}
            feedback = Feedback(**both, checksum=np.array(checksums))
            return list(client.feedback(job_name, FeedbackRequest(feedback=feedback)).feedback)

        with pytest.raises(
            Exception, match=f"for step 1 is of a batch with checksum {right[0]}, .* {right[1]}"
        ) as info:
            tell(right[0], right[0])
        assert (info.value.status, info.value.field) == (409, "feedback.checksum")  # type: ignore[attr-defined]
        assert client.job(job_name).steps_fed_back == 0
        assert tell(right[0], -1) == ["applied", "applied"]
        with pytest.raises(Exception, match="for step 0 is of a batch"):
            tell(right[1], right[1])  # a repetition of what was never trained on is none
        assert tell(*right) == ["repeated", "repeated"]


def test_a_store_of_before_gives_each_job_an_incarnation_that_stays(start_service: StartService) -> None:
    service = start_service()
    job = spec("job", N, G)
    with service.client() as client:
        client.create_job(job)
        came = order(train(client, job, range(4)))
    service.stop()
    as_version_2(service.store)
    seen = set()
    for _ in range(2):
        service.start()
        with service.client() as client:
            seen.add(client.job("job").incarnation)
            assert (order(take(client, "job", range(4))) == came).all()
        service.kill()
    assert len(seen) == 1 and None not in seen


def as_version_2(store: Path) -> None:
    import sqlite3

    from bss_service.journal.schema import checksum

    with sqlite3.connect(store) as connection:
        connection.execute("DROP TABLE writer")
        connection.execute("DROP TABLE descriptions")
        connection.execute("DROP TABLE decisions")
        for column in ("first_step", "base"):
            connection.execute(f"ALTER TABLE snapshots DROP COLUMN {column}")
        connection.execute("DROP TABLE plan_pieces")
        connection.execute("ALTER TABLE plans DROP COLUMN write")
        connection.execute("ALTER TABLE jobs DROP COLUMN incarnation")
        for job, text in connection.execute("SELECT job, spec FROM jobs").fetchall():
            connection.execute("UPDATE jobs SET checksum = ? WHERE job = ?", (checksum(text, job), job))
        connection.execute("UPDATE meta SET schema_version = 2")
    connection.close()
