"""The hot call's short way answers as the long way does, byte for byte, and takes what it is made for."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from bss_service.http.bodies import LONG
from bss_service.http.hot import Call, plain
from bss_service.http.limits import FREE
from bss_service.http.tokens import Scope, Tokens
from bss_service.protocol import frames
from bss_service.protocol.training import Feedback, StepsRequest
from tests.support.services import Service
from tests.support.simulated import spec

TOKEN = "a-token-that-only-tests-use"
LONG_WAY = "?by=route"  # the short way takes no query; the route passes one over
HEADERS = {"accept": frames.CONTENT_TYPE, "content-type": frames.CONTENT_TYPE, "bss-protocol": "1"}
G = 8


def feedback(step: int = 0, **signals: Any) -> Feedback:
    values = np.linspace(0.1, 0.9, G, dtype=np.float32)[None]
    usual = {"similarity": values, "loss": values, "probability": np.stack([values] * 3, axis=2)}
    return Feedback(step=np.array([step]), **(usual | signals))


def frame(**fields: Any) -> bytes:
    return StepsRequest(**({"start": 1} | fields)).to_frame()


def unchecked(**fields: Any) -> bytes:
    return frames.encode({"start": 1, **fields})


BODIES = {
    "batches": frame(start=0, count=3),
    "feedback": frame(feedback=feedback()),
    "what is not known": frame(feedback=feedback(loss=np.full((1, G), np.nan, np.float32))),
    "an empty body": b"",
    "no frame": b"\x08\x00\x00\x00\x00\x00\x00\x00not json",
    "JSON": b'{"start": 0}',
    "a step too far": frame(start=10**6),
    "a count too large": unchecked(count=5000),
    "a field too many": unchecked(colour="red"),
    "a word for a number": unchecked(start="one"),
    "a value out of range": frame(feedback=feedback(similarity=np.full((1, G), 2, np.float32))),
    "an infinite value": unchecked(feedback={"step": np.array([0]), "loss": np.full((1, G), np.inf, np.float32)}),
    "another shape": frame(feedback=feedback(loss=np.zeros((1, G + 1), np.float32))),
    "an unknown signal": frame(feedback=feedback(colour=np.zeros((1, G), np.float32))),
    "another rank": frame(rank=1, world_size=3),
    "another batch": frame(feedback=feedback().model_copy(update={"checksum": np.array([5])})),
    "nobody's place": frame(client="somebody"),
}
SURROUNDINGS: dict[str, dict[str, str]] = {
    "another job of the name": {"bss-incarnation": "0" * 32},
    "no incarnation at all": {"bss-incarnation": "0"},
    "another host": {"host": "example.org"},
    "another page": {"origin": "http://example.org"},
    "another site": {"sec-fetch-site": "cross-site"},
    "a coding": {"content-encoding": "gzip"},
    "an old client": {"bss-protocol": "0"},
    "a newer client": {"bss-protocol": "9"},
    "another form": {"content-type": "text/plain"},
    "a wrong token": {"authorization": "Bearer nobody's"},
}


@pytest.fixture(scope="module")
def guarded_tokens(guarded: Service) -> dict[str, str]:
    tokens = Tokens(f"sqlite:///{guarded.store}")
    made = {scope: tokens.create(scope, Scope(scope)) for scope in ("read", "train")}
    tokens.close()
    return made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("guarded"), environment={"BSS_TOKEN": TOKEN}) as service:
        yield service


def ask(http: httpx.Client, service: Service, job: str, body: bytes, way: str, **headers: str) -> tuple[Any, ...]:
    """What counts of an answer."""
    path = f"{service.url}/v1/jobs/{job}/steps{way}"
    answer = http.post(path, content=body, headers=HEADERS | headers)
    kept = sorted((k, v) for k, v in answer.headers.items() if k not in ("date", "content-length"))
    return answer.status_code, answer.content.replace(way.encode(), b""), kept


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("narrow"), environment={"BSS_MAX_BODY_BYTES": "1024"}) as service:
        yield service


class TestBothWays:
    def test_a_body_beyond_the_services_own_bound_is_refused_alike(self, narrow: Service, job_name: str) -> None:
        with narrow.client() as client, httpx.Client() as http:
            client.create_job(spec(job_name, batch_size=G))
            body = frame(start=0, client="a" * 90) + b" " * 1024
            short = ask(http, narrow, job_name, body, "")
            assert short[0] == 413
            assert short == ask(http, narrow, job_name, body, LONG_WAY)

    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
    def test_a_body_is_answered_alike(self, service: Service, job_name: str, body: bytes) -> None:
        """Asked again it gives the same, so that the same job serves; feedback then is a repetition."""
        with service.client() as client, httpx.Client() as http:
            client.create_job(spec(job_name, batch_size=G, patience=0))
            client.steps(job_name, StepsRequest(start=0, count=2))
            ask(http, service, job_name, body, "")
            short = ask(http, service, job_name, body, "")
            assert short == ask(http, service, job_name, body, LONG_WAY)

    @pytest.mark.parametrize("headers", SURROUNDINGS.values(), ids=SURROUNDINGS)
    def test_what_surrounds_it_is_answered_alike(
        self, service: Service, job_name: str, headers: dict[str, str]
    ) -> None:
        with service.client() as client, httpx.Client() as http:
            client.create_job(spec(job_name, batch_size=G))
            short = ask(http, service, job_name, frame(start=0), "", **headers)
            assert short == ask(http, service, job_name, frame(start=0), LONG_WAY, **headers)

    def test_an_unknown_job_is_answered_alike(self, service: Service) -> None:
        with httpx.Client() as http:
            short = ask(http, service, "nobody", frame(start=0), "")
            assert short[0] == 404
            assert short == ask(http, service, "nobody", frame(start=0), LONG_WAY)

    @pytest.mark.parametrize("scope", [None, "read", "train"])
    def test_a_token_opens_both_or_none(
        self, guarded: Service, guarded_tokens: dict[str, str], job_name: str, scope: str | None
    ) -> None:
        with guarded.client(token=TOKEN) as client, httpx.Client() as http:
            client.create_job(spec(job_name, batch_size=G))
            headers = {"authorization": f"Bearer {guarded_tokens[scope]}"} if scope else {}
            short = ask(http, guarded, job_name, frame(start=0), "", **headers)
            assert short[0] == {None: 401, "read": 403, "train": 200}[scope]
            assert short == ask(http, guarded, job_name, frame(start=0), LONG_WAY, **headers)


def call(path: str = "/v1/jobs/run-1/steps", **headers: str) -> dict[str, Any]:
    """A request as the server hands it over."""
    sent = HEADERS | {"content-length": "100"} | {name.replace("_", "-"): value for name, value in headers.items()}
    path, _, query = path.partition("?")
    pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
    return {"type": "http", "method": "POST", "path": path, "query_string": query.encode(), "headers": pairs}


def taken(request: dict[str, Any]) -> Call:
    """What goes the short way."""
    found = plain(request)
    assert found is not None
    return found


class TestWhichWay:
    def test_what_the_client_sends_goes_the_short_way(self) -> None:
        assert taken(call())[:3] == ("run-1", None, 100)
        assert taken(call(bss_incarnation="0123456789abcdef" * 2))[:2] == ("run-1", "0123456789abcdef" * 2)

    @pytest.mark.parametrize(
        "other",
        [
            call(authorization="Bearer other"),
            call(host="example.org"),
            call() | {"client": ("10.0.0.1", 5)},
            call() | {"server": ("10.0.0.1", 8765)},
            call() | {"http_version": "1.0"},
        ],
    )
    def test_two_that_differ_in_what_admits_them_are_not_alike(self, other: dict[str, Any]) -> None:
        assert taken(other).sender != taken(call()).sender == taken(call(content_length="5")).sender

    @pytest.mark.parametrize(
        "request_",
        [
            call("/v1/jobs/run-1/feedback"),
            call("/v1/jobs/run-1/steps/"),
            call("/v1/jobs/run-1/steps?x=1"),
            call(accept="application/json"),
            call(content_type="application/json"),
            call(content_length=str(LONG + 1)),
            call(content_encoding="gzip"),
            call(transfer_encoding="chunked"),
            call(origin="http://127.0.0.1:8765"),
            call(sec_fetch_site="same-origin"),
            call(bss_protocol="0"),
            call(bss_incarnation="none"),
            call() | {"method": "PUT"},
            call() | {"headers": call()["headers"] + [(b"accept", b"*/*")]},
            call() | {"headers": call()["headers"] + [(b"authorization", b"a"), (b"authorization", b"b")]},
            call() | {"headers": call()["headers"][1:]},
            call() | {"type": "lifespan"},
        ],
    )
    def test_all_else_goes_the_long_one(self, request_: dict[str, Any]) -> None:
        assert plain(request_) is None

    def test_no_body_on_the_short_way_is_one_that_is_counted(self) -> None:
        assert LONG <= FREE
