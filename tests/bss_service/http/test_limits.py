"""What a request may cost: refused before memory is spent, and while others are served."""

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from fastapi import Request

from bss_service.errors import TooManyError
from bss_service.host import looks
from bss_service.host.host import JSON_ROWS
from bss_service.http.bodies import MAX_HEADER, MAX_JSON, MAX_MEMBERS, MAX_NUMBERS, MAX_ROWS
from bss_service.http.limits import FREE, MAX_CLIENTS, MAX_HEAD, MAX_HEADERS, AtMost, RateLimiter
from bss_service.protocol import frames
from tests.support.services import Service
from tests.support.simulated import spec

JOB = "limits"
STEPS = f"/v1/jobs/{JOB}/steps"
MIB = 2**20
SLACK = 24  # MiB that a process may grow by for other reasons
GENEROUS = 20  # seconds
AS_JSON = {"content-type": "application/json"}
AS_FRAME = {"content-type": frames.CONTENT_TYPE}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that takes bodies of 32 MiB, two at a time."""
    with Service(tmp_path_factory.mktemp("limited"), flags=["--max-body-bytes", str(32 * MIB)]) as running:
        with running.client() as client:
            client.create_job(spec(JOB))
        yield running


@pytest.fixture(scope="module")
def http(limited: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=limited.url, timeout=GENEROUS) as plain:
        yield plain


def memory(service: Service) -> float:
    """MiB that a service's process holds."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def endless(service: Service, begin: bytes, piece: bytes, most: int = 32 * MIB) -> tuple[int, bytes]:
    """Send a beginning and then a piece again and again, until the service ends it; what was sent, and its answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=GENEROUS) as connection:
        sent = 0
        try:
            connection.sendall(begin)
            while sent < most:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
    return sent, answer


# What stands around a body.


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /", b"a" * 65536),
        (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ", b"a" * 65536),
        (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n", b"a" * 65536),
        (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n" * 8192),
        (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n", b"x:\r\n" * 8192),
        (b"", b"a" * 65536),
    ],
    ids=["request line", "header", "header name", "headers", "empty headers", "method"],
)
def test_a_head_without_end_is_cut_off_before_it_fills_memory(limited: Service, begin: bytes, piece: bytes) -> None:
    before = memory(limited)
    sent, answer = endless(limited, begin, piece)
    assert sent < 16 * MIB  # what lies in the sockets' buffers
    assert memory(limited) < before + SLACK
    assert answer == b"" or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer[:200]


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"0\r\nx: ", b"a" * 65536), (b"0\r\n", b"x: y\r\n" * 8192), (b"1;", b"a" * 65536)],
    ids=["trailer", "trailers", "chunk extension"],
)
def test_what_follows_a_body_without_end_is_cut_off_too(limited: Service, begin: bytes, piece: bytes) -> None:
    before = memory(limited)
    head = f"POST {STEPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
    sent, _ = endless(limited, head + b"transfer-encoding: chunked\r\n\r\n" + begin, piece)
    assert sent < 16 * MIB
    assert memory(limited) < before + SLACK


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x": "a" * (MAX_HEAD - 1000)}, 200),
        ({"x": "a" * (MAX_HEAD + 1)}, 431),
        ({f"x{k}": "" for k in range(MAX_HEADERS - 10)}, 200),
        ({f"x{k}": "" for k in range(MAX_HEADERS + 1)}, 431),
    ],
)
def test_the_bounds_of_a_head(http: httpx.Client, headers: dict[str, str], status: int) -> None:
    answer = http.get("/healthz", headers=headers)
    assert answer.status_code == status
    if status == 431:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 431


def test_requests_without_end_on_one_connection_are_cut_off_before_they_fill_memory(limited: Service) -> None:
    before = memory(limited)
    many = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 1000
    sent, _ = endless(limited, b"", many)
    assert sent < 32 * MIB
    assert memory(limited) < before + SLACK
    with limited.client() as client:
        assert client.job(JOB).spec.name == JOB


def test_a_few_requests_on_one_connection_are_answered_in_turn(limited: Service) -> None:
    with socket.create_connection(("127.0.0.1", limited.port), timeout=GENEROUS) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 8)
        answer = b""
        while answer.count(b'{"status":"alive"}') < 8:
            part = connection.recv(65536)
            assert part, answer
            answer += part


def test_a_trailer_is_no_header(limited: Service) -> None:
    text = b"POST /v1/jobs HTTP/1.1\r\nhost: evil.example\r\ncontent-type: application/json\r\n"
    text += b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nhost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", limited.port), timeout=GENEROUS) as connection:
        connection.sendall(text)
        assert connection.recv(65536).startswith(b"HTTP/1.1 421 ")


def test_what_is_no_http_is_a_problem_too(limited: Service) -> None:
    with socket.create_connection(("127.0.0.1", limited.port), timeout=GENEROUS) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-content-type-options: nosniff" in head
    assert json.loads(body)["detail"] == "this is no HTTP request"


# Bodies.


def refused(service: Service, declared: int | None, headers: dict[str, str]) -> bytes:
    """The first line of the answer to a body that is only announced, or else sent in chunks without end."""
    lines = [f"POST {STEPS} HTTP/1.1", "host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    length = "transfer-encoding: chunked" if declared is None else f"content-length: {declared}"
    head = "\r\n".join([*lines, length, "", ""]).encode()
    return _first_line(service, head, b"10000\r\n" + b" " * 65536 + b"\r\n" if declared is None else b"")


def _first_line(service: Service, head: bytes, chunk: bytes, most: int = 512 * MIB) -> bytes:
    with socket.create_connection(("127.0.0.1", service.port), timeout=GENEROUS) as connection:
        connection.sendall(head)
        answered = threading.Event()

        def feed() -> None:
            sent = 0
            while chunk and sent < most and not answered.is_set():
                try:
                    connection.sendall(chunk)
                except OSError:
                    return
                sent += len(chunk)

        with ThreadPoolExecutor(1) as feeder:
            feeder.submit(feed)
            line = connection.recv(65536).split(b"\r\n")[0]
            answered.set()
            connection.shutdown(socket.SHUT_RDWR)
    return line


@pytest.mark.parametrize("declared", [33 * MIB, 10**18, None])
@pytest.mark.parametrize("headers", [AS_JSON, AS_FRAME])
def test_a_body_that_is_too_large_is_refused_unread(
    limited: Service, declared: int | None, headers: dict[str, str]
) -> None:
    before = memory(limited)
    for _ in range(5):
        assert refused(limited, declared, headers).startswith(b"HTTP/1.1 413 ")
    assert memory(limited) < before + 32 + SLACK  # one is being read at a time, if at all


def test_json_is_bounded_more_narrowly_than_frames(http: httpx.Client) -> None:
    answer = http.post(STEPS, content=b" " * (MAX_JSON + 1), headers=AS_JSON)
    assert (answer.status_code, answer.json()["field"]) == (413, "body")


def unknown_keys(count: int) -> bytes:
    return b'{"start":0,' + b",".join(b'"k%d":0' % k for k in range(count)) + b"}"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (unknown_keys(150_000), AS_JSON),
        (b'{"policy":{"name":"x","parameters":' + unknown_keys(150_000) + b"}}", AS_JSON),
        (b'{"start":[' + b"[]," * 600_000 + b"1]}", AS_JSON),
        (frames.encode({"start": 0, **{f"k{k}": k for k in range(50_000)}}), AS_FRAME),
        (frames.encode({"start": 0, "text": "a" * MAX_HEADER}), AS_FRAME),
        (frames.encode({f"k{k}": np.zeros(0) for k in range(10_000)}), AS_FRAME),
    ],
    ids=["unknown keys", "parameters", "arrays", "frame's fields", "frame's text", "frame's arrays"],
)
def test_a_body_of_too_many_parts_is_refused_while_others_are_served(
    http: httpx.Client, limited: Service, body: bytes, headers: dict[str, str]
) -> None:
    assert len(body) < MAX_JSON
    answer = http.post(STEPS, content=body, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (413, "body")
    assert answer.elapsed.total_seconds() < GENEROUS


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (unknown_keys(MAX_MEMBERS - 1), 422, "k0"),
        (b'{"start":[' + b"0," * 900_000 + b"0]}", 422, "start"),
        (b'{"start":[' + b"[]," * (MAX_ROWS - 10) + b"0]}", 422, "start"),
        (b'{"start":' + b"9" * 4000 + b"}", 422, "start"),
        (b'{"start":' + b"9" * 100_000 + b"}", 400, None),
        (b'{"start":1e999}', 422, "start"),
        (b'{"start":' + b"[" * 150 + b"]" * 150 + b"}", 422, "start"),
        (b'{"start":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, None),
        (b'{"start":' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}", 422, "start"),
        (b'{"start":0,"start":1}', 400, None),
        (b'{"start":0,"feedback":{"step":[0],"step":[1]}}', 400, None),
        (b'{"start":"' + b"a" * 1_000_000 + b'"}', 422, "start"),
        (b'{"' + b"a" * 1_000_000 + b'":0}', 422, None),
        (b'{"start":"\\ud800"}', 400, None),
        (b'{"\\ud800":0}', 400, None),
        ('{"start":0}'.encode("utf-16"), 400, None),
    ],
    ids=range(16),
)
def test_extreme_json_gets_a_short_answer(http: httpx.Client, body: bytes, status: int, field: str | None) -> None:
    answer = http.post(STEPS, content=body, headers=AS_JSON)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert len(answer.content) < 5000
    if field is not None:
        assert problem["field"] == field


@pytest.mark.parametrize(
    "strings",
    [
        '{"start":0,"start":1}',
        '{"start":"\\ud800"}',
        '{"start":' + "[" * 900 + "]" * 900 + "}",
        '{"start":' + "[" * 5000 + "]" * 5000 + "}",
        '{"start":' + "9" * 100_000 + "}",
        '{"start":NaN}',
    ],
)
def test_extreme_frames_get_a_short_answer(http: httpx.Client, strings: str) -> None:
    body = safetensors.numpy.save({}, {"message": strings})
    answer = http.post(STEPS, content=body, headers=AS_FRAME)
    assert answer.status_code in (400, 422), answer.text
    assert len(answer.content) < 5000


@pytest.mark.parametrize("path", ["." * 1000, ".".join("a" * 100_000), "feedback.step.x.y", "start.x"])
def test_an_array_at_an_extreme_place_gets_a_short_answer(http: httpx.Client, path: str) -> None:
    body = safetensors.numpy.save({path: np.zeros(1)}, {"message": '{"start":0}'})
    answer = http.post(STEPS, content=body, headers=AS_FRAME)
    assert answer.status_code in (400, 413, 422), answer.text
    assert len(answer.content) < 5000


@pytest.mark.parametrize("encoding", ["gzip", "br", "x\u00e9"])
def test_compressed_bodies_are_not_taken(http: httpx.Client, encoding: str) -> None:
    headers = {**AS_JSON, "content-encoding": encoding.encode("latin-1")}
    answer = http.post(STEPS, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (415, "content-encoding")


@pytest.mark.parametrize("query", ["start=" + "9" * 20_000, "start=0&count=" + "9" * 20_000, "start=0&" * 2000])
def test_queries_are_bounded(http: httpx.Client, query: str) -> None:
    answer = http.get(f"/v1/jobs/{JOB}/batches?{query}")
    assert answer.status_code in (409, 422)
    assert len(answer.content) < 5000


def test_bodies_of_all_requests_together_are_bounded_and_feedback_still_gets_in(limited: Service) -> None:
    """Two of 32 MiB are held open; a third is to come again, and a small one passes."""
    before = memory(limited)
    part = b" " * (31 * MIB)
    head = f"POST {STEPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {frames.CONTENT_TYPE}\r\n"
    open_ones = []
    for _ in range(2):
        connection = socket.create_connection(("127.0.0.1", limited.port), timeout=GENEROUS)
        open_ones.append(connection)
        connection.sendall(f"{head}content-length: {len(part) + MIB}\r\n\r\n".encode() + part)
    with httpx.Client(base_url=limited.url, timeout=GENEROUS) as http:
        tries = (http.post(STEPS, content=b" " * (30 * MIB), headers=AS_FRAME) for _ in iter(int, 1))
        busy = next(answer for answer in tries if answer.status_code == 503)
        assert busy.headers["retry-after"] == "1"
        assert busy.json()["title"] == "Busy"
        assert http.post(STEPS, json={"start": 0}).status_code == 200
        assert http.post(STEPS, content=b" " * (FREE // 2), headers=AS_FRAME).status_code == 400
        assert memory(limited) < before + 5 * 32 + SLACK
        for connection in open_ones:
            connection.close()
        until = time.monotonic() + GENEROUS
        while (again := http.post(STEPS, content=b" " * (30 * MIB), headers=AS_FRAME)).status_code == 503:
            assert time.monotonic() < until
        assert again.status_code == 400  # read, and no frame


# Requests.


class Clock:
    """Shows the time that was set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(limiter: RateLimiter, client: str, times: int) -> int:
    """How many of so many requests pass."""
    passed = 0
    for _ in range(times):
        try:
            limiter.take(client)
        except TooManyError:
            continue
        passed += 1
    return passed


