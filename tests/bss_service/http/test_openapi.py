"""The interface keeps to its OpenAPI document: the short run of `make schemathesis`."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from bss_service.errors import BssError
from bss_service.http import openapi
from tests.fuzz.api import passed, populate, schemathesis
from tests.support.services import Service


def test_generated_requests_find_no_failure(start_service: Callable[..., Service], tmp_path: Path) -> None:
    service = start_service("--max-samples", "100000")
    populate(service)
    report, output = schemathesis(service.url, tmp_path, examples=5, seed=1)
    assert passed(report), output[-8000:]
    document = httpx.get(f"{service.url}/openapi.json").json()
    assert report["operations"]["tested"] == sum(len(methods) for methods in document["paths"].values())


def test_the_document_is_written_once_and_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def written(*_: object) -> dict[str, object]:
        threads.append(threading.current_thread())
        return {"openapi": "3.1.0"}

    monkeypatch.setattr(openapi, "_document", written)

    async def use() -> None:
        app = FastAPI(openapi_url=None)
        openapi.install(app, [])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            answers = await asyncio.gather(*[client.get("/openapi.json") for _ in range(3)])
        assert [answer.json() for answer in answers] == [{"openapi": "3.1.0"}] * 3

    asyncio.run(use())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_each_refusal_that_there_is_may_come_of_each_operation(service: Service) -> None:
    """So a client that is generated from the document knows what it may be told."""
    document = httpx.get(f"{service.url}/openapi.json").json()
    refusals = {str(kind.status) for kind in _kinds(BssError)}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            declared = operation["responses"].keys()
            assert {"400", "421"} <= declared, (method, path)
            assert not path.startswith("/v1/") or refusals <= declared, (method, path, refusals - declared)


def _kinds(kind: type[BssError]) -> Iterator[type[BssError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
