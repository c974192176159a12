"""Services that share a PostgreSQL store, under attack: any of them is asked, killed, or put to sleep past its term."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from bss_service.journal.owning.shards import SHARDS, share
from tests.faults.service import ANSWER_SECONDS, START_SECONDS, Answer, Dead, Request, Service
from tests.support.postgres import free_port
from tests.support.services import metric_in

MEMBERS: Final = 2
TERM: Final = 1.0  # seconds
REPLACED: Final = 10.0  # seconds within which the owner that fell asleep must be replaced
MOVED: Final = 307
NOBODY: Final = "No owner"


class SharedServices(Service):
    """Two services over one database. A request goes to each in turn, and to the owner of its job from there."""

    moves = frozenset({"usurp"})

    def __init__(self, folder: Path, url: str) -> None:
        """url: of the database."""
        self._shared = url
        self._ports = [free_port() for _ in range(MEMBERS)]
        self._running: dict[int, tuple[int, int]] = {}  # by port: a process, by its number and its file descriptor
        self._turns = count()
        self._asleep: int | None = None  # the port of one
        self._client = httpx.Client(timeout=ANSWER_SECONDS, trust_env=False)
        super().__init__(folder)

    @property
    def url(self) -> str:
        return self._shared

    def start(self) -> None:
        for port in self._ports:
            if port not in self._running:
                flags = ["--advertise", f"http://127.0.0.1:{port}", "--term", str(TERM)]
                self._running[port] = self._fork(self._shared, port, flags=flags)
        self.starts += 1
        self.settle()

    def kill(self) -> None:
        """kill -9 of one, or of each third time all."""
        ports = list(self._running)
        self._end(signal.SIGKILL, ports if self.starts % 3 == 0 else [ports[self.starts % len(ports)]])

    def kill_all(self) -> None:
        self._end(signal.SIGKILL, list(self._running))

    def stop(self) -> None:
        """SIGTERM to one."""
        ports = list(self._running)
        self._end(signal.SIGTERM, [ports[self.starts % len(ports)]])

    @contextmanager
    def asleep(
        self, job: str, late: Sequence[Request], pool: ThreadPoolExecutor, moment: float
    ) -> Iterator[list["Future[Answer | None]"]]:
        """While it lasts, the owner of a job sleeps, and another serves it; yields the answers to what it was asked.

        late: asked of it so many seconds before it falls asleep; it may have done some of that, or be about to.
        """
        owner = self._asleep = self._owner(job)
        process, _ = self._running[owner]
        answers = [pool.submit(self._ask_from, owner, request) for request in late]
        _PAUSE.wait(moment)
        os.kill(process, signal.SIGSTOP)
        try:
            served = f"http://127.0.0.1:{self._next()}/v1/jobs/{job}"
            self._until(lambda: self._client.get(served).status_code in (200, 404), REPLACED, "nobody took its place")
            yield answers
        finally:
            self._asleep = None
            os.kill(process, signal.SIGCONT)

    def settle(self) -> None:
        """Wait until each has its share of the shards."""
        self._until(self._is_shared_out, START_SECONDS, "the shards were not shared out")

    def ask(self, request: Request) -> Answer | None:
        """The answer of the owner, whoever that comes to be; None where none came."""
        return self._ask_from(self._next(), request)

    def _ask_from(self, port: int, request: Request) -> Answer | None:
        url, end = f"http://127.0.0.1:{port}{request.path}", time.monotonic() + REPLACED
        while True:
            answer = self._ask(url, request)
            if answer is None or time.monotonic() >= end:
                return answer
            if answer.status == MOVED:
                owner = urlsplit(str(answer.body["value"]))
                url = f"http://{owner.netloc}{request.path}"
            elif answer.status == 503 and answer.body.get("title") == NOBODY:  # at the moment: nothing was begun
                url = f"http://127.0.0.1:{self._next()}{request.path}"
                _PAUSE.wait(0.05)
            else:
                return answer

    def vanish(self, request: Request, *, sent: float = 1.0) -> None:
        job = request.path.split("?")[0].split("/")[3:4]
        self.port = self._owner(job[0]) if job else self._next()
        super().vanish(request, sent=sent)

    def close(self) -> None:
        super().close()
        self._client.close()

    def _next(self) -> int:
        ports = [port for port in self._running if port != self._asleep]
        return ports[next(self._turns) % len(ports)]

    def _ask(self, url: str, request: Request) -> Answer | None:
        place = urlsplit(url)
        moved = replace(request, path=f"{place.path}?{place.query}" if place.query else place.path)
        return self.answered(self._client, f"{place.scheme}://{place.netloc}", moved)

    def _owner(self, job: str) -> int:
        """The port of who owns a job, once anybody does."""
        end = time.monotonic() + REPLACED
        while (answer := self._client.get(f"http://127.0.0.1:{self._next()}/v1/jobs/{job}")).status_code == 503:
            if time.monotonic() > end:
                raise Dead(f"nobody owns {job}: {self.last_words()}")
            _PAUSE.wait(0.05)
        where = answer.json()["value"] if answer.status_code == MOVED else str(answer.url)
        return int(urlsplit(where).port or 0)

    def _is_shared_out(self) -> bool:
        """Whether each that runs has its share of all shards."""
        owned = []
        for port in self._running:
            with suppress(httpx.TransportError, ValueError):  # it is starting
                owned.append(metric_in(self._client.get(f"http://127.0.0.1:{port}/metrics").text, "bss_shards"))
        return sum(owned) == SHARDS and max(owned) <= share(len(self._running))

    def _until(self, is_true: Callable[[], bool], seconds: float, otherwise: str) -> None:
        end = time.monotonic() + seconds
        while not is_true():
            if time.monotonic() > end:
                raise Dead(f"{otherwise}: {self.last_words()}")
            _PAUSE.wait(0.02)

    def _end(self, how: signal.Signals, ports: list[int] | None = None) -> None:
        for port in ports or list(self._running):
            self._end_of(*self._running.pop(port), how)


_PAUSE: Final = threading.Event()  # never set