def test_a_client_gets_one_seconds_worth_at_once_and_then_its_rate(clock: Clock) -> None:
    limiter = RateLimiter(5, clock)
    assert taken(limiter, "a", 100) == 5
    clock.now += 0.4
    assert taken(limiter, "a", 100) == 2
    clock.now += 3600
    assert taken(limiter, "a", 100) == 5


def test_one_client_takes_nothing_from_another(clock: Clock) -> None:
    limiter = RateLimiter(5, clock)
    assert [taken(limiter, "a", 100), taken(limiter, "b", 100)] == [5, 5]


def test_who_waits_as_long_as_told_passes(clock: Clock) -> None:
    limiter = RateLimiter(0.25, clock)
    limiter.take("a")
    clock.now += 1
    with pytest.raises(TooManyError) as refusal:
        limiter.take("a")
    assert refusal.value.retry_after == 3.0
    clock.now += refusal.value.retry_after
    limiter.take("a")


def test_a_client_has_a_few_requests_of_a_kind_under_way_and_no_more(service: Service) -> None:
    with service.client() as client, ExitStack() as connections:
        client.create_job(spec("watched", policy="external"))
        ask = b"GET /v1/jobs/watched/observation?wait=600 HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for _ in range(looks.MAX_HELD + 1):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", service.port), GENEROUS))
            connection.sendall(ask)
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nretry-after: 1\r\n" in answer


