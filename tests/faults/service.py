"""The service under attack: a real process over a real file, reached by HTTP, by half a request, or by kill -9."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from bss_service.protocol import frames
from bss_service.protocol.message import Message
from bss_service.testing.service import listening_url

START_SECONDS = 30
ANSWER_SECONDS = 20
STOP_SECONDS = 20
LAST_LINES = 120  # of its log are told when it did not do as it was told
USURPERS = 5  # that try, one after the other
PLACE_SECONDS = 3600.0  # longer than any program takes, however slow the machine: what is answered is no matter of time
OFTEN = 6  # entries after which a job's state is saved, so that a restart begins from one


class Dead(Exception):  # noqa: N818
    """The service does not start, or does not end."""


@dataclass(frozen=True)
class Request:
    """An HTTP request."""

    method: str
    path: str
    content: bytes = b""
    media_type: str = "application/json"
    incarnation: str | None = None  # of the job that is meant

    @classmethod
    def of(cls, method: str, path: str, message: Message | None = None, *, frame: bool = False) -> "Request":
        if frame:
            return cls(method, path, message.to_frame() if message else b"", frames.CONTENT_TYPE)
        return cls(method, path, message.model_dump_json().encode() if message else b"")


@dataclass(frozen=True)
class Answer:
    """What the service answered."""

    status: int
    body: Mapping[str, Any]
    content: bytes


class Service:
    """One service after another over the same file and on the same port."""

    moves = frozenset({"restore", "rival", "usurp", "misplace"})  # of a store, that can be made with this one

    def __init__(self, folder: Path) -> None:
        self.store = folder / "bss.sqlite"
        self.log: deque[str] = deque(maxlen=200)
        self.starts = 0
        self.port = 0
        self._http: httpx.Client | None = None
        self._listening = threading.Event()
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.start()

    @property
    def url(self) -> str:
        """Of the store."""
        return f"sqlite:///{self.store}"

    def start(self) -> None:
        self._listening.clear()
        self._pid, self._process = self._fork(self.url, self.port)
        if not self._listening.wait(START_SECONDS):
            raise Dead(f"the service did not start: {self.last_words()}")
        self.starts += 1
        if self._http is not None:
            self._http.close()
        self._http = httpx.Client(
            timeout=ANSWER_SECONDS,
            trust_env=False,
            verify=False,  # reads certificates otherwise, at each start
        )

    def _fork(self, url: str, port: int, *, locks: bool = True, flags: Sequence[str] = ()) -> tuple[int, int]:
        """A process that serves a store, by its number and its file descriptor."""
        request = {
            "flags": ["--port", str(port), "--store", url, *flags],
            "snapshot_entries": OFTEN if self.starts % 2 else 4096,
            "place_seconds": PLACE_SECONDS,
            "locks": locks,
        }
        assert self._nursery.stdin is not None and self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(request) + "\n")
        self._nursery.stdin.flush()
        process = int(self._nursery.stdout.readline())
        return process, os.pidfd_open(process)

    def lets_in(self, name: Path) -> bool:
        """Whether a second service starts on the store by another of its names, beside this one."""
        port = self.port
        self._listening.clear()
        number, process = self._fork(f"sqlite:///{name}", 0)
        began = self._begins(process)
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
        os.close(process)
        self.port = port
        return began

    def usurped(self) -> None:
        """This one sleeps while another, on a file system without locks, takes its store; then it wakes up."""
        port = self.port
        for _ in range(USURPERS):
            os.kill(self._pid, signal.SIGSTOP)
            self._listening.clear()
            number, process = self._fork(self.url, 0, locks=False)
            began = self._begins(process)
            os.kill(self._pid, signal.SIGCONT)
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
            select.select([process], [], [], STOP_SECONDS)
            os.close(process)
            if began:
                break  # else it fell asleep in the midst of a commit, and SQLite lets nobody in until that is over
            time.sleep(0.2)  # for it to come to its end
        else:
            raise Dead(f"the other service did not start: {self.last_words()}")
        self.port = port

    def _begins(self, process: int) -> bool:
        """Whether a new process comes to listen, rather than to its end."""
        for _ in range(10 * START_SECONDS):
            ended, _, _ = select.select([process], [], [], 0.1)
            if self._listening.is_set():
                return True
            if ended:
                break
        return False

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def kill_all(self) -> None:
        """kill -9 of all that serve the store."""
        self.kill()

    def stop(self) -> None:
        """SIGTERM."""
        self._end(signal.SIGTERM)

    def revive(self) -> None:
        """A new service, whatever became of the old one."""
        with suppress(ProcessLookupError):
            self.kill_all()
        self.start()

    def close(self) -> None:
        """The end of it."""
        with suppress(ProcessLookupError):
            self.kill_all()
        assert self._nursery.stdin is not None and self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.wait(STOP_SECONDS)
        self._nursery.stdout.close()
        self._reader.join(STOP_SECONDS)
        if self._http is not None:
            self._http.close()

    def ask(self, request: Request) -> Answer | None:
        """The answer; None where none came."""
        assert self._http is not None
        return self.answered(self._http, f"http://127.0.0.1:{self.port}", request)

    def answered(self, client: httpx.Client, base: str, request: Request) -> Answer | None:
        """The answer of the service at a base URL; None where none came."""
        headers = {"accept": request.media_type, "content-type": request.media_type}
        if request.incarnation is not None:
            headers["bss-incarnation"] = request.incarnation
        try:
            response = client.request(request.method, base + request.path, content=request.content, headers=headers)
        except httpx.TransportError:
            return None
        framed = response.headers.get("content-type") == frames.CONTENT_TYPE
        if framed:
            return Answer(response.status_code, frames.decode(response.content), response.content)
        is_json = "json" in response.headers.get("content-type", "")
        return Answer(response.status_code, response.json() if is_json else {}, response.content)

    def vanish(self, request: Request, *, sent: float = 1.0) -> None:
        """Send a share of a request, and hang up without reading the answer."""
        head = (
            f"{request.method} {request.path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            f"content-type: {request.media_type}\r\ncontent-length: {len(request.content)}\r\n\r\n"
        )
        data = head.encode() + request.content
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(data if sent == 1.0 else data[: int((len(data) - 1) * sent)])

    def _end(self, how: signal.Signals) -> None:
        self._end_of(self._pid, self._process, how)

    def _end_of(self, number: int, process: int, how: signal.Signals) -> None:
        """End a process, by its number and its file descriptor."""
        os.kill(number, how)
        if not _ended(process):
            os.kill(number, signal.SIGABRT)  # which makes it say where each of its threads is
            _ended(process)
            time.sleep(0.2)  # for what it said to be read
            raise Dead(f"the service did not end on {how.name}: {self.last_words()}")
        os.close(process)

    def last_words(self) -> str:
        """The end of its log."""
        return "".join(list(self.log)[-LAST_LINES:])

    def _read_log(self) -> None:
        assert self._nursery.stderr is not None
        with self._nursery.stderr:
            for line in self._nursery.stderr:
                self.log.append(line)
                with suppress(ValueError):  # of services that share a store, lines may be mixed
                    if url := listening_url(line):
                        self.port = urlsplit(url).port or 0
                        self._listening.set()


def _ended(process: int) -> bool:
    """Whether it does within STOP_SECONDS, by its file descriptor."""
    ended, _, _ = select.select([process], [], [], STOP_SECONDS)
    return bool(ended)
