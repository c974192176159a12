"""Trainers and services of different versions: what gets along, and what is refused with a sentence."""

import json
import time
from typing import Any, Literal

import httpx
import pytest

from bss_service.protocol import frames
from bss_service.protocol.message import OLDEST_PROTOCOL, PROTOCOL
from tests.support.additions import with_additions
from tests.support.services import Service
from tests.support.simulated import spec
from tests.trainer_client.support.ingress import Answer, Ingress
from trainer_client import OldClientError, ScheduledBatchSampler, SchedulerClient, StrangeAnswerError
from trainer_client import client as client_module

BODY = {"name": "curl", "samples": 6, "modalities": ["audio", "video"], "batch_size": 2}


def of_a_newer_service(answer: Answer) -> Answer:
    """With a field more in each object, and arrays where they travel."""
    status, content_type, content = answer
    if status >= 400:
        return answer
    if content_type == frames.CONTENT_TYPE:
        return status, content_type, frames.encode(with_additions(frames.decode(content), arrays=True))
    return status, content_type, json.dumps(with_additions(json.loads(content))).encode()


@pytest.mark.parametrize("wire", ["frame", "json"])
def test_a_run_over_a_service_that_says_more_is_the_same(
    service: Service, client: SchedulerClient, job_name: str, wire: Literal["frame", "json"]
) -> None:
    def run(name: str, through: SchedulerClient) -> list[list[int]]:
        came = []
        with ScheduledBatchSampler(spec(name), through) as sampler:
            for _ in range(2):
                for step, indices in enumerate(sampler, len(came)):
                    sampler.feedback(step, {"loss": [0.5] * len(indices)})
                    came.append(indices)
                sampler.validation(loss=1.0, accuracy=0.5, modalities={"audio": (0.5, 0.5), "video": (0.5, 0.5)})
        return came

    with Ingress(service.url, change=of_a_newer_service) as newer, SchedulerClient(newer.url, wire=wire) as through:
        name = f"{job_name}-newer"
        assert run(name, through) == run(f"{job_name}-today", client)
        assert through.job(name) == client.job(name)
        assert through.decisions(name) == client.decisions(name)
        assert through.sample(name, 3) == client.sample(name, 3)
        assert through.policies() == client.policies()
        assert through.policy(name) == client.policy(name)
        assert name in {state.spec.name for state in through.jobs().jobs}
        assert through.batches(name, 0, 6).indices.tolist() == client.batches(name, 0, 6).indices.tolist()
        assert through.swap(name, "uniform").changed


@pytest.mark.parametrize("on_outage", ["wait", "raise", "local"])
def test_a_client_that_is_too_old_is_told_at_once_what_to_upgrade(
    service: Service, job_name: str, on_outage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PROTOCOL", OLDEST_PROTOCOL - 1)
    started = time.monotonic()
    sentence = (
        rf"^bss-protocol must be at least {OLDEST_PROTOCOL}, got {OLDEST_PROTOCOL - 1}: the client is too old for this "
        rf"service, which speaks {PROTOCOL}; upgrade bss-scheduler where you train$"
    )
    with service.client() as old, pytest.raises(OldClientError, match=sentence):
        ScheduledBatchSampler(spec(job_name), old, on_outage=on_outage)
    assert time.monotonic() - started < 5


def test_a_client_that_is_too_old_gets_a_problem(service: Service) -> None:
    old = httpx.get(f"{service.url}/v1/jobs", headers={"bss-protocol": str(OLDEST_PROTOCOL - 1)})
    assert (old.status_code, old.headers["content-type"]) == (426, "application/problem+json")
    assert (old.json()["field"], old.json()["value"]) == ("bss-protocol", OLDEST_PROTOCOL - 1)
    assert old.headers["upgrade"] == f"bss-protocol/{PROTOCOL}"


@pytest.mark.parametrize("protocol", [None, str(OLDEST_PROTOCOL), str(PROTOCOL), str(PROTOCOL + 1)])
def test_this_version_a_newer_one_and_curl_are_let_in(service: Service, protocol: str | None) -> None:
    headers = {} if protocol is None else {"bss-protocol": protocol}
    assert httpx.get(f"{service.url}/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("protocol", ["one", "-1", "1.5", "9" * 30])
def test_a_version_that_is_none_is_named(service: Service, protocol: str) -> None:
    wrong = httpx.get(f"{service.url}/v1/jobs", headers={"bss-protocol": protocol})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "bss-protocol")
    assert protocol in wrong.json()["detail"]


@pytest.mark.parametrize(
    ("protocol", "more"),
    [
        (PROTOCOL, ""),
        (
            PROTOCOL + 1,
            f" (the client speaks bss-protocol {PROTOCOL + 1}, this service {PROTOCOL}: upgrade the service)",
        ),
    ],
)
@pytest.mark.parametrize("framed", [False, True])
def test_what_a_newer_client_asks_for_beyond_this_version_is_refused_by_name(
    service: Service, protocol: int, more: str, framed: bool
) -> None:
    headers = {"bss-protocol": str(protocol), "content-type": frames.CONTENT_TYPE if framed else "application/json"}
    body = {**BODY, "policy": {"name": "uniform", "added_later": 1}}
    content = frames.encode(body) if framed else json.dumps(body).encode()
    refused = httpx.post(f"{service.url}/v1/jobs", content=content, headers=headers).json()
    assert (refused["status"], refused["field"], refused["value"]) == (422, "policy.added_later", 1)
    assert refused["detail"] == f"policy.added_later: Extra inputs are not permitted, got 1{more}"
    unknown = httpx.post(f"{service.url}/v1/jobs/x/added-later", headers=headers).json()
    assert (unknown["status"], unknown["field"]) == (404, "path")
    assert unknown["detail"] == f"POST /v1/jobs/x/added-later: Not Found{more}"


def test_a_call_that_an_older_service_lacks_is_no_missing_job(service: Service, client: SchedulerClient) -> None:
    assert client.jobs()
    with pytest.raises(StrangeAnswerError, match=r"is no call of the service there: DELETE /v2/jobs/x: Not Found"):
        client._send("DELETE", "/v2/jobs/x")


def test_an_answer_that_can_no_longer_be_read_is_told_with_its_field(service: Service, job_name: str) -> None:
    def renamed(answer: Answer) -> Answer:
        return *answer[:2], answer[2].replace(b'"next_step"', b'"step_to_come"')

    with (
        Ingress(service.url, change=renamed) as newer,
        SchedulerClient(newer.url, wire="json") as through,
        pytest.raises(StrangeAnswerError, match=r"of status 201: .* \(next_step: Field required, got "),
    ):
        through.create_job(spec(job_name))


def test_the_document_describes_the_version(service: Service) -> None:
    document = httpx.get(f"{service.url}/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods.values():
            names = {parameter["name"] for parameter in method.get("parameters", []) if parameter["in"] == "header"}
            assert names - {"bss-incarnation", "if-none-match"} == (
                {"bss-protocol"} if path.startswith("/v1/") else set()
            )
            assert ("426" in method["responses"]) == path.startswith("/v1/")
