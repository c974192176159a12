"""Internal: requests and answers over HTTP, each bounded in time and in bytes, whoever answers.

By the standard library's HTTP: what is above it in httpx, and in its engine, costs three times as much a call.
"""

import http.client
import io
import math
import queue
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import httpx

SLOWEST: Final = 2**16  # bytes a second: so much longer than its time may a long request or answer take
MAX_PROBLEM: Final = 2**16  # bytes of an answer that is no success; what is behind them is not read
KEPT_SECONDS: Final = 5.0  # that a connection is kept for the next request
MAX_KEPT: Final = 20
FAILURES: Final = (OSError, http.client.HTTPException)  # also of TLS, of names, and of time
_PIECE: Final = 2**16  # what is sent or read at a time


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
        self._host = base_url.raw_host.decode("ascii")
        self._port = base_url.port or (443 if base_url.scheme == "https" else 80)
        self._context = context if base_url.scheme == "https" else None
        self._path = base_url.copy_with(query=None, fragment=None).raw_path.rstrip(b"/").decode("ascii")
        self._timeout = timeout
        self._kept: deque[_Connection] = deque()  # nobody's at the moment, the one used last at the end
        self._open: WeakSet[socket.socket] = WeakSet()
        self._aborted = False

    def request(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], *, seconds: float, most: int
    ) -> Answer:
        """The answer of one try. Raises one of FAILURES where none came within `seconds`, or was cut.

        most: bytes that a success may have; nothing behind them is read.
        """
        end = time.monotonic() + seconds + len(content or b"") / SLOWEST
        connection = self._connection(end)
        try:
            connection.ask(method, self._path + path, self.headers | headers, content)
            answer, is_whole = self._read(connection, self._url + path, most, end)
        except BaseException:
            connection.end()
            raise
        if is_whole and not self._aborted and len(self._kept) < MAX_KEPT:
            connection.rest()
            self._kept.append(connection)
        else:
            connection.end()
        return answer

    def _connection(self, end: float) -> "_Connection":
        """One that was kept and may be used again, or a new one."""
        while self._kept:
            with suppress(IndexError):  # another thread was faster
                kept = self._kept.pop()
                if kept.is_usable():
                    kept.due = end
                    return kept
                kept.end()
        due = min(end, time.monotonic() + self._timeout)
        return _Connection(self._host, self._port, self._context, due, end, self._watch)

    def _watch(self, opened: socket.socket) -> None:
        self._open.add(opened)
        if self._aborted:
            _shut(opened)

    def _read(self, connection: "_Connection", url: str, most: int, end: float) -> tuple[Answer, bool]:
        """The answer, and whether the connection is good for another."""
        response = connection.answer()
        headers: dict[str, str] = {}
        for name, value in response.getheaders():
            name = name.lower()
            headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
        empty = Answer(url, response.status, headers, b"")
        most = most if empty.is_success else MAX_PROBLEM
        fault = _fault_of_head(empty, most)
        content = bytearray()
        while fault is None and (piece := response.read1(_PIECE)):
            content += piece
            if len(content) > most:
                fault = ("body", f"must have at most {most} bytes", "more")
                del content[most:]
            connection.due = end + len(content) / SLOWEST
        if fault is None and response.length:
            raise http.client.IncompleteRead(b"", response.length)
        response.close()
        is_whole = fault is None and not response.will_close
        return Answer(url, response.status, headers, bytes(content), fault), is_whole

    def abort(self) -> None:
        """Fail the requests under way in other threads, and all later ones."""
        self._aborted = True
        for opened in list(self._open):
            _shut(opened)

    def close(self) -> None:
        """Close the connections."""
        while self._kept:
            with suppress(IndexError):
                self._kept.pop().end()


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


