"""Who gets in, at every operation of the interface, by a real service over HTTP."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import Request

from bss_service.errors import StoreError, TooManyError
from bss_service.http import auth
from bss_service.http import routes as api
from bss_service.http.app import create_app
from bss_service.http.auth import Gate
from bss_service.http.limits import RateLimiter
from bss_service.http.tokens import Scope, Token, Tokens
from bss_service.journal.store import Store
from bss_service.protocol.training import StepsRequest
from bss_service.settings import Settings
from tests.support.services import Service
from tests.support.simulated import spec, train
from trainer_client.client import SchedulerClient
from trainer_client.errors import ForbiddenError, UnauthorisedError
from trainer_client.exchange.outage import OnOutage
from trainer_client.sampler import ScheduledBatchSampler

SETTING = "a-token-that-only-tests-use"
OPEN = {"/healthz", "/readyz"}
ADMIN = {"delete_job", "swap_policy", "end_shadow", "put_snapshot", "upload_policy"}
PATIENCE = 10  # seconds in which a change of the tokens must have come through


@dataclass(frozen=True)
class Guarded:
    """A service with a token in its settings and three in its store."""

    service: Service
    tokens: Tokens
    texts: dict[str, str]  # a token of each scope
    http: httpx.Client

    def client(self, scope: str) -> SchedulerClient:
        return self.service.client(token=self.texts[scope], retries=0)

    def ask(self, method: str, path: str, token: str | None, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return self.http.request(method, path, headers=headers, **options)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    tokens = Tokens(f"sqlite:///{folder}/bss.sqlite")
    texts = {scope.value: tokens.create(f"{scope}er", scope) for scope in Scope}
    with (
        Service(folder, environment={"BSS_TOKEN": SETTING}) as service,
        httpx.Client(base_url=service.url) as http,
    ):
        yield Guarded(service, tokens, texts, http)
    tokens.close()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path with its parameters filled in, and description of every operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            filled = path.replace("{job}", "run-1").replace("{i}", "0").replace("{sha256}", "0" * 64)
            yield method.upper(), filled, operation


def comes_true(change: Callable[[], bool]) -> bool:
    """Whether something is so before PATIENCE is over; it is asked again and again."""
    until = time.monotonic() + PATIENCE
    while not change():
        if time.monotonic() > until:
            return False
    return True


def test_every_operation_names_its_scope_and_asks_for_it(guarded: Guarded) -> None:
    document = guarded.ask("GET", "/openapi.json", None).json()
    seen = set()
    for method, path, operation in operations(document):
        if path in OPEN:
            assert operation["security"] == []
            assert guarded.ask(method, path, None).status_code == 200
            continue
        needed = operation["security"][1]["token"][0]
        assert operation["security"] == [{}, {"token": [needed]}]
        for scope in Scope:
            answer = guarded.ask(method, path, guarded.texts[scope])
            if scope.allows(Scope(needed)):
                assert answer.status_code not in (401, 403), (method, path, scope)
            else:
                assert answer.status_code == 403, (method, path, scope)
                assert answer.json()["detail"] == f"this needs a token of scope {needed}, got one of scope {scope}"
        for wrong in (None, "x", guarded.texts["read"][:-1]):
            assert guarded.ask(method, path, wrong).status_code == 401, (method, path, wrong)
        seen.add(operation["operationId"])
    assert {"steps", "read_job", "read_metrics"} | ADMIN <= seen


def test_a_route_that_forgets_its_scope_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="route /v1/secrets must name the scope that it needs, or that it needs none"):
        api.router.get("/secrets")(lambda: None)


def test_what_changes_a_job_for_others_is_for_admins(guarded: Guarded) -> None:
    document = guarded.ask("GET", "/openapi.json", None).json()
    scopes = {o["operationId"]: o["security"][1]["token"][0] for _, p, o in operations(document) if p not in OPEN}
    assert {name for name, scope in scopes.items() if scope == "admin"} == ADMIN
    reads = {o["operationId"] for method, p, o in operations(document) if method == "GET" and p not in OPEN}
    assert {name for name, scope in scopes.items() if scope == "read"} == reads - {"read_snapshot"}


def test_a_trainer_needs_no_more_than_train(guarded: Guarded) -> None:
    job = spec("trained")
    with guarded.client("train") as client:
        client.create_job(job)
        train(client, job, range(20))
        client.snapshot("trained")
        assert client.job("trained").next_step == 20
        with pytest.raises(ForbiddenError, match="needs a token of scope admin, got one of scope train"):
            client.swap("trained", "uniform")
    with guarded.client("admin") as client:
        assert client.swap("trained", "uniform").changed


def test_a_refused_request_changes_nothing_and_its_body_is_not_read(guarded: Guarded) -> None:
    for token, status in [(None, 401), (guarded.texts["read"], 403)]:
        broken = guarded.ask("POST", "/v1/jobs", token, content=b"{")
        assert broken.status_code == status
        good = guarded.ask("POST", "/v1/jobs", token, json=spec("never").model_dump(mode="json"))
        assert good.status_code == status
    assert guarded.ask("GET", "/v1/jobs/never", guarded.texts["read"]).status_code == 404


@pytest.mark.parametrize("header", ["", "Bearer", "Basic {}", "{}", "Bearer {} x", "Bearer  {}", "Bearer {}é"])
def test_only_the_bearer_scheme_gets_in(guarded: Guarded, header: str) -> None:
    headers = {"authorization": header.format(SETTING).encode("latin-1")}
    answer = guarded.http.get("/v1/jobs", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert SETTING not in answer.text


def test_the_token_of_the_settings_is_one_more_of_scope_admin(guarded: Guarded) -> None:
    with guarded.service.client(token=SETTING, retries=0) as client:
        client.create_job(spec("of-the-setting"))
        client.delete_job("of-the-setting")


def test_a_running_service_learns_of_new_and_revoked_tokens(guarded: Guarded) -> None:
    text = guarded.tokens.create("passing", Scope.READ)
    assert comes_true(lambda: guarded.ask("GET", "/v1/jobs", text).status_code == 200)
    guarded.tokens.revoke("passing")
    assert comes_true(lambda: guarded.ask("GET", "/v1/jobs", text).status_code == 401)


def test_an_expired_token_opens_nothing(guarded: Guarded) -> None:
    text = guarded.tokens.create("short", Scope.READ, seconds=2)
    assert comes_true(lambda: guarded.ask("GET", "/v1/jobs", text).status_code == 200)
    assert comes_true(lambda: guarded.ask("GET", "/v1/jobs", text).status_code == 401)


def test_loopback_is_open_until_the_first_token_is_made_and_never_again(
    start_service: Callable[..., Service],
) -> None:
    service = start_service()
    tokens = Tokens(f"sqlite:///{service.store}")
    with httpx.Client(base_url=service.url) as http:
        assert http.get("/v1/jobs").status_code == 200
        assert http.get("/v1/jobs", headers={"host": "evil.example"}).status_code == 421
        bearer = {"authorization": f"Bearer {tokens.create('only', Scope.READ)}"}
        assert comes_true(lambda: http.get("/v1/jobs").status_code == 401)
        assert http.get("/v1/jobs", headers=bearer).status_code == 200
        tokens.revoke("only")
        assert comes_true(lambda: http.get("/v1/jobs", headers=bearer).status_code == 401)
        assert http.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize(
    ("mark", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),  # another port of this machine is another page
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),  # typed by the user
        ({"origin": "https://example.org"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({}, 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/metrics"])
def test_pages_of_other_origins_may_not_even_read_where_no_token_is_needed(
    service: Service, path: str, mark: dict[str, str], status: int
) -> None:
    answer = httpx.get(f"{service.url}{path}", headers=mark)
    assert answer.status_code == status
    if status == 403:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["field"] == next(iter(mark))


def test_loopback_stays_closed_when_its_tokens_are_gone(tmp_path: Path) -> None:
    request = Request({"type": "http", "headers": [(b"host", b"localhost")], "path": "/", "query_string": b""})
    tokens = Tokens(f"sqlite:///{tmp_path}/bss.sqlite")
    hours = count()
    gate = Gate(tokens, local=True, clock=lambda: 3600.0 * next(hours))
    asyncio.run(gate.admit(request, Scope.READ))
    tokens.create("only", Scope.READ)
    for _ in range(2):
        with pytest.raises(auth.UnauthorisedError, match="authorization must be"):
            asyncio.run(gate.admit(request, Scope.READ))
        (tmp_path / "bss.sqlite").unlink(missing_ok=True)
    tokens.close()


def test_who_was_admitted_is_so_again_until_the_tokens_are_read_anew_or_his_own_ends(tmp_path: Path) -> None:
    tokens = Tokens(f"sqlite:///{tmp_path}/bss.sqlite")
    now = 0.0
    gate = Gate(tokens, limiter=RateLimiter(3.0, clock=lambda: 0.0), local=True, clock=lambda: now)

    def request(name: str) -> Request:
        bearer = b"Bearer " + tokens.create(name, Scope.TRAIN, 1 if name == "short" else None).encode()
        return Request({"type": "http", "headers": [(b"authorization", bearer)], "path": "/"})

    long, short = request("long"), request("short")
    asyncio.run(gate.admit(long, Scope.TRAIN, "long"))
    now = 0.9
    assert gate.admits_again("long")
    assert not gate.admits_again("short")
    assert not gate.admits_again(None)
    asyncio.run(gate.admit(short, Scope.TRAIN, "short"))
    now = 0.999
    assert gate.admits_again("long")
    with pytest.raises(TooManyError):
        gate.admits_again("long")
    now = 1.0  # not a second after `short` was admitted, but after the store was read
    assert not gate.admits_again("long")
    assert not gate.admits_again("short")
    asyncio.run(gate.admit(short, Scope.TRAIN, "short"))
    now = 1.999  # when its own second is over
    assert not gate.admits_again("short")
    with pytest.raises(auth.ForbiddenError):
        asyncio.run(gate.admit(short, Scope.ADMIN, "admin"))
    assert not gate.admits_again("admin")
    tokens.close()


def test_tokens_that_cannot_be_read_are_asked_for_once_a_second_and_let_nobody_in(tmp_path: Path) -> None:
    request = Request({"type": "http", "headers": [(b"host", b"localhost")], "path": "/", "query_string": b""})
    file = tmp_path / "bss.sqlite"
    file.write_text("not a database, at some length")
    tokens = Tokens(f"sqlite:///{file}")
    now = 0.0
    gate = Gate(tokens, local=True, clock=lambda: now)
    with pytest.raises(StoreError, match="the tokens can't be read"):
        asyncio.run(gate.admit(request, Scope.READ))
    file.unlink()
    now = 0.5
    with pytest.raises(StoreError, match="the tokens can't be read"):
        asyncio.run(gate.admit(request, Scope.READ))
    now = 1.0
    asyncio.run(gate.admit(request, Scope.READ))
    tokens.close()


def test_a_store_that_hangs_keeps_nobody_waiting_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "PATIENCE", 0.05)
    request = Request({"type": "http", "headers": [(b"host", b"localhost")], "path": "/", "query_string": b""})
    goes_on, asked = threading.Event(), []

    class Hanging:
        def all(self) -> list[Token]:
            asked.append(1)
            goes_on.wait()
            return []

    async def use() -> None:
        gate = Gate(Hanging(), local=True, clock=count().__next__)  # type: ignore[arg-type]  # seconds pass
        for _ in range(2):
            with pytest.raises(StoreError, match="the store has not answered for"):
                await gate.admit(request, Scope.READ)
        goes_on.set()
        monkeypatch.setattr(auth, "PATIENCE", 5.0)
        await gate.admit(request, Scope.READ)
        assert asked == [1]

    asyncio.run(use())


def test_a_service_that_others_reach_is_closed_also_without_tokens_and_by_the_name_of_loopback(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bss.sqlite"
    store = Store(url)
    app = create_app(Settings(store=url, host="0.0.0.0"), store)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            return await http.get("/metrics")

    answer = asyncio.run(ask())
    store.close()
    assert (answer.status_code, answer.json()["field"]) == (401, "authorization")


def test_no_token_stands_in_the_log(guarded: Guarded) -> None:
    text = guarded.tokens.create("unseen", Scope.READ)
    for token in (text, SETTING, guarded.texts["admin"]):
        guarded.ask("GET", "/v1/jobs", token)
        guarded.ask("GET", f"/v1/jobs/{token}", token)
    log = "".join(guarded.service.log)
    assert not re.search("|".join([SETTING, text, *guarded.texts.values()]), log)


def test_a_revoked_token_ends_a_client_that_would_try_for_ever(guarded: Guarded) -> None:
    text = guarded.tokens.create("trainer-2", Scope.TRAIN)
    with guarded.service.client(token=text, retries=10**9) as client:
        assert comes_true(lambda: not _is_refused(client))
        client.create_job(spec("revoked"))
        client.steps("revoked", StepsRequest(start=0))
        guarded.tokens.revoke("trainer-2")
        assert comes_true(lambda: _is_refused(client))
        with pytest.raises(UnauthorisedError, match="neither revoked nor expired"):
            client.steps("revoked", StepsRequest(start=1))
    with guarded.client("read") as reader:
        assert reader.job("revoked").next_step == 1


@pytest.mark.parametrize("on_outage", ["wait", "local", "raise"])
def test_a_revoked_token_ends_training_with_a_clear_error(guarded: Guarded, on_outage: OnOutage) -> None:
    name = f"trainer-{on_outage}"
    text = guarded.tokens.create(name, Scope.TRAIN)
    with guarded.service.client(token=text) as client:
        assert comes_true(lambda: not _is_refused(client))
        sampler = ScheduledBatchSampler(spec(name), client, on_outage=on_outage)
        with pytest.raises(UnauthorisedError, match="neither revoked nor expired"):
            for number, indices in enumerate(index for _ in range(100_000) for index in sampler):
                index = torch.tensor(indices)
                x = torch.rand(len(index))
                sampler.feedback(index, {"similarity": x, "loss": x, "probability": x[:, None].repeat(1, 3)})
                if number == 10:
                    guarded.tokens.revoke(name)
        sampler.close(timeout=0.1)


def _is_refused(client: SchedulerClient) -> bool:
    try:
        client.jobs()
    except UnauthorisedError:
        return True
    return False
