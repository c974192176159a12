"""Whatever is wrong with a request, the answer names it and the job stays as it was."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from bss_service.protocol import frames
from bss_service.protocol.training import StepsRequest
from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client.client import SchedulerClient

JOB = "bad-input"
ROW = [[0.5] * 8]
GOOD = {"step": [0], "similarity": ROW, "loss": ROW}
REPORT = {
    "step": 1,
    "loss": 1.0,
    "accuracy": 0.5,
    "modalities": {name: {"accuracy": 0.5, "probability": 0.4} for name in ("audio", "video")},
}
UNKNOWN_ARTEFACT = {"name": "artefact", "parameters": {"sha256": "f" * 64}}


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    """Plain HTTP to a service with a job of which two steps were handed out."""
    with service.client() as client:
        client.create_job(spec(JOB, policy="uniform"))
        client.steps(JOB, StepsRequest(start=0, count=2))
    with httpx.Client(base_url=service.url) as plain:
        yield plain


def feedback(**changes: Any) -> dict[str, Any]:
    return {"feedback": {**GOOD, **changes}}


CASES: list[tuple[str, str, Any, int, str]] = [
    # method, path behind the job, body, status, field
    ("POST", "/feedback", feedback(step=[7]), 409, "feedback.step"),
    ("POST", "/feedback", feedback(step=[-1]), 422, "feedback.step"),
    ("POST", "/feedback", feedback(step=["0"]), 422, "feedback.step"),
    ("POST", "/feedback", feedback(step=[0.5]), 422, "feedback.step"),
    ("POST", "/feedback", feedback(step=[2**70]), 422, "feedback.step"),
    ("POST", "/feedback", feedback(step=[[0]]), 422, "feedback.step"),
    ("POST", "/feedback", feedback(step=0), 422, "feedback.step"),
    ("POST", "/feedback", feedback(step=[0, 1]), 422, "feedback.similarity"),
    ("POST", "/feedback", feedback(similarity=[[0.5] * 7]), 422, "feedback.similarity"),
    ("POST", "/feedback", feedback(similarity=[[0.5] * 7], loss=[[0.5] * 7]), 422, "feedback.similarity"),
    ("POST", "/feedback", feedback(similarity=[[0.5] * 7 + [2.0]]), 422, "feedback.similarity"),
    ("POST", "/feedback", feedback(similarity=[[0.5] * 7 + [[]]]), 422, "feedback.similarity"),
    ("POST", "/feedback", feedback(loss=[[0.5] * 7 + [1e39]]), 422, "feedback.loss"),
    ("POST", "/feedback", feedback(loss=[[0.5] * 7 + ["1"]]), 422, "feedback.loss"),
    ("POST", "/feedback", feedback(loss=[[True] * 8]), 422, "feedback.loss"),
    ("POST", "/feedback", feedback(probability=[[[0.5, 0.5]] * 8]), 422, "feedback.probability"),
    ("POST", "/feedback", feedback(probability=[[[0.5, 0.5, 1.5]] * 8]), 422, "feedback.probability"),
    ("POST", "/feedback", feedback(entropy=[[0.5] * 8]), 422, "feedback.entropy"),
    ("POST", "/feedback", feedback(values=[[[0.5] * 5] * 8]), 422, "feedback.values"),
    ("POST", "/feedback", {"feedback": {"step": [0], "values": [[[0.5] * 4] * 8]}}, 422, "feedback.values"),
    (
        "POST",
        "/feedback",
        {"feedback": {"step": [0], "values": [[[0.5] * 4 + [1.5]] * 8]}},
        422,
        "feedback.probability",
    ),
    ("POST", "/feedback", feedback(surprise=1), 422, "feedback.surprise"),
    ("POST", "/feedback", {"feedback": GOOD, "world_size": 3}, 422, "world_size"),
    ("POST", "/feedback", {"feedback": GOOD, "rank": 1}, 422, "rank"),
    ("POST", "/feedback", {}, 422, "feedback"),
    ("POST", "/steps", {"start": 3}, 409, "start"),
    ("POST", "/steps", {"start": -1}, 422, "start"),
    ("POST", "/steps", {"start": 2**31}, 422, "start"),
    ("POST", "/steps", {"start": "0"}, 422, "start"),
    ("POST", "/steps", {"start": 0, "count": 0}, 422, "count"),
    ("POST", "/steps", {"start": 0, "count": 5000}, 422, "count"),
    ("POST", "/steps", {"start": 0, "world_size": 0}, 422, "world_size"),
    ("POST", "/steps", {"start": 0, "feedback": {**GOOD, "step": [7]}}, 409, "feedback.step"),
    ("GET", "/batches?start=1&count=2", None, 409, "count"),
    ("GET", "/batches?start=-1", None, 422, "start"),
    ("GET", "/batches", None, 422, "start"),
    ("POST", "/validation", {**REPORT, "step": 3}, 409, "step"),
    ("POST", "/validation", {**REPORT, "accuracy": 1.5}, 422, "accuracy"),
    ("POST", "/validation", {**REPORT, "modalities": {"audio": {"accuracy": 1, "probability": 1}}}, 422, "modalities"),
    ("POST", "/validation", {**REPORT, "loss": None}, 422, "loss"),
    ("PUT", "/scores", {"indices": [50], "similarity": [0.1], "loss": [0.1]}, 422, "indices"),
    ("PUT", "/scores", {"indices": [-1], "similarity": [0.1], "loss": [0.1]}, 422, "indices"),
    ("PUT", "/scores", {"indices": [0, 1], "similarity": [0.1], "loss": [0.1]}, 422, "similarity"),
    ("PUT", "/policy", {"policy": {"name": "nonesuch"}}, 422, "policy.name"),
    ("PUT", "/policy", {"policy": {"name": "balance", "parameters": {"emma": 1}}}, 422, "policy.parameters.emma"),
    ("PUT", "/policy", {"policy": {"name": "balance", "parameters": {"ema": 7}}}, 422, "policy.parameters.ema"),
    ("PUT", "/policy", {"policy": {"name": "uniform"}, "at": "once"}, 422, "at"),
    ("PUT", "/policy", {"policy": {"name": "artefact"}}, 422, "policy.parameters.sha256"),
    ("PUT", "/policy", {"policy": UNKNOWN_ARTEFACT}, 422, "policy.parameters.sha256"),
    ("PUT", "/policy", {"policy": UNKNOWN_ARTEFACT, "shadow": True}, 422, "policy.parameters.sha256"),
    ("PUT", "/policy", {"policy": {"name": "uniform"}, "at": "now", "shadow": True}, 422, "at"),
    ("DELETE", "/policy/shadow", None, 404, "job"),
    ("POST", "/local-batches", {"start": 9, "indices": [[0] * 8]}, 409, "start"),
    ("POST", "/local-batches", {"start": 2, "indices": [[0] * 7]}, 422, "indices"),
    ("POST", "/local-batches", {"start": 2, "indices": [[0] * 8]}, 409, "indices"),
    ("POST", "/local-batches", {"start": 2, "indices": [[99] * 8]}, 422, "indices"),
    ("PATCH", "", {"samples": 49}, 409, "samples"),
    ("PATCH", "", {"samples": 0}, 422, "samples"),
    ("PATCH", "", {"samples": 60.5}, 422, "samples"),
    ("PATCH", "", {"samples": 2**39}, 413, "samples"),
    ("PATCH", "", {"earlier": []}, 422, "earlier"),
    ("POST", "/keys", {"keys": []}, 422, "keys"),
    ("POST", "/keys", {"keys": ["a", ""]}, 422, "keys.1"),
    ("POST", "/keys", {"keys": ["a" * 256]}, 422, "keys.0"),
    ("POST", "/keys", {"keys": [7]}, 422, "keys.0"),
    ("POST", "/keys", {"keys": ["a"] * 4097}, 422, "keys"),
    ("PUT", "/window", {"first_step": 2, "samples": [0] * 8}, 409, "stream"),
    ("PUT", "/window", {"first_step": -1, "samples": [0] * 8}, 422, "first_step"),
    ("PUT", "/window", {"first_step": 2, "samples": [-1] * 8}, 422, "samples"),
    ("GET", "/samples/50", None, 404, "i"),
    ("GET", "/samples/x", None, 422, "i"),
    ("GET", "/decisions?count=0", None, 422, "count"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), CASES)
def test_bad_input_is_named_and_changes_nothing(
    http: httpx.Client, method: str, path: str, body: Any, status: int, field: str
) -> None:
    before = http.get(f"/v1/jobs/{JOB}/snapshot").content
    answer = http.request(method, f"/v1/jobs/{JOB}{path}", json=body)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert problem["field"] == field, problem
    assert problem["detail"]
    assert http.get(f"/v1/jobs/{JOB}/snapshot").content == before


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_are_named(http: httpx.Client, text: str) -> None:
    body = f'{{"feedback": {{"step": [0], "similarity": [[{text}{", 0.5" * 7}]], "loss": {ROW}}}}}'
    answer = http.post(f"/v1/jobs/{JOB}/feedback", content=body.encode(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (422, "feedback.similarity")


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        ({"similarity": np.full((1, 8), np.inf, np.float32)}, "feedback.similarity"),
        ({"similarity": np.full((8,), 0.5, np.float32)}, "feedback.similarity"),
        ({"loss": np.full((1, 8), 1e300)}, "feedback.loss"),
        ({"step": np.array([0.0])}, "feedback.step"),
        ({"step": np.array([2**63], dtype=np.uint64)}, "feedback.step"),
    ],
)
def test_frames_are_checked_like_json(http: httpx.Client, arrays: dict[str, np.ndarray], field: str) -> None:
    row = np.full((1, 8), 0.5, np.float32)
    body = frames.encode({"feedback": {"step": np.array([0]), "similarity": row, "loss": row, **arrays}})
    answer = http.post(f"/v1/jobs/{JOB}/feedback", content=body, headers={"content-type": frames.CONTENT_TYPE})
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"\xff\xfe", 400),
        ("application/json", b"[" * 100_000, 400),
        (frames.CONTENT_TYPE, b"no frame", 400),
        (frames.CONTENT_TYPE, b"", 400),
        ("text/plain", b"{}", 415),
        ("application/x-www-form-urlencoded", b"start=0", 415),
    ],
)
def test_a_body_that_cannot_be_read_is_a_problem(
    http: httpx.Client, content_type: str, content: bytes, status: int
) -> None:
    answer = http.post(f"/v1/jobs/{JOB}/steps", content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_an_oversize_body_is_refused_before_it_is_read(start_service: Any) -> None:
    small = start_service("--max-body-bytes", "2000")
    with small.client() as client, httpx.Client(base_url=small.url) as plain:
        client.create_job(spec("job"))
        headers = {"content-type": "application/json"}
        declared = plain.post("/v1/jobs/job/steps", content=b" " * 3000, headers=headers)
        chunked = plain.post("/v1/jobs/job/steps", content=iter([b" " * 1500, b" " * 1500]), headers=headers)
    assert [declared.status_code, chunked.status_code] == [413, 413]
    assert declared.json()["value"] == 3000


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"name": "../etc"}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"name": "a" * 101}, 422, "name"),
        ({"samples": 0}, 422, "samples"),
        ({"samples": 10**9}, 413, "samples"),
        ({"samples": True}, 422, "samples"),
        ({"batch_size": 51}, 422, "batch_size"),
        ({"modalities": []}, 422, "modalities"),
        ({"modalities": ["audio", "audio"]}, 422, "modalities"),
        ({"signals": ["entropy"]}, 422, "signals.0"),
        ({"signals": ["loss"], "policy": {"name": "balance"}}, 422, "policy.name"),
        ({"modalities": ["audio"], "policy": {"name": "curriculum"}}, 422, "policy.name"),
        ({"unimodal_heads": False, "policy": {"name": "balance"}}, 422, "policy.name"),
        ({"seed": -1}, 422, "seed"),
        ({"seed": 2**63}, 422, "seed"),
        ({"interval": 0}, 422, "interval"),
        ({"tail": "wag"}, 422, "tail"),
        ({"patience": -1}, 422, "patience"),
        ({"reward": {"metric": "joy"}}, 422, "reward.metric"),
        ({"policy": "uniform"}, 422, "policy"),
        ({"policy": {"name": "nonesuch"}}, 422, "policy.name"),
        ({"policy": {"name": "fixed", "parameters": {"kappa_loss": 99}}}, 422, "policy.parameters"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
def test_a_wrong_job_is_named_and_not_made(
    http: httpx.Client, changes: dict[str, Any], status: int, field: str
) -> None:
    body = {"name": "wrong", "samples": 50, "modalities": ["audio", "video"], "batch_size": 8, **changes}
    answer = http.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
    assert http.get("/v1/jobs/wrong").status_code == 404


@pytest.mark.parametrize("path", ["", "/steps", "/feedback", "/validation", "/policy", "/decisions", "/snapshot"])
def test_an_unknown_job_is_not_found(http: httpx.Client, path: str) -> None:
    bodies = {"/steps": {"start": 0}, "/feedback": {"feedback": GOOD}, "/validation": REPORT}
    method = "POST" if path in bodies else "GET"
    answer = http.request(method, f"/v1/jobs/nobody{path}", json=bodies.get(path))
    assert (answer.status_code, answer.json()["detail"]) == (404, "job 'nobody' is not known")


def test_unknown_paths_and_methods_are_problems_too(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").headers["content-type"] == "application/problem+json"
    assert http.patch("/v1/jobs").json()["status"] == 405
    assert http.patch("/v1/jobs").headers["allow"] == "GET, POST"
    assert http.patch("/openapi.json").headers["allow"] == "GET, HEAD"


def test_a_snapshot_that_does_not_fit_together_is_refused(http: httpx.Client, client: SchedulerClient) -> None:
    message = frames.decode(client.snapshot(JOB))
    message["plans"][0]["indices"] = message["plans"][0]["indices"] + 1000
    headers = {"content-type": frames.CONTENT_TYPE}
    answer = http.put("/v1/jobs/hostile/snapshot", content=frames.encode(message), headers=headers)
    assert (answer.status_code, http.get("/v1/jobs/hostile").status_code) == (422, 404)
    assert "plans.indices must be less than samples = 50" in answer.json()["detail"]


def test_a_snapshot_does_not_replace_a_job(http: httpx.Client, client: SchedulerClient) -> None:
    headers = {"content-type": frames.CONTENT_TYPE}
    answer = http.put(f"/v1/jobs/{JOB}/snapshot", content=client.snapshot(JOB), headers=headers)
    assert answer.status_code == 409