def test_of_a_kind_each_client_has_its_own(clock: Clock) -> None:
    async def use() -> None:
        at_most = AtMost(1, "looks")
        state = SimpleNamespace(under_way=Counter())

        def asking(client: str) -> Request:
            request = Request({"type": "http", "app": SimpleNamespace(state=state)})
            request.state.client = client
            return request

        first = at_most(asking("token a"))
        await anext(first)
        await anext(at_most(asking("token b")))
        with pytest.raises(TooManyError, match="a client may have 1 looks under way"):
            await anext(at_most(asking("token a")))
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        await anext(at_most(asking("token a")))

    asyncio.run(use())


def test_json_has_no_answer_that_holds_up_others_while_it_is_written(http: httpx.Client) -> None:
    large = MAX_NUMBERS // 2 + 1
    created = spec("large", samples=large, batch_size=large).model_dump_json()
    assert http.post("/v1/jobs", content=created, headers=AS_JSON).status_code == 201
    ask = {"content": '{"start": 0}', "headers": AS_JSON}
    answer = http.post("/v1/jobs/large/steps", **ask)
    assert (answer.status_code, answer.json()["field"]) == (413, "accept")
    ask["headers"] = {**AS_JSON, "accept": frames.CONTENT_TYPE}
    assert http.post("/v1/jobs/large/steps", **ask).status_code == 200


