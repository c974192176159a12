"""Headers that every answer carries, and those that none does."""

import asyncio
from pathlib import Path

import httpx
import pytest

from bss_service.http import routes as api
from bss_service.http.app import create_app
from bss_service.http.browser.headers import SECURITY
from bss_service.journal.store import Store
from bss_service.settings import Settings
from tests.support.services import Service

WANTED = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v1/jobs", 200),
        ("GET", "/v1/jobs/nobody", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/jobs/", 404),
        ("PATCH", "/v1/jobs", 405),
        ("POST", "/v1/jobs", 415),
        ("GET", "/v1/jobs/run-1/batches?start=x", 422),
    ],
)
def test_every_answer_carries_them_once(service: Service, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, service.url + path)
    assert answer.status_code == status
    assert {name: answer.headers.get_list(name) for name in WANTED} == {n: [v] for n, v in WANTED.items()}
    assert "server" not in answer.headers


def test_a_failure_that_nobody_expected_carries_them_too_and_tells_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bss.sqlite"
    store = Store(url)
    app = create_app(Settings(store=url), store)

    @app.get("/broken", dependencies=api.OPEN)
    def broken() -> None:
        raise RuntimeError("a secret")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.get("/broken")

    answer = asyncio.run(ask())
    store.close()
    assert answer.status_code == 500
    assert {name: answer.headers[name] for name in WANTED} == WANTED
    assert "secret" not in answer.text


def test_the_list_is_what_it_says() -> None:
    assert {name.decode(): value.decode() for name, value in SECURITY.items()} == WANTED


def test_a_page_from_elsewhere_is_allowed_nothing(service: Service) -> None:
    origin = {"origin": "https://evil.example"}
    asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = httpx.options(f"{service.url}/v1/jobs", headers=asked)
    answer = httpx.get(f"{service.url}/v1/jobs", headers=origin)
    assert preflight.status_code == 405
    for headers in (preflight.headers, answer.headers):
        assert not [name for name in headers if name.startswith("access-control-")]


def test_a_page_from_elsewhere_can_send_no_message_without_asking_first(service: Service) -> None:
    """What a browser sends without a preflight has one of three content types, none of which is read."""
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        answer = httpx.post(f"{service.url}/v1/jobs", content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415
