"""A service whose answers are wrong: what it really answers is changed, byte by byte if need be, on its way."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from bss_service.protocol import frames
from tests.trainer_client.support.proxy import BROKEN, END, Proxy, _message

Pieces = Iterator[bytes]
ENOUGH = 256 * 2**20  # bytes after which even an endless answer ends: nobody is to take so many


class Hostile(Proxy):
    """Passes requests on, and answers by what `reply` makes of the real answer, piece by piece; None: unchanged.

    only: the part of a path whose requests are answered so. asked: the requests that were. sent: bytes of them.
    """

    reply: Callable[["Hostile", bytes], Pieces] | None = None
    only = ""
    sent = 0

    def __init__(self, target: int) -> None:
        self.asked: list[bytes] = []
        super().__init__(target)

    def pause(self, seconds: float) -> None:
        """Wait so long, or until all is over."""
        self._stopped.wait(seconds)

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        try:
            with client, suppress(*BROKEN):
                while True:
                    request = _message(client)
                    answer = self._asked(request)
                    if self.reply is None or self.only.encode() not in request.partition(b"\r\n")[0]:
                        client.sendall(answer)
                        continue
                    self.asked.append(request)
                    for piece in self.reply(self, answer):
                        client.sendall(piece)
                        self.sent += len(piece)
                        if self.sent > ENOUGH or self._stopped.is_set():
                            return
        finally:
            with self._lock:
                self._open.discard(client)


def with_body(answer: bytes, body: bytes, *headers: bytes, status: bytes | None = None) -> bytes:
    """An answer with another body, and perhaps more headers and another status."""
    lines = answer.partition(END)[0].split(b"\r\n")
    kept = [line for line in lines[1:] if not line.lower().startswith((b"content-length", *(h[:12] for h in headers)))]
    first = lines[0] if status is None else b"HTTP/1.1 " + status
    return b"\r\n".join([first, *kept, *headers, b"content-length: %d" % len(body)]) + END + body


def said(change: Callable[[dict[str, Any]], Any]) -> Callable[[Hostile, bytes], Pieces]:
    """Answers by what `change` makes, in place, of the frame or the JSON, a problem perhaps, that was the answer."""

    def reply(_: Hostile, answer: bytes) -> Pieces:
        head, _, body = answer.partition(END)
        as_json = b"json" in head
        message = json.loads(body) if as_json else frames.decode(body)
        change(message)
        yield with_body(answer, json.dumps(message).encode() if as_json else frames.encode(message))

    return reply


def dripping(body_only: bool) -> Callable[[Hostile, bytes], Pieces]:
    """A byte now and then, of the body or of all."""

    def reply(box: Hostile, answer: bytes) -> Pieces:
        head, end, body = answer.partition(END)
        if body_only:
            yield head + end
        for byte in body if body_only else answer:
            box.pause(0.1)
            yield bytes([byte])

    return reply


def endless(begin: bytes, piece: bytes) -> Callable[[Hostile, bytes], Pieces]:
    """A beginning, and then for ever the same."""

    def reply(_: Hostile, answer: bytes) -> Pieces:
        yield begin
        while True:
            yield piece

    return reply