class _Connection(http.client.HTTPConnection):
    """A connection on which no single wait goes beyond `due`, by the monotonic clock."""

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        connected_by: float,
        due: float,
        opened: Callable[[socket.socket], None],
    ) -> None:
        """Connect by a time. opened: told of the socket, as soon as it is there."""
        super().__init__(host, port)
        self.response_class = _Response
        self.due = connected_by
        self._unsent: list[Any] = []
        self._rests_since = math.inf
        self._socket = _connected(_resolved(host, port, self._left()), self._left)
        opened(self._socket)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._socket.settimeout(self._left())
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
                opened(self._socket)
        except BaseException:
            self._socket.close()
            raise
        self.sock = self  # of which HTTPConnection and its response only ask what is below
        self.due = due

    def ask(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> None:
        """Send a request, the head and a short body in one."""
        self.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            self.putheader(name, value)
        if content is not None:
            self.putheader("content-length", str(len(content)))
        self.endheaders(content)
        parts = [b"".join(self._unsent)] if len(content or b"") <= _PIECE else list(self._unsent)
        self._unsent.clear()
        for sent in parts:
            part = memoryview(sent)
            for start in range(0, len(part), _PIECE):
                self._socket.settimeout(self._left())
                self._socket.sendall(part[start : start + _PIECE])

    def send(self, data: Any) -> None:
        """Called with the head, and with the body."""
        self._unsent.append(data)

    def answer(self) -> http.client.HTTPResponse:
        """The answer's head, and what reads its body. Raises RemoteDisconnected where the head is cut."""
        response = self.getresponse()
        if self._reader.ended:  # http.client takes the end for that of the head
            raise http.client.RemoteDisconnected("the answer ended in its head")
        return response

    def makefile(self, mode: str) -> io.BufferedReader:
        """What a response reads."""
        self._reader = _Reader(self)
        return io.BufferedReader(self._reader)

    def receive(self, buffer: Any) -> int:
        """Bytes into a buffer; how many: 0 at the end."""
        self._socket.settimeout(self._left())
        return self._socket.recv_into(buffer)

    def rest(self) -> None:
        """Nobody uses it for a while."""
        self._rests_since = time.monotonic()

    def is_usable(self) -> bool:
        """Whether it has not rested too long, and nobody has ended it or said anything meanwhile."""
        if time.monotonic() - self._rests_since > KEPT_SECONDS:
            return False
        self._socket.settimeout(0)
        try:
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)  # TLS's own has no such thing
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Called by http.client where an answer says that it is the last, and whoever reads that needs the socket."""

    def end(self) -> None:
        """Close it."""
        self._socket.close()

    def _left(self) -> float:
        left = self.due - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for the whole request is over")
        return left


class _Response(http.client.HTTPResponse):
    """The answer; what only announces it is passed over, of which http.client knows no status but 100."""

    def begin(self) -> None:
        """Read its head."""
        super().begin()
        while 100 <= self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()


class _Reader(io.RawIOBase):
    """The bytes of one response."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.ended = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What has come."""
        count = self._connection.receive(buffer)
        self.ended = count == 0
        return count


_Address = tuple[int, int, int, str, Any]  # as getaddrinfo has it


def _resolved(host: str, port: int, seconds: float) -> Sequence[_Address]:
    """The addresses of a name, at least one. Raises TimeoutError where the system's resolver takes longer than that."""
    with suppress(socket.gaierror):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: queue.SimpleQueue[Sequence[_Address] | OSError] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.put(error)

    threading.Thread(target=resolve, name="bss-resolver", daemon=True).start()  # nothing but its end can end it
    try:
        addresses = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"the name {host!r} was not resolved in time") from None
    if isinstance(addresses, OSError):
        raise addresses
    return addresses


def _connected(addresses: Sequence[_Address], left: Callable[[], float]) -> socket.socket:
    """A connection to the first of these that takes one."""
    failure = OSError("the name has no address")
    for family, kind, protocol, _, address in addresses:
        opened = socket.socket(family, kind, protocol)
        try:
            opened.settimeout(left())
            opened.connect(address)
        except OSError as error:
            opened.close()
            failure = error
        else:
            return opened
    raise failure


def _shut(opened: socket.socket) -> None:
    """Wake whoever waits for this socket; to close it would not."""
    with suppress(OSError):
        socket.socket.shutdown(opened, socket.SHUT_RDWR)  # TLS's own would let who waits read on, without TLS
