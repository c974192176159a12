"""Internal: requests and answers over HTTP, each bounded in time and in bytes, whoever answers."""

import math
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from weakref import WeakSet

import httpcore
import httpx

SLOWEST: Final = 2**16  # bytes a second: so much longer than its time may a long request or answer take
MAX_PROBLEM: Final = 2**16  # bytes of an answer that is no success; what is behind them is not read
_PIECE: Final = 2**16  # what is sent is sent in pieces of so many bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. fault: why `content` is not what was sent: its coding, or that it was more than allowed."""

    url: httpx.URL
    status: int
    headers: httpx.Headers
    content: bytes
    fault: tuple[str, str, Any] | None = None  # field, rule, value

    @property
    def is_success(self) -> bool:
        """Whether the status says so."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """Of the content; "" for none."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()


class Transport:
    """Connections to one service. Thread-safe.

    The time of a request is for all of it: connection, request and answer, to its last byte.
    """

    def __init__(self, base_url: httpx.URL, headers: dict[str, str], context: ssl.SSLContext, timeout: float) -> None:
        self._due = _Due()
        self._backend = _Backend(self._due)
        nothing = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # or answers would fill it
        self.http = httpx.Client(
            base_url=base_url,
            headers={"accept-encoding": "identity"} | headers,
            cookies=nothing,
            timeout=timeout,
            transport=_BoundedTransport(context, self._backend),
            trust_env=False,
        )
        self._timeout = timeout

    def request(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], *, seconds: float, most: int
    ) -> Answer:
        """The answer of one try. Raises httpx.RequestError where none came within `seconds`, or was cut.

        most: bytes that a success may have; nothing behind them is read.
        """
        timeout = httpx.Timeout(seconds, connect=self._timeout)
        request = self.http.build_request(method, path, content=content, headers=headers, timeout=timeout)
        end = time.monotonic() + seconds + len(content or b"") / SLOWEST
        self._due.at = end
        try:
            response = self.http.send(request, stream=True)
            try:
                return self._read(response, most if response.is_success else MAX_PROBLEM, end)
            finally:
                response.close()
        finally:
            self._due.at = math.inf

    def _read(self, response: httpx.Response, most: int, end: float) -> Answer:
        content, fault = bytearray(), None
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            fault = ("content-encoding", "must be identity", coding)
        elif (declared := response.headers.get("content-length", "")).isdecimal() and len(declared) > 18:
            fault = ("content-length", f"must be at most {most}", declared[:40])
        elif declared.isdecimal() and int(declared) > most and response.is_success:
            fault = ("content-length", f"must be at most {most}", int(declared))
        else:
            for piece in response.iter_raw():
                content += piece
                if len(content) > most:
                    fault = ("body", f"must have at most {most} bytes", "more")
                    del content[most:]
                    break
                self._due.at = end + len(content) / SLOWEST
        return Answer(response.request.url, response.status_code, response.headers, bytes(content), fault)

    def abort(self) -> None:
        """Fail the requests under way in other threads, and all later ones."""
        self._backend.abort()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()


class _Due(threading.local):
    """When the request of the calling thread is to be over, by the monotonic clock."""

    at = math.inf

    def left(self, timeout: float | None, error: type[Exception]) -> float | None:
        """Seconds for a single wait, at most `timeout`. Raises the error where there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise error("the time for the whole request is over")
        return min(left, math.inf if timeout is None else timeout) if left < math.inf else timeout


class _BoundedTransport(httpx.HTTPTransport):
    """httpx's own, over connections of a backend of ours, for which it has no argument."""

    def __init__(self, context: ssl.SSLContext, backend: "_Backend") -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=backend,
        )


class _Backend(httpcore.NetworkBackend):
    """Opens connections that heed when their request is due, and can be ended from another thread."""

    def __init__(self, due: _Due) -> None:
        self._due = due
        self._inner = httpcore.SyncBackend()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._aborted = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection."""
        seconds = self._due.left(timeout, httpcore.ConnectTimeout)
        return self.bounded(self._inner.connect_tcp(host, port, seconds, local_address, socket_options))

    def bounded(self, stream: httpcore.NetworkStream) -> "_Stream":
        """A connection as one of ours."""
        opened = stream.get_extra_info("socket")
        self._sockets.add(opened)
        if self._aborted:
            _shut(opened)
        return _Stream(stream, self, self._due)

    def abort(self) -> None:
        """End all connections, and those that are opened later."""
        self._aborted = True
        for opened in list(self._sockets):
            _shut(opened)


class _Stream(httpcore.NetworkStream):
    """A connection on which no single wait goes beyond the time of the whole request."""

    def __init__(self, inner: httpcore.NetworkStream, backend: _Backend, due: _Due) -> None:
        self._inner, self._backend, self._due = inner, backend, due

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come."""
        return self._inner.read(max_bytes, self._due.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it."""
        for start in range(0, len(buffer), _PIECE):
            piece = buffer if len(buffer) <= _PIECE else buffer[start : start + _PIECE]
            self._inner.write(piece, self._due.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        """Close it."""
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The same connection under TLS."""
        seconds = self._due.left(timeout, httpcore.ConnectTimeout)
        return self._backend.bounded(self._inner.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of it."""
        return self._inner.get_extra_info(info)


def _shut(opened: socket.socket) -> None:
    """Wake whoever waits for this socket; to close it would not."""
    with suppress(OSError):
        socket.socket.shutdown(opened, socket.SHUT_RDWR)  # TLS's own would let who waits read on, without TLS
