"""Artefacts over HTTP: uploaded, listed, run by a job, kept over a crash and carried to another service."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bss_service.policies import artefact
from bss_service.policies.base import policy_names
from bss_service.protocol import frames
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import StepsRequest
from tests.bss_service.policies.test_artefact import HOSTILE
from tests.support.services import Service
from tests.support.simulated import order, spec, take, train, versions
from tests.support.trained import made_up
from trainer_client.client import SchedulerClient
from trainer_client.errors import InvalidValueError, UnknownJobError

StartService = Callable[..., Service]
BINARY = {"content-type": "application/octet-stream"}


def swap(client: SchedulerClient, job: str, data: bytes, **options: Any) -> str:
    """Upload an artefact and give it to a job; its hash."""
    sha256 = client.upload_policy(data).sha256
    client.swap(job, "artefact", {"sha256": sha256}, **options)
    return sha256


# Upload and list.


@pytest.mark.parametrize("content_type", ["application/octet-stream", frames.CONTENT_TYPE])
def test_an_upload_is_answered_with_the_manifest(service: Service, content_type: str) -> None:
    data = made_up(name=f"as-{content_type[-5:]}")
    headers = {"content-type": content_type}
    first, again = (httpx.post(f"{service.url}/v1/policies", content=data, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == artefact.read(data).manifest.model_dump()


def test_an_artefact_is_listed_read_and_taken_away(service: Service, client: SchedulerClient) -> None:
    data = made_up("categorical", name="to-be-listed")
    manifest = client.upload_policy(data)
    assert manifest in client.policies().artefacts
    assert httpx.get(f"{service.url}/v1/policies/{manifest.sha256}").json() == manifest.model_dump()
    assert client.policy_file(manifest.sha256) == data


def test_installed_policies_are_listed_with_their_parameters(client: SchedulerClient) -> None:
    listed = {row.name: row for row in client.policies().policies}
    assert sorted(listed) == policy_names()
    assert listed["bandit"].parameters["learning_rate"]["default"] == 0.1
    assert listed["uniform"].description == "Every sample once an epoch, in random order."


@pytest.mark.parametrize("path", ["", "/file"])
def test_an_unknown_artefact_is_not_found(service: Service, path: str) -> None:
    answer = httpx.get(f"{service.url}/v1/policies/{'0' * 64}{path}")
    assert (answer.status_code, answer.json()["field"]) == (404, "sha256")


# What is refused.


def stored(service: Service) -> list[Any]:
    with sqlite3.connect(service.store) as connection:
        rows = connection.execute("SELECT sha256, manifest, body FROM artefacts ORDER BY sha256").fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_is_no_artefact_is_refused_over_http(service: Service, kind: str) -> None:
    before = stored(service)
    data, field = HOSTILE[kind]
    answer = httpx.post(f"{service.url}/v1/policies", content=data, headers=BINARY)
    problem = answer.json()
    too_large = len(data) > artefact.MAX_BYTES
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["field"]) == ((413, "body") if too_large else (422, field)), problem
    assert problem["field"] in problem["detail"]
    assert stored(service) == before


def test_an_upload_of_another_type_is_refused(service: Service) -> None:
    answer = httpx.post(f"{service.url}/v1/policies", content=made_up(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (415, "content-type")


def test_a_job_cannot_begin_with_an_artefact_that_is_not_there(client: SchedulerClient, job_name: str) -> None:
    unknown = PolicySpec(name="artefact", parameters={"sha256": "f" * 64})
    job = spec(job_name).model_copy(update={"policy": unknown})
    with pytest.raises(InvalidValueError, match=f"policy.parameters.sha256: must be the hash .*{'f' * 64}") as refused:
        client.create_job(job)
    assert refused.value.field == "policy.parameters.sha256"
    with pytest.raises(UnknownJobError):
        client.job(job_name)


def test_a_swap_to_an_artefact_that_is_not_there_changes_nothing(client: SchedulerClient, job_name: str) -> None:
    before = client.create_job(spec(job_name)).model_copy(update={"created": False})
    with pytest.raises(InvalidValueError, match="f" * 64):
        client.swap(job_name, "artefact", {"sha256": "f" * 64})
    assert client.job(job_name) == before


# Run by a job.


def test_a_running_job_is_given_an_artefact(client: SchedulerClient, job_name: str) -> None:
    job = spec(job_name, policy="uniform")
    client.create_job(job)
    first = train(client, job, range(6))
    sha256 = swap(client, job_name, made_up())
    assert versions([*first, *train(client, job, range(6, 12))]) == [1] * 6 + [2] * 6
    row = client.decisions(job_name).decisions[-1]
    assert (row.policy, row.detail["artefact"]) == ("artefact", sha256)
    assert row.propensity == pytest.approx(np.exp(row.detail["log_probability"]), rel=1e-5)


def test_a_job_may_begin_with_an_artefact(client: SchedulerClient, job_name: str) -> None:
    sha256 = client.upload_policy(made_up("squashed_gaussian")).sha256
    policy = PolicySpec(name="artefact", parameters={"sha256": sha256, "deterministic": True})
    job = spec(job_name).model_copy(update={"policy": policy})
    assert client.create_job(job).created
    train(client, job, range(7))
    assert {d.propensity for d in client.decisions(job_name).decisions} == {1.0}


def test_a_killed_service_goes_on_with_the_artefact(start_service: StartService) -> None:
    service = start_service()
    with service.client() as client:
        names = ["undisturbed", "disturbed"]
        jobs = [spec(name, policy="uniform", interval=4) for name in names]
        for job in jobs:
            client.create_job(job)
            client.steps(job.name, StepsRequest(start=0))
            swap(client, job.name, made_up(), at="now")
        expected = order(train(client, jobs[0], range(33)))
        came = []
        for steps in (range(10), range(10, 21), range(21, 33)):
            came.append(order(train(client, jobs[1], steps)))
            service.kill()
            service.start()
        again = order(take(client, "disturbed", range(33)))
    assert (np.concatenate(came) == expected).all()
    assert (again == expected).all()


def test_a_restart_from_the_stores_own_snapshot_finds_the_artefact(start_service: StartService) -> None:
    service = start_service()
    job = spec("job", samples=2000, batch_size=1000, patience=0.0)
    with service.client() as client:
        sha256 = client.upload_policy(made_up("categorical")).sha256
        job = job.model_copy(update={"policy": PolicySpec(name="artefact", parameters={"sha256": sha256})})
        client.create_job(job)
        train(client, job, range(150), count=1)
        before = client.decisions("job")
        service.kill()
        service.start()
        assert client.decisions("job") == before
        train(client, job, range(150, 160))
    replayed = next(line for line in service.log if "job loaded" in line)
    assert int(replayed.split("replayed=")[1].split()[0]) < 150


def test_a_snapshot_brings_its_artefacts_to_another_service(
    start_service: StartService, service: Service, tmp_path: Path, job_name: str
) -> None:
    home = start_service()
    job = spec(job_name, policy="uniform")
    data = made_up(name=job_name)
    with home.client() as client, service.client() as abroad:
        client.create_job(job)
        client.steps(job_name, StepsRequest(start=0))
        sha256 = swap(client, job_name, data)
        train(client, job, range(12))
        taken = client.snapshot(job_name)
        abroad.put_snapshot(job_name, taken)
        assert abroad.policy_file(sha256) == data
        assert order(train(client, job, range(12, 24))).tolist() == order(train(abroad, job, range(12, 24))).tolist()


def test_a_snapshot_with_a_tampered_artefact_is_refused(client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    swap(client, job_name, made_up(name=job_name))
    message = frames.decode(client.snapshot(job_name))
    (sha256,) = message["artefacts"]
    message["artefacts"][sha256] = np.frombuffer(made_up(name="other"), np.uint8)
    with pytest.raises(InvalidValueError, match="artefacts must stand under their hashes"):
        client.put_snapshot(f"{job_name[:70]}-again", frames.encode(message))


@pytest.mark.parametrize("steps_before", [0, 1])  # of which the first leaves the swap in force, the second pending
def test_a_snapshot_without_its_artefact_is_refused_where_that_is_unknown(
    client: SchedulerClient, job_name: str, steps_before: int
) -> None:
    client.create_job(spec(job_name))
    take(client, job_name, range(steps_before))
    swap(client, job_name, made_up())
    message = frames.decode(client.snapshot(job_name))
    message["artefacts"] = {}
    message["versions"][1]["policy"]["parameters"]["sha256"] = "e" * 64
    with pytest.raises(InvalidValueError, match="e" * 64):
        client.put_snapshot("without-its-artefact", frames.encode(message))


# Shadows.


def test_a_shadow_is_logged_over_a_crash_and_ends_when_told(start_service: StartService) -> None:
    service = start_service()
    job = spec("watched", policy="bandit")
    with service.client() as client:
        client.create_job(job)
        client.steps("watched", StepsRequest(start=0))
        sha256 = client.upload_policy(made_up()).sha256
        put = client.swap("watched", "artefact", {"sha256": sha256}, shadow=True)
        assert (put.shadow, put.policy_version, put.changed) == (True, 1, True)
        assert client.job("watched").policy.policy.name == "bandit"
        train(client, job, range(13))
        before = client.decisions("watched")
        service.kill()
        service.start()
        assert client.decisions("watched") == before
        assert client.job("watched").shadow == put.model_copy(update={"changed": False})
        train(client, job, range(13, 20))
        client.end_shadow("watched")
        train(client, job, range(20, 26))
        rows = client.decisions("watched").decisions
        with pytest.raises(UnknownJobError, match="has no shadow"):
            client.end_shadow("watched")
    watched = [None if row.shadow is None else (row.shadow.policy, row.shadow.detail["artefact"]) for row in rows]
    assert watched == [None, *[("artefact", sha256)] * 3, None]


# Artefacts that fit no longer.


def spoil(service: Service) -> None:
    """What a new observation schema does to all stored artefacts: they can't be read any more."""
    with sqlite3.connect(service.store) as connection:
        connection.execute("UPDATE artefacts SET body = x'00'")
    connection.close()


