"""Clients that break off, dawdle or never read hinder nobody, and nothing of theirs is half done."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bss_service.http import bodies
from bss_service.http.app import create_app
from bss_service.journal.store import Store
from bss_service.protocol import frames
from bss_service.protocol.training import FeedbackRequest, StepsRequest
from bss_service.settings import Settings
from tests.support.services import Service
from tests.support.simulated import measured, spec, train

StartService = Callable[..., Service]


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
        yield raw


def head(path: str, *more: str, content_type: str = frames.CONTENT_TYPE) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "chunked"])
def test_a_body_that_is_cut_changes_nothing(start_service: StartService, chunked: bool) -> None:
    service = start_service()
    with service.client(retries=0) as client:
        client.create_job(spec("job"))
        batch = client.steps("job", StepsRequest(start=0)).batches.indices[0]
        request = FeedbackRequest(feedback=measured(0, batch))
        frame = request.to_frame()
        for end in (0, 8, len(frame) // 2, len(frame) - 1):
            with connected(service) as raw:
                if chunked:
                    raw.sendall(head("/v1/jobs/job/feedback", "Transfer-Encoding: chunked"))
                    raw.sendall(f"{len(frame):x}\r\n".encode() + frame[:end])
                else:
                    raw.sendall(head("/v1/jobs/job/feedback", f"Content-Length: {len(frame)}") + frame[:end])
        assert client.job("job").steps_fed_back == 0
        assert client.feedback("job", request).feedback == ["applied"]
    assert not [line for line in service.log if "error" in line]


def test_a_reader_that_does_not_read_hinders_nobody(start_service: StartService) -> None:
    service = start_service()
    job = spec("job", samples=200_000, batch_size=2000, policy="uniform", patience=0.0)
    with service.client(retries=0, timeout=20) as client:
        client.create_job(job)
        train(client, spec("other"), range(0))
        client.create_job(spec("other"))
        ask = b'{"start": 0, "count": 100}'
        lines = f"Content-Length: {len(ask)}\r\nAccept: {frames.CONTENT_TYPE}"
        request = head("/v1/jobs/job/steps", lines, content_type="application/json") + ask
        raws = [socket.create_connection(("127.0.0.1", service.port), timeout=20) for _ in range(8)]
        for raw in raws:
            raw.sendall(request)
            assert raw.recv(1) == b"H"  # the answer is on its way, megabytes of it
        before = resident(service)
        train(client, spec("other"), range(40))
        assert client.job("job").next_step == 100
        assert resident(service) < before + 64 * 2**20
        slow = raws[0]
        got = bytearray(b"H")
        while len(got) < 2000:  # byte by byte
            got += slow.recv(1)
        assert b"200 OK" in got[:20]
        for raw in raws:
            raw.close()
        assert client.steps("job", StepsRequest(start=100)).batches.start == 100


def resident(service: Service) -> int:
    """Bytes of memory that the service's process takes."""
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    settings = Settings(store=f"sqlite:///{tmp_path}/bss.sqlite")
    app = create_app(settings, Store(settings.store))

    async def drip() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async def use() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
            asyncio.timeout(20),
        ):
            return await http.post("/v1/jobs", content=drip(), headers={"content-type": "application/json"})

    answer = asyncio.run(use())
    assert answer.status_code == 408
    assert answer.json()["detail"] == "body must come within 0.2 seconds, got 1 bytes of it"
