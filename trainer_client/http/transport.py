"""Internal: requests and answers over HTTP, each bounded in time and in bytes, whoever answers.

By the standard library's HTTP: what is above it in httpx, and in its engine, costs three times as much a call.
"""

import http.client
import io
import math
import queue
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from weakref import WeakSet

import httpx

SLOWEST: Final = 2**16  # bytes a second: so much longer than its time may a long request or answer take
MAX_PROBLEM: Final = 2**16  # bytes of an answer that is no success; what is behind them is not read
WAITING: Final = 2.0  # seconds
KEPT_SECONDS: Final = 5.0  # that a connection is kept for the next request
MAX_KEPT: Final = 20
FAILURES: Final = (OSError, http.client.HTTPException)  # also of TLS, of names, and of time
_PIECE: Final = 2**16  # what is sent or read at a time
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (20[01]) [ -~]{0,100}\r\n((?:[a-z0-9-]{1,60}: [!-~][ -~]{0,4000}\r\n){1,50})\r\n"
)
_LENGTH: Final = re.compile("[0-9]{1,15}")
_STRANGE: Final = frozenset({"connection", "transfer-encoding", "trailer", "upgrade"})


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
        self._latest_head: tuple[Any, bytes] = (None, b"")

    def request(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: dict[str, str],
        *,
        seconds: float,
        most: int,
        waiting: Callable[[], None] | None = None,
    ) -> Answer:
        """The answer of one try. Raises one of FAILURES where none came within `seconds`, or was cut.

        most: bytes that a success may have; nothing behind them is read. waiting: called every WAITING seconds in which
        nothing came; what it raises ends the try.
        """
        end = time.monotonic() + seconds + len(content or b"") / SLOWEST
        connection = self._connection(end)
        try:
            connection.ask(self._head(method, path, headers), content)
            answer, is_whole = self._read(connection, self._url + path, most, end, waiting)
        except BaseException:
            connection.end()
            raise
        if is_whole and not self._aborted and len(self._kept) < MAX_KEPT:
            connection.rest()
            self._kept.append(connection)
        else:
            connection.end()
        return answer

    def _head(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        """The begin of a request; most have that of the one before, but for its length, which is not in it."""
        asked = method, path, *headers.items()
        known, head = self._latest_head
        if known != asked:
            head = _head_of(method, self._path + path, self.headers | headers)
            self._latest_head = asked, head
        return head

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

    def _read(
        self, connection: "_Connection", url: str, most: int, end: float, waiting: Callable[[], None] | None
    ) -> tuple[Answer, bool]:
        """The answer, and whether the connection is good for another."""
        plain = _plain(first := connection.receive_first(_PIECE, waiting))
        if plain is not None:
            return self._read_plain(connection, url, plain, most, end)
        response = connection.answer(first)
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

    def _read_plain(
        self, connection: "_Connection", url: str, plain: "_Plain", most: int, end: float
    ) -> tuple[Answer, bool]:
        answer = Answer(url, plain.status, plain.headers, plain.content[: plain.length])
        fault = _fault_of_head(answer, most)
        if fault is not None:
            return Answer(url, plain.status, plain.headers, b"", fault), False
        missing = plain.length - len(plain.content)
        if missing <= 0:
            return answer, missing == 0
        content = bytearray(plain.content)
        while missing := plain.length - len(content):
            connection.due = end + len(content) / SLOWEST
            piece = connection.receive_some(min(_PIECE, missing))
            if not piece:
                raise http.client.IncompleteRead(b"", missing)
            content += piece
        return Answer(url, plain.status, plain.headers, bytes(content)), True

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


class _Plain(NamedTuple):
    """An answer's head, and what of the content came with it."""

    status: int
    headers: dict[str, str]
    length: int
    content: bytes


def _plain(data: bytes) -> _Plain | None:
    """The head of a success as the service writes it, all of it and read at once; None for what http.client is to read.

    So nothing is passed over here, no header comes twice, and the content is as long as is said, in no coding.
    """
    match = _HEAD.match(data)
    if match is None:
        return None
    lines = match[2].decode("ascii").split("\r\n")[:-1]
    headers = {name: value.strip() for name, _, value in (line.partition(": ") for line in lines)}
    length = headers.get("content-length", "")
    if len(headers) < len(lines) or not _LENGTH.fullmatch(length) or not headers.keys().isdisjoint(_STRANGE):
        return None
    return _Plain(int(match[1]), headers, int(length), data[match.end() :])


def _head_of(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The begin of a request, without its end. Raises what http.client does for what none can hold."""
    writer = _Writer("")
    writer.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        writer.putheader(name, value)
    writer.endheaders()
    return writer.written.removesuffix(b"\r\n")


class _Writer(http.client.HTTPConnection):
    """Connects to nobody."""

    written = b""

    def send(self, data: Any) -> None:
        """Called with the head."""
        self.written = data


class _Connection:
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
        self.due = connected_by
        self._early = b""
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
        self.due = due

    def ask(self, head: bytes, content: bytes | None) -> None:
        """Send a request, the head and a short body in one."""
        length = b"" if content is None else b"content-length: %d\r\n" % len(content)
        parts = [b"%s%s\r\n" % (head, length), content or b""]
        for sent in parts if len(parts[1]) > _PIECE else [b"".join(parts)]:
            part = memoryview(sent)
            for start in range(0, len(part), _PIECE):
                self._socket.settimeout(self._left())
                self._socket.sendall(part[start : start + _PIECE])

    def answer(self, early: bytes) -> http.client.HTTPResponse:
        """The answer's head, and what reads its body. Raises RemoteDisconnected where the head is cut.

        early: what of it has been received.
        """
        self._early = early
        response = _Response(self)  # type: ignore[arg-type]  # which only asks what is below
        response.begin()
        if self._reader.ended:  # http.client takes the end for that of the head
            raise http.client.RemoteDisconnected("the answer ended in its head")
        return response

    def makefile(self, mode: str) -> io.BufferedReader:
        """What a response reads."""
        self._reader = _Reader(self)
        return io.BufferedReader(self._reader)

    def receive_first(self, most: int, waiting: Callable[[], None] | None) -> bytes:
        """What comes first of an answer. waiting: called every WAITING seconds in which nothing has."""
        while waiting is not None and self._left() > WAITING:
            self._socket.settimeout(WAITING)
            try:
                return self._socket.recv(most)
            except TimeoutError:
                waiting()
        return self.receive_some(most)

    def receive_some(self, most: int) -> bytes:
        """What has come, or will; nothing at the end."""
        self._socket.settimeout(self._left())
        return self._socket.recv(most)

    def receive(self, buffer: Any) -> int:
        """Bytes into a buffer; how many: 0 at the end."""
        if self._early:
            count = min(len(buffer), len(self._early))
            buffer[:count], self._early = self._early[:count], self._early[count:]
            return count
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
