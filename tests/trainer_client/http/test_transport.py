"""A plain answer's head is read as http.client reads it; all that is not plain is read by that."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from trainer_client.http import transport
from trainer_client.http.transport import FAILURES, Transport
from trainer_client.http.trust import trust

BODY = b"0123456789"
LENGTH = b"content-length: 10"
PLAIN = {
    "as the service writes it": [b"HTTP/1.1 200 OK", b"content-type: application/json", LENGTH],
    "created": [b"HTTP/1.1 201 Created", LENGTH],
    "spaces behind a value": [b"HTTP/1.1 200 OK", b"content-type: a/b  ", LENGTH],
    "no reason": [b"HTTP/1.1 200 ", LENGTH],
    "a coding": [b"HTTP/1.1 200 OK", b"content-encoding: gzip", LENGTH],
    "too long": [b"HTTP/1.1 200 OK", b"content-length: 1000"],
    "cut": [b"HTTP/1.1 200 OK", b"content-length: 12"],
    "a zero ahead of the length": [b"HTTP/1.1 200 OK", b"content-length: 010"],
}
OTHER = {
    "two lengths": [b"HTTP/1.1 200 OK", LENGTH, b"content-length: 5"],
    "no length": [b"HTTP/1.1 200 OK", b"content-type: a/b"],
    "a length below zero": [b"HTTP/1.1 200 OK", b"content-length: -10"],
    "a length with a sign": [b"HTTP/1.1 200 OK", b"content-length: +10"],
    "chunks": [b"HTTP/1.1 200 OK", LENGTH, b"transfer-encoding: chunked"],
    "the last": [b"HTTP/1.1 200 OK", b"connection: close", LENGTH],
    "a refusal": [b"HTTP/1.1 404 Not Found", LENGTH],
    "nothing": [b"HTTP/1.1 204 No Content"],
    "an announcement": [b"HTTP/1.1 100 Continue", b"", b"HTTP/1.1 200 OK", LENGTH],
    "capitals": [b"HTTP/1.1 200 OK", b"Content-Length: 10"],
    "a value over two lines": [b"HTTP/1.1 200 OK", b"x: a", b" b", LENGTH],
    "no colon": [b"HTTP/1.1 200 OK", b"what", LENGTH],
    "no space": [b"HTTP/1.1 200 OK", b"content-length:10"],
    "a byte beyond ASCII": [b"HTTP/1.1 200 OK", b"x: \xff", LENGTH],
    "a zero byte": [b"HTTP/1.1 200 OK", b"x: \0", LENGTH],
    "an older protocol": [b"HTTP/1.0 200 OK", LENGTH],
    "another protocol": [b"ICY 200 OK", LENGTH],
    "many headers": [b"HTTP/1.1 200 OK", *(b"x%d: 1" % k for k in range(120)), LENGTH],
}


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def asked(server: socket.socket, answer: bytes) -> Any:
    """What a client makes of it: all that it tells, and whether it keeps the connection."""

    def serve() -> None:
        with server.accept()[0] as connection, suppress(OSError):
            connection.recv(2**16)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)

    serving = threading.Thread(target=serve)
    serving.start()
    url = httpx.URL(f"http://127.0.0.1:{server.getsockname()[1]}")
    asking = Transport(url, {}, trust(url, True), 5.0)
    try:
        return asking.request("GET", "/", None, {}, seconds=5.0, most=100), len(asking._kept)
    except FAILURES as error:
        return type(error)
    finally:
        asking.close()
        asking.abort()
        serving.join()


@pytest.mark.parametrize("name", [*PLAIN, *OTHER])
def test_both_readers_make_the_same_of_an_answer(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    answer = b"\r\n".join([*(PLAIN | OTHER)[name], b"", BODY])
    assert (transport._plain(answer) is not None) == (name in PLAIN)
    own = asked(server, answer)
    monkeypatch.setattr(transport, "_plain", lambda _: None)
    assert own == asked(server, answer)


def test_a_head_that_comes_in_parts_is_not_taken_for_whole() -> None:
    answer = b"\r\n".join([*PLAIN["as the service writes it"], b"", BODY])
    end = answer.index(BODY)
    assert all(transport._plain(answer[:size]) is None for size in range(end))
    assert transport._plain(answer[:end]) is not None


def test_what_comes_behind_an_answer_is_not_taken_for_the_next(server: socket.socket) -> None:
    answer = b"\r\n".join([b"HTTP/1.1 200 OK", b"content-length: 4", b"", BODY])
    told, kept = asked(server, answer)
    assert (told.content, kept) == (BODY[:4], 0)
