"""Spans of the hot call: what they are called and hold, whose children they are, and that there are none unasked."""

import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bss_service.protocol.training import StepsRequest
from bss_service.telemetry import tracing
from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client.client import SchedulerClient, traceparent

pytest.importorskip("opentelemetry.sdk.trace", reason="of the extra otel")
Start = Callable[..., Service]


def spans(service: Service) -> list[dict[str, Any]]:
    """The spans that a service printed, which it does at its end at the latest."""
    service.stop()
    log = (service.folder / "service.log").read_text()
    decoder = json.JSONDecoder()
    starts = [at + 1 for at in range(len(log) - 2) if log[at : at + 3] == "\n{\n"] + [0] * log.startswith("{\n")
    return [decoder.raw_decode(log[at:])[0] for at in starts]


def test_the_hot_call_is_traced_as_a_child_of_the_clients_span(start_service: Start) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    service = start_service(OTEL_TRACES_EXPORTER="console")
    with service.client() as client:
        client.create_job(spec("job"))
        with TracerProvider().get_tracer("trainer").start_as_current_span("train") as ours:
            client.steps("job", StepsRequest(start=0, count=3))
    told = {span["name"]: span for span in spans(service)}
    whole = told.pop("POST /v1/jobs/{job}/steps")
    assert whole["context"]["trace_id"] == f"0x{ours.get_span_context().trace_id:032x}"
    assert whole["parent_id"] == f"0x{ours.get_span_context().span_id:016x}"
    assert whole["attributes"]["http.response.status_code"] == 200
    assert {name: span["attributes"] for name, span in told.items()} == {
        "parse": {"bss.job": "job", "bss.step": 0},
        "plan": {"bss.job": "job", "bss.step": 0},
        "commit": {"bss.job": "job", "bss.step": 3},
    }
    assert {span["parent_id"] for span in told.values()} == {whole["context"]["span_id"]}


def test_only_the_hot_call_is_traced(start_service: Start) -> None:
    service = start_service(OTEL_TRACES_EXPORTER="console")
    with service.client() as client:
        client.create_job(spec("job"))
        client.job("job")
    httpx.post(f"{service.url}/v1/jobs/no%20name/steps", json={"start": 0})
    assert spans(service) == []


def test_without_a_client_that_traces_a_trace_of_its_own_begins(start_service: Start) -> None:
    service = start_service(OTEL_TRACES_EXPORTER="console")
    with service.client() as client:
        client.create_job(spec("job"))
        client.steps("job", StepsRequest(start=0))
    assert {span["parent_id"] for span in spans(service) if span["name"].startswith("POST")} == {None}


def test_nothing_is_traced_unasked(start_service: Start) -> None:
    service = start_service()
    with service.client() as client:
        client.create_job(spec("job"))
        client.steps("job", StepsRequest(start=0))
    assert spans(service) == []
    assert tracing.span("plan", job="job", step=0) is tracing.span("commit")  # nothing is even made


@pytest.mark.parametrize("asked", ["", "none"])
def test_what_asks_for_none_gets_none(asked: str) -> None:
    assert tracing.start({"OTEL_TRACES_EXPORTER": asked}) is False


def test_an_exporter_that_is_not_installed_is_named() -> None:
    with pytest.raises(tracing.UntraceableError, match="must be none, console or an installed exporter, got 'pigeon'"):
        tracing.start({"OTEL_TRACES_EXPORTER": "pigeon"})


def test_a_service_serves_where_traces_cannot_be_made(start_service: Start) -> None:
    service = start_service(OTEL_TRACES_EXPORTER="pigeon")
    with service.client() as client:
        client.create_job(spec("job"))
        client.steps("job", StepsRequest(start=0))
    assert "nothing is traced" in (service.folder / "service.log").read_text()


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry.sdk")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(tracing.UntraceableError, match=r"bss-scheduler\[otel\]"):
        tracing.start({"OTEL_TRACES_EXPORTER": "console"})


def test_a_client_without_a_span_sends_nothing(monkeypatch: pytest.MonkeyPatch, client: SchedulerClient) -> None:
    assert traceparent() == {}
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert traceparent() == {}