def test_a_job_outlives_a_shadow_whose_artefact_fits_no_longer(start_service: StartService) -> None:
    service = start_service()
    job = spec("watched", policy="bandit")
    with service.client() as client:
        client.create_job(job)
        swap(client, job.name, made_up(), shadow=True)
        first = train(client, job, range(12))
        service.kill()
        spoil(service)
        service.start()
        assert client.jobs().unreadable == {}
        assert order(take(client, job.name, range(12))).tolist() == order(first).tolist()
        train(client, job, range(12, 24))
        shadow = client.decisions(job.name).decisions[-1].shadow
    assert shadow is not None
    assert "sha256" in shadow.detail["error"]


def test_a_job_outlives_a_policy_that_it_no_longer_draws_with(start_service: StartService) -> None:
    service = start_service()
    job = spec("job", samples=2000, batch_size=1000, patience=0.0)
    with service.client() as client:
        client.create_job(job)
        swap(client, job.name, made_up())
        train(client, job, range(10), count=1)
        client.swap(job.name, "balance")
        train(client, job, range(10, 150), count=1)
        service.kill()
        spoil(service)
        service.start()
        train(client, job, range(150, 156), count=1)
        assert [d.detail for d in client.decisions(job.name, start=70).decisions if "error" in d.detail] == []
        with pytest.raises(InvalidValueError, match="must be a safetensors file"):
            swap(client, job.name, made_up())