def test_json_has_fewer_batches_at_once_than_frames(http: httpx.Client) -> None:
    created = spec("many", samples=4 * JSON_ROWS, batch_size=JSON_ROWS // 4).model_dump_json()
    assert http.post("/v1/jobs", content=created, headers=AS_JSON).status_code == 201
    asked = {"content": '{"start": 0, "count": 8}'}
    few = http.post("/v1/jobs/many/steps", headers=AS_JSON, **asked)
    assert len(few.json()["batches"]["indices"]) == 4
    all_ = http.post("/v1/jobs/many/steps", headers={**AS_JSON, "accept": frames.CONTENT_TYPE}, **asked)
    assert len(frames.decode(all_.content)["batches"]["indices"]) == 8


def test_what_is_kept_of_clients_is_bounded_and_none_gains_by_it(clock: Clock) -> None:
    limiter = RateLimiter(1, clock)
    for number in range(3 * MAX_CLIENTS):
        limiter.take(str(number))
    assert len(limiter._buckets) == MAX_CLIENTS
    assert taken(limiter, str(3 * MAX_CLIENTS - 1), 1) == 0
    clock.now += 1
    limiter.take("last")
    assert len(limiter._buckets) == 1  # those that are full again are forgotten


def test_a_rate_limit_answers_429_and_the_client_waits_as_told(start_service: Callable[..., Service]) -> None:
    service = start_service("--rate-limit", "20")
    with httpx.Client(base_url=service.url) as http, service.client() as client:
        answers = [http.get("/v1/jobs") for _ in range(100)]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert limited
        assert {answer.headers["retry-after"] for answer in limited} == {"1"}
        assert limited[0].headers["content-type"] == "application/problem+json"
        assert {http.get("/healthz").status_code for _ in range(50)} == {200}
        assert len([client.jobs() for _ in range(25)]) == 25


# Names.

HOSTILE: list[tuple[str, set[int]]] = [
    ("%2e%2e", {404, 422}),
    ("..%2f..%2fetc", {404, 422}),
    ("a%0ab", {422}),
    ("a%0a", {422}),
    ("a%00", {422}),
    ("%1b%5b2J", {422}),
    ("%E2%80%AE", {422}),
    ("%C3%A9", {422}),
    ("%ff", {422}),
    ("a" * 101, {422}),
    ("a" * 20_000, {422}),
    ("%3Cscript%3E", {422}),
    ("a%25", {422}),
]


@pytest.mark.parametrize(("name", "statuses"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_refused_and_told_back_as_json_alone(limited: Service, name: str, statuses: set[int]) -> None:
    for path in (f"/v1/jobs/{name}", f"/v1/jobs/{name}/policy", f"/v1/policies/{name}", f"/v1/{name}"):
        with closing(socket.create_connection(("127.0.0.1", limited.port), timeout=GENEROUS)) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert int(head.split()[1]) in statuses | {404}, head
        assert b"content-type: application/problem+json" in head.lower()
        assert b"x-content-type-options: nosniff" in head.lower()
        assert json.loads(body)["status"] in statuses | {404}
        assert len(body) < 5000
    log = "".join(limited.log)
    assert "\x1b" not in log
    assert "\u202e" not in log


def test_not_a_number_in_what_comes_with_a_policy_is_refused(http: httpx.Client) -> None:
    body: dict[str, Any] = {"policy": {"name": "curriculum", "parameters": {"growth_epochs": float("nan")}}}
    answer = http.put(f"/v1/jobs/{JOB}/policy", content=json.dumps(body).encode(), headers=AS_JSON)
    assert answer.status_code == 422


# Snapshots, which have more parts than other messages.


def test_a_frame_of_more_arrays_than_any_snapshot_has_is_not_parsed(limited: Service, http: httpx.Client) -> None:
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % number for number in range(400_000)) + b"}"
    before = memory(limited)
    body = len(header).to_bytes(8, "little") + header
    answer = http.put("/v1/jobs/again/snapshot", content=body, headers=AS_FRAME)
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        f"body must have at most 2000000 values, got {7 * 400_000 + 1}",
    )
    assert memory(limited) < before + len(body) / MIB + SLACK


@pytest.mark.parametrize("sign", [b"[", b'{"a":'])
def test_a_snapshot_nested_without_end_is_refused(http: httpx.Client, sign: bytes) -> None:
    text = json.dumps({"__metadata__": {"message": sign.decode() * 100_000}}).encode()
    for body, headers in (
        (sign * 100_000, AS_JSON),
        (len(text).to_bytes(8, "little") + text, AS_FRAME),
        ((8 * len(sign) * 10_000).to_bytes(8, "little") + sign * 80_000, AS_FRAME),
    ):
        assert http.put("/v1/jobs/again/snapshot", content=body, headers=headers).status_code == 400


@pytest.mark.parametrize("field", ["versions", "shadows"])
def test_a_snapshot_of_more_policies_than_a_job_has_is_refused(
    limited: Service, http: httpx.Client, field: str
) -> None:
    with limited.client() as client:
        message = frames.decode(client.snapshot(JOB))
    version = {"policy": {"name": "uniform", "parameters": {}}}
    message[field] = [{**version, "version": k + 1, "first_step": -k % 20_000} for k in range(20_000)]
    answer = http.put("/v1/jobs/again/snapshot", content=frames.encode(message), headers=AS_FRAME)
    assert (answer.status_code, answer.json()["detail"]) == (422, f"{field} must be at most 10000, got 20000")
