"""What clients may ask of the service together and each: requests a second, memory for bodies, bytes around them."""

import json
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bss_service.errors import BusyError, TooManyError
from bss_service.http.bodies import WHOLE
from bss_service.http.browser.headers import SECURITY

MAX_CLIENTS: Final = 10_000  # whose requests are counted
FREE: Final = 2**20  # bytes of each body that are not counted, so that large ones never keep feedback out
MAX_HEAD: Final = 32 * 2**10  # bytes of the request line and all headers
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 16  # requests of a connection that come before the answer to an earlier one
_PIECE: Final = 2**16  # what arrives is looked at in pieces of so many bytes


class RateLimiter:
    """A token bucket for each client: lets it make `rate` requests a second, and as many at once (at least one)."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = max(1.0, rate)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when; oldest first

    def take(self, client: str) -> None:
        """Count a request. Raises TooManyError, and then counts nothing."""
        now = self._clock()
        left, at = self._buckets.pop(client, (self._size, now))
        left = min(self._size, left + (now - at) * self._rate)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        self._forget(now)
        if left < 1:
            wait = (1 - left) / self._rate
            raise TooManyError(f"a client may ask {self._rate:g} times a second: try again in {wait:.3g} s", wait)

    def _forget(self, now: float) -> None:
        """Drop buckets that are full again, and the oldest where there are too many."""
        while self._buckets:
            left, at = next(iter(self._buckets.values()))
            if left + (now - at) * self._rate < self._size and len(self._buckets) <= MAX_CLIENTS:
                return
            self._buckets.popitem(last=False)


class AtMost:
    """A dependency, behind one that admits, that lets a client have so many requests of a kind under way."""

    def __init__(self, most: int, kind: str) -> None:
        self._most = most
        self._kind = kind

    async def __call__(self, request: Request) -> AsyncIterator[None]:
        """Raises TooManyError."""
        under_way: Counter[tuple[str, str]] = request.app.state.under_way
        mine = (self._kind, request.state.client)
        if under_way[mine] >= self._most:
            raise TooManyError(f"a client may have {self._most} {self._kind} under way: try again in a second", 1)
        under_way[mine] += 1
        try:
            yield
        finally:
            under_way[mine] -= 1
            if not under_way[mine]:
                del under_way[mine]


class BodyBudget:
    """ASGI middleware that lets requests under way hold at most so many bytes of bodies together."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mine = 0  # bytes counted for this request
        read = 0

        async def counted() -> Message:
            nonlocal mine, read
            message = await receive()
            read += len(message.get("body", b""))
            more = max(0, read - FREE) - mine
            if self._held + more > self._limit:
                raise BusyError(f"the bodies of other requests take {self._held} bytes of {self._limit}: try again")
            self._held += more
            mine += more
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= mine


class BoundedProtocol(HttpToolsProtocol):
    """HTTP as uvicorn reads it, with a bound on what stands around a body: it has none itself.

    Ends a connection whose request line, headers, chunk extensions or trailers are too large, with 431 if it can; also
    one on which request follows request without a wait for any answer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._silent = 0  # bytes that came since the last of any body, or since a message's begin
        self._head = 0
        self._in_head = True
        self._too_large = False

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        for start in range(0, len(data), _PIECE):
            piece = data if len(data) <= _PIECE else data[start : start + _PIECE]
            self._silent += len(piece)
            super().data_received(piece)
            if self.parser is None or self.transport.is_closing():
                return
            if self._silent > MAX_HEAD:
                self._too_large = True
                self.send_400_response("")
                return

    def on_message_begin(self) -> None:
        """Called by the parser, as all below."""
        super().on_message_begin()
        self._silent = self._head = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        super().on_url(url)
        self._grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: those are read over, or they would pass for headers."""
        if self._in_head:
            super().on_header(name, value)
            self._grow(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The end of the head."""
        super().on_headers_complete()
        self._in_head = False
        self._silent = 0
        if len(self.pipeline) > MAX_PIPELINED:
            raise ValueError("too many requests at once")  # the parser stops, and send_400_response is called

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        super().on_body(body)
        self._silent = 0

    def on_message_complete(self) -> None:
        """The end of a request; whoever reads its body need not wait then."""
        super().on_message_complete()
        self.scope[WHOLE] = True  # type: ignore[typeddict-unknown-key]

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or too large a one, and close; a request under way just loses its connection."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_refusal(self._too_large))
        self.transport.close()

    def _grow(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            self._too_large = True
            raise ValueError("the head is too large")  # the parser stops, and send_400_response is called


def _refusal(too_large: bool) -> bytes:
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
    detail = (
        f"request line and headers must have at most {MAX_HEAD} bytes and {MAX_HEADERS} headers, got more"
        if too_large
        else "this is no HTTP request"
    )
    problem = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    body = json.dumps(problem).encode()
    own = {b"content-type": b"application/problem+json", b"content-length": b"%d" % len(body), b"connection": b"close"}
    lines = [b": ".join(pair) for pair in (SECURITY | own).items()]
    return b"\r\n".join([f"HTTP/1.1 {status.value} {status.phrase}".encode(), *lines, b"", body])