def test_a_snapshot_may_carry_an_artefact_that_fits_no_longer_if_it_draws_nothing(
    client: SchedulerClient, job_name: str
) -> None:
    job = spec(job_name)
    client.create_job(job)
    sha256 = swap(client, job_name, made_up(name=job_name))
    train(client, job, range(7))
    message = frames.decode(client.snapshot(job_name))
    message["artefacts"] = {"a" * 64: np.zeros(9, np.uint8)}
    message["shadows"] = [{**message["versions"][1], "version": 1}]
    message["shadows"][0]["policy"] = {"name": "artefact", "parameters": {"sha256": "a" * 64}}
    message["watching"] = True
    client.put_snapshot(f"{job_name[:70]}-again", frames.encode(message))
    message["artefacts"] = {sha256: np.zeros(9, np.uint8)}
    with pytest.raises(InvalidValueError, match="must be a safetensors file"):
        client.put_snapshot(f"{job_name[:70]}-refused", frames.encode(message))


def test_a_snapshot_carries_only_artefacts_that_its_policies_name(client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    refused = client.upload_policy(made_up(name="refused")).sha256
    with pytest.raises(InvalidValueError, match="typo"):
        client.swap(job_name, "artefact", {"sha256": refused, "typo": 1})
    sha256 = swap(client, job_name, made_up(name=job_name))
    assert list(frames.decode(client.snapshot(job_name))["artefacts"]) == [sha256]


def test_every_policy_that_is_still_to_draw_must_be_there(client: SchedulerClient, job_name: str) -> None:
    """Also one that begins later, before another takes its place."""
    client.create_job(spec(job_name, interval=4))
    take(client, job_name, range(1))
    swap(client, job_name, made_up(), at="now")
    message = frames.decode(client.snapshot(job_name))
    message["versions"][1]["policy"]["parameters"]["sha256"] = "e" * 64
    message["versions"][1]["first_step"] = 2
    message["versions"].append({"version": 3, "policy": {"name": "uniform"}, "first_step": 4})
    with pytest.raises(InvalidValueError, match="e" * 64):
        client.put_snapshot(f"{job_name[:70]}-again", frames.encode(message))
