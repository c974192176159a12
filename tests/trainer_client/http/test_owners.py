"""Whom a client follows to the owner of a job, and whom it does not."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainer_client import OutageError, SchedulerClient, StrangeAnswerError
from trainer_client.http import transport

TOKEN = "a-token-that-only-tests-use"
POLICY = {"policy_version": 1, "first_step": 0, "policy": {"name": "uniform", "parameters": {}}}


class Process:
    """One of a service's: it answers as `say` tells, with a status and a message, and notes who asked."""

    def __init__(self, say: Callable[[], tuple[int, object]]) -> None:
        self.asked: list[str] = []
        self.say, process = say, self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                process.asked.append(self.headers.get("authorization", ""))
                status, message = process.say()
                body = json.dumps(message).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json" if status < 300 else "application/problem+json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as started:

        def start_process(say: Callable[[], tuple[int, object]] = lambda: (200, POLICY)) -> Process:
            process = Process(say)
            started.callback(process.close)
            return process

        yield start_process


def moved(address: str, field: str = "owner") -> tuple[int, object]:
    return 307, {"title": "Temporary redirect", "status": 307, "detail": "moved", "field": field, "value": address}


def test_the_owner_that_the_service_names_is_asked_and_remembered(start: Start) -> None:
    owner = start()
    service = start(lambda: moved(owner.url))
    with SchedulerClient(service.url, token=TOKEN) as client:
        for _ in range(3):
            assert client.policy("run").policy_version == 1
    assert (len(service.asked), len(owner.asked)) == (1, 3)
    assert set(owner.asked) == {f"Bearer {TOKEN}"}


def test_an_owner_that_is_gone_is_forgotten_and_the_service_asked_again(start: Start) -> None:
    first, second = start(), start()
    owners = [first, second]
    service = start(lambda: moved(owners[0].url))
    with SchedulerClient(service.url) as client:
        client.policy("run")
        first.say = lambda: moved(start_of_nobody)  # it knows better, but is not believed
        start_of_nobody = "http://127.0.0.1:1"
        owners.pop(0)
        client.policy("run")
        second.say = lambda: (503, {"title": "No owner", "status": 503, "detail": "its term is over"})
        owners.append(first)
        owners.pop(0)
        first.say = lambda: (200, POLICY)
        client.policy("run")
    assert (len(service.asked), len(first.asked), len(second.asked)) == (3, 3, 2)


@pytest.mark.parametrize(
    "address",
    ["https://127.0.0.1:{port}", "http://user@127.0.0.1:{port}", "http://127.0.0.1:{port}/elsewhere", "file:///etc", 7],
)
def test_no_token_goes_to_what_is_no_address_of_the_same_scheme(start: Start, address: object) -> None:
    other = start()
    named = str(address).format(port=other.url.rpartition(":")[2]) if isinstance(address, str) else address
    service = start(lambda: moved(named))  # type: ignore[arg-type]
    with SchedulerClient(service.url, token=TOKEN) as client, pytest.raises(StrangeAnswerError, match="status 307"):
        client.policy("run")
    assert other.asked == []


def test_a_redirect_of_anybody_else_is_not_followed(start: Start) -> None:
    other = start()
    service = start(lambda: moved(other.url, field="somewhere"))
    with SchedulerClient(service.url, token=TOKEN) as client, pytest.raises(StrangeAnswerError, match="status 307"):
        client.policy("run")
    assert other.asked == []


def test_who_is_sent_around_gives_up_for_now(start: Start) -> None:
    service = start()
    owner = start(lambda: moved(service.url))
    service.say = lambda: moved(owner.url)
    with SchedulerClient(service.url, retries=0) as client, pytest.raises(OutageError, match="sent on 4 times"):
        client.policy("run")
    assert len(service.asked) + len(owner.asked) == 4


def test_an_owner_that_hangs_is_left_once_the_service_names_another(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "WAITING", 0.05)
    released = threading.Event()
    hanging = start(lambda: (200, POLICY) if released.wait(30) else (500, {}))
    other = start()
    names = iter([hanging.url, hanging.url])
    service = start(lambda: moved(next(names, other.url)))
    with SchedulerClient(service.url) as client:
        assert client.policy("run").policy_version == 1
    released.set()
    assert (len(hanging.asked), len(other.asked)) == (1, 1)
