"""Several services over one PostgreSQL database, each with an address of its own on loopback."""

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from bss_service.journal.owning.shards import SHARDS, share
from tests.support.postgres import free_port
from tests.support.services import Service, metric

SECONDS: Final = 30
_ENDED: Final = threading.Event()  # never: it paces what asks again and again


class Cluster:
    """Services that share a store; it ends them."""

    def __init__(self, folder: Path, store: str, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        """flags, environment: of each."""
        self.services: list[Service] = []
        self._folder, self._store, self._flags, self._environment = folder, store, flags, environment
        self._running = ExitStack()

    def add(self) -> Service:
        """One more, which runs once it has its share."""
        folder = self._folder / f"service-{len(self.services)}"
        folder.mkdir()
        port = free_port()
        advertised = ["--advertise", f"http://127.0.0.1:{port}"]
        flags = [*advertised, *self._flags]
        service = Service(folder, store=self._store, flags=flags, environment=self._environment)
        service.port = port
        self.services.append(service.start())
        self._running.callback(service.close)
        return service

    def settle(self, *running: Service) -> None:
        """Wait until the shards are shared out among these, or all."""
        running = running or tuple(self.services)
        most = share(len(running))
        until(lambda: sum(n := [shards_of(s) for s in running]) == SHARDS and max(n) <= most)

    def owner_of(self, job: str, token: str = "") -> Service:
        """Who owns a job, by what any of them says."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = httpx.get(f"{self.services[-1].url}/v1/jobs/{job}", headers=headers, timeout=SECONDS)
        url = answer.headers["location"] if answer.status_code == 307 else str(answer.url)
        return next(service for service in self.services if service.port == urlsplit(url).port)

    def close(self) -> None:
        """End all, those that are stopped too."""
        for service in self.services:
            service.process.send_signal(signal.SIGCONT)
        self._running.close()


def shards_of(service: Service) -> int:
    """How many a service owns."""
    return int(metric(service, "bss_shards"))


def until(is_true: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until something is true. Raises AssertionError."""
    for _ in range(int(seconds / 0.05)):
        if is_true():
            return
        _ENDED.wait(0.05)
    raise AssertionError(f"{is_true} was not true in {seconds} s")
