"""A TCP proxy between client and service that does to the requests what networks do, and counts it."""

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

END = b"\r\n\r\n"
PAGE = b"<html><body>the box between is ill</body></html>"
BROKEN = (OSError, ValueError)  # a connection that ended, in its middle too


class Proxy:
    """Passes HTTP requests on to a port of this machine.

    faults: share of the requests that meet each, by the names in `FAULTS`; all others pass. delay: seconds that a
    delayed request is held, and that a late repetition comes after its original. `told` counts what was done.
    """

    def __init__(
        self, target: int, seed: int = 0, *, delay: float = 0.05, faults: Mapping[str, float] | None = None
    ) -> None:
        self.target = target
        self.faults = dict(faults or {})
        self.delay = delay
        self.injected: Counter[str] = Counter()
        self.held = threading.Event()  # a request was delayed
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
        self._port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def down(self) -> None:
        """An outage: connections are reset and new ones refused, until `up`."""
        with self._lock:
            self.injected["outage"] += 1
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def down_for(self, seconds: float) -> None:
        """An outage that ends by itself."""
        self.down()
        self._start(self._up_after, seconds)

    def close(self) -> None:
        """End all that goes through here."""
        self._stopped.set()
        self.down()
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _up_after(self, seconds: float) -> None:
        if not self._stopped.wait(seconds):
            self.up()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self._start(self._serve, connection)

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        try:
            with client, suppress(*BROKEN):
                while True:
                    request = _message(client)
                    fault = self._draw()
                    FAULTS[fault](self, client, request)
                    with self._lock:
                        self.injected[fault] += 1
        finally:
            with self._lock:
                self._open.discard(client)

    def _draw(self) -> str:
        if not self.faults:
            return "pass"
        with self._lock:
            drawn = self._random.random()
        for name, share in self.faults.items():
            drawn -= share
            if drawn < 0:
                return name
        return "pass"

    # Faults. Each gets the connection and a whole request; a connection that it ends raises in the next read.

    def _pass(self, client: socket.socket, request: bytes) -> None:
        client.sendall(self._asked(request))

    def _delayed(self, client: socket.socket, request: bytes) -> None:
        self.held.set()
        self._stopped.wait(self.delay)
        self._pass(client, request)

    def _reset(self, client: socket.socket, request: bytes) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def _swallowed(self, client: socket.socket, request: bytes) -> None:
        client.recv(1)  # until the client has had enough
        client.close()

    def _answer_lost(self, client: socket.socket, request: bytes) -> None:
        self._asked(request)
        client.close()

    def _doubled(self, client: socket.socket, request: bytes) -> None:
        self._asked(request)
        self._pass(client, request)

    def _again_later(self, client: socket.socket, request: bytes) -> None:
        def again() -> None:
            self._stopped.wait(self.delay)
            with suppress(*BROKEN):
                self._asked(request)

        self._start(again)
        self._pass(client, request)

    def _request_cut(self, client: socket.socket, request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as service:
            service.sendall(request[: len(request) - max(1, len(request) // 4)])
        client.close()

    def _answer_cut(self, client: socket.socket, request: bytes) -> None:
        answer = self._asked(request)
        client.sendall(answer[: len(answer) - max(1, len(answer) // 4)])
        client.close()

    def _garbage(self, client: socket.socket, request: bytes) -> None:
        client.sendall(b"\x00\xff\x17garbage\r\n\r\n")
        client.close()

    def _page(self, client: socket.socket, request: bytes) -> None:
        client.sendall(_page(self._one_of(["200 OK", "302 Found", "400 Bad Request", "404 Not Found"])))

    def _gateway(self, client: socket.socket, request: bytes) -> None:
        client.sendall(_page(self._one_of(["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])))

    def _one_of(self, lines: list[str]) -> str:
        with self._lock:
            return self._random.choice(lines)

    def _asked(self, request: bytes) -> bytes:
        """The service's answer; ValueError if it has none."""
        with socket.create_connection(("127.0.0.1", self.target)) as service:
            with self._lock:
                self._open.add(service)
            try:
                service.sendall(request)
                return _message(service)
            finally:
                with self._lock:
                    self._open.discard(service)


FAULTS: dict[str, Callable[[Proxy, socket.socket, bytes], None]] = {
    "pass": Proxy._pass,
    "delayed": Proxy._delayed,
    "reset": Proxy._reset,
    "swallowed": Proxy._swallowed,
    "answer lost": Proxy._answer_lost,
    "doubled": Proxy._doubled,
    "again later": Proxy._again_later,
    "request cut": Proxy._request_cut,
    "answer cut": Proxy._answer_cut,
    "garbage": Proxy._garbage,
    "page": Proxy._page,
    "gateway": Proxy._gateway,
}


def evenly(share: float) -> dict[str, float]:
    """All faults, so that this share of the requests meets one."""
    names = [name for name in FAULTS if name != "pass"]
    return dict.fromkeys(names, share / len(names))


def _message(connection: socket.socket) -> bytes:
    """One request or answer, whose length its head tells; ValueError if the connection ends before."""
    head, end, body = b"", b"", b""
    while not end:
        head, end, body = (head + _received(connection)).partition(END)
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += _received(connection)
    return head + end + body


def _received(connection: socket.socket) -> bytes:
    came = connection.recv(2**16)
    if not came:
        raise ValueError("the connection has ended")
    return came


def _page(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {len(PAGE)}\r\n\r\n".encode() + PAGE
