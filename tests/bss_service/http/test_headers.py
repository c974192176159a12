"""Headers that every answer carries, those that none does, and the one that says whom a request is for."""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bss_service.http import routes as api
from bss_service.http.app import create_app
from bss_service.http.browser.headers import SECURITY
from bss_service.journal.store import Store
from bss_service.settings import Settings
from tests.support.services import Service

TOKEN = "a-token-that-only-tests-use"
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


# Whom a request is for.


def raw(service: Service, *headers: str, version: str = "1.1", path: str = "/v1/jobs") -> tuple[int, dict[str, object]]:
    """Status and problem of a request with these headers, as they are."""
    lines = [f"GET {path} HTTP/{version}", *headers, "connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-content-type-options: nosniff" in head.lower()
    assert body.decode().isprintable()
    return int(head.split(b" ")[1]), json.loads(body)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8765", "localhost", "LocalHost:1", "[::1]", "[::1]:80", "127.8.9.1", "localhost:"],
)
def test_what_is_addressed_to_loopback_is_answered(service: Service, host: str) -> None:
    assert raw(service, f"host: {host}")[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8765",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
        ),
        *("a{b.evil.example", "[evil]", "[::1", "::1", "", " ", "localhost:80:80", "localhost:x", "localhost:999999"),
        *("evil.example#localhost", "evil.example/localhost", "localhost@evil.example", "localhost,evil.example"),
        *("localhost evil.example", "\x7f", "\x9b2J", "ev\xedl.example", "localhost\\", "[::1]evil", "127.1", "%31"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/healthz"])
def test_what_is_addressed_to_another_or_to_nothing_that_can_be_read_is_misdirected(
    service: Service, host: str, path: str
) -> None:
    status, problem = raw(service, f"host: {host}", path=path)
    assert status in (400, 421)  # of what is no HTTP at all
    if status == 421:
        assert problem["field"] == "host"
        assert host.strip() in str(problem["value"])
        assert str(problem["detail"]).isprintable()


def test_a_host_that_is_missing_or_comes_twice_is_refused(service: Service) -> None:
    assert raw(service)[0] == 400
    status, problem = raw(service, "host: localhost", "host: evil.example")
    assert (status, problem["value"]) == (400, "localhost, evil.example")
    status, problem = raw(service, "host: localhost", "Host: localhost")
    assert (status, problem["field"]) == (400, "host")


def test_http_1_0_needs_no_host_but_gets_in_nowhere_without_a_token(service: Service) -> None:
    assert raw(service, version="1.0", path="/healthz")[0] == 200
    assert raw(service, version="1.0")[0] == 401


def test_a_name_of_a_proxy_is_set_and_needs_a_token(start_service: Callable[..., Service]) -> None:
    service = start_service("--hosts", "scheduler.example, [fd00::1]", BSS_TOKEN=TOKEN)
    bearer = f"authorization: Bearer {TOKEN}"
    for host in ("scheduler.example", "Scheduler.Example:443", "[fd00::1]", "localhost"):
        assert raw(service, f"host: {host}", bearer)[0] == 200
        assert raw(service, f"host: {host}")[0] == 401
    assert raw(service, "host: other.example", bearer)[0] == 421


def test_a_name_that_is_set_gets_in_nowhere_where_no_token_is(start_service: Callable[..., Service]) -> None:
    service = start_service(BSS_HOSTS="scheduler.example")
    assert raw(service, "host: scheduler.example", path="/healthz")[0] == 200
    assert raw(service, "host: scheduler.example")[0] == 401
    assert raw(service, "host: localhost")[0] == 200


@pytest.mark.parametrize(("hosts", "other"), [(None, 200), ("scheduler.example", 421)])
def test_a_service_that_others_reach_takes_the_names_that_are_set_or_any(
    start_service: Callable[..., Service], hosts: str | None, other: int
) -> None:
    settings = {} if hosts is None else {"BSS_HOSTS": hosts}
    service = start_service("--host", "0.0.0.0", BSS_TOKEN=TOKEN, **settings)
    bearer = f"authorization: Bearer {TOKEN}"
    assert raw(service, "host: other.example", bearer)[0] == other
    for host in ("scheduler.example", "127.0.0.1"):
        assert raw(service, f"host: {host}", bearer)[0] == 200
    assert raw(service, "host: a{b", bearer)[0] == 421
    assert raw(service, bearer)[0] == 400


@pytest.mark.parametrize("hosts", ["a b", "http://scheduler", "scheduler:80", "a,,b", ""])
def test_hosts_that_are_no_names_are_refused_by_value(hosts: str) -> None:
    with pytest.raises(ValueError, match=r"hosts\n.*must be names or addresses without ports"):
        Settings(hosts=hosts)


def test_the_name_by_which_others_send_trainers_here_is_taken_too() -> None:
    assert Settings(hosts="a.example", advertise="https://b.example:8765").host_names == {"a.example", "b.example"}
    assert Settings(advertise="https://b.example:8765").host_names == frozenset()  # any is taken


@pytest.mark.parametrize(
    "url", ["b.example:8765", "ftp://b.example", "http://b.example/path", "http://u@b.example", ""]
)
def test_what_is_no_address_is_not_advertised(url: str) -> None:
    with pytest.raises(ValueError, match=r"advertise\n.*must be like http://10.0.0.7:8765, without a path"):
        Settings(advertise=url)
