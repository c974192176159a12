"""Internal: requests and answers over HTTP, each bounded in time and in bytes, whoever answers."""

import math
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import httpcore
import httpx

SLOWEST: Final = 2**16  # bytes a second: so much longer than its time may a long request or answer take
MAX_PROBLEM: Final = 2**16  # bytes of an answer that is no success; what is behind them is not read
_PIECE: Final = 2**16  # what is sent is sent in pieces of so many bytes


FAILURES: Final = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ConnectionNotAvailable,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. fault: why `content` is not what was sent: its coding, or that it was more than allowed."""

    url: str
    status: int
    headers: Mapping[str, str]  # by names in lower case
    content: bytes
    fault: tuple[str, str, Any] | None = None  # field, rule, value

    @property
    def is_success(self) -> bool:
        """Whether the status says so."""
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        """Of the content; "" for none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Transport:
    """Connections to one service. Thread-safe. It follows nobody elsewhere, keeps no cookies and asks for no coding.

    The time of a request is for all of it: connection, request and answer, to its last byte.
    """

    def __init__(self, base_url: httpx.URL, headers: dict[str, str], context: ssl.SSLContext, timeout: float) -> None:
        self.headers = _usual_headers(base_url) | headers
        self._url = str(base_url)
        self._origin = (base_url.raw_scheme, base_url.raw_host, base_url.port)
        self._path = base_url.copy_with(query=None, fragment=None).raw_path.rstrip(b"/")
        self._timeout = timeout
        self._due = _Due()
        self._backend = _Backend(self._due)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=self._backend,
        )

    def request(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], *, seconds: float, most: int
    ) -> Answer:
        """The answer of one try. Raises one of FAILURES where none came within `seconds`, or was cut.

        most: bytes that a success may have; nothing behind them is read.
        """
        scheme, host, port = self._origin
        length = {} if content is None else {"content-length": str(len(content))}
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=scheme, host=host, port=port, target=self._path + path.encode("ascii")),
            headers=[(k.encode(), v.encode()) for k, v in (self.headers | headers | length).items()],
            content=content,
            extensions={
                "timeout": {"connect": self._timeout, "read": seconds, "write": seconds, "pool": self._timeout}
            },
        )
        end = time.monotonic() + seconds + len(content or b"") / SLOWEST
        self._due.at = end
        try:
            response = self._pool.handle_request(request)
            try:
                return self._read(response, self._url + path, most, end)
            finally:
                response.close()
        finally:
            self._due.at = math.inf

    def _read(self, response: httpcore.Response, url: str, most: int, end: float) -> Answer:
        headers: dict[str, str] = {}
        for raw_name, raw_value in response.headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        empty = Answer(url, response.status, headers, b"")
        most = most if empty.is_success else MAX_PROBLEM
        fault = _fault_of_head(empty, most)
        content = bytearray()
        if fault is None:
            for piece in response.iter_stream():
                content += piece
                if len(content) > most:
                    fault = ("body", f"must have at most {most} bytes", "more")
                    del content[most:]
                    break
                self._due.at = end + len(content) / SLOWEST
        return Answer(url, response.status, headers, bytes(content), fault)

    def abort(self) -> None:
        """Fail the requests under way in other threads, and all later ones."""
        self._backend.abort()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Due(threading.local):
    """When the request of the calling thread is to be over, by the monotonic clock."""

    at = math.inf

    def left(self, timeout: float | None, error: type[Exception]) -> float | None:
        """Seconds for a single wait, at most `timeout`. Raises the error where there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise error("the time for the whole request is over")
        return min(left, math.inf if timeout is None else timeout) if left < math.inf else timeout


def _usual_headers(base_url: httpx.URL) -> dict[str, str]:
    headers = {"host": base_url.netloc.decode("ascii"), "user-agent": "bss-scheduler", "accept-encoding": "identity"}
    if base_url.userinfo:
        login = f"{base_url.username}:{base_url.password}".encode()
        headers["authorization"] = f"Basic {b64encode(login).decode()}"
    return headers


def _fault_of_head(answer: Answer, most: int) -> tuple[str, str, Any] | None:
    """Why the content of an answer is not to be read."""
    coding = answer.headers.get("content-encoding", "").lower()
    if coding not in ("", "identity"):
        return "content-encoding", "must be identity", coding
    declared = answer.headers.get("content-length", "")
    if answer.is_success and declared.isdecimal() and (len(declared) > 18 or int(declared) > most):
        return "content-length", f"must be at most {most}", declared[:40]
    return None


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
