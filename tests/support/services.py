"""Fixtures: real scheduler services, each a process of its own on a free loopback port."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from trainer_client.client import SchedulerClient

START_SECONDS = 30


def pytest_configure() -> None:
    """What the shell says of a service of its own must not reach the tests."""
    for name in ("BSS_URL", "BSS_TOKEN"):
        os.environ.pop(name, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one: what it needs is to be installed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome = "failed"
    return report


class Service:
    """A scheduler process over an SQLite file; it can be killed and started again on the same port."""

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        self.store = folder / "bss.sqlite"
        self.log: list[str] = []
        self._flags = flags
        self._environment = {**os.environ, **environment}
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = "from bss_cli.__main__ import main; main()"
        command = [
            sys.executable,
            "-c",
            program,
            "serve",
            "--port",
            str(self.port),
            "--store",
            f"sqlite:///{self.store}",
        ]
        self.process = subprocess.Popen(
            [*command, *self._flags], stderr=subprocess.PIPE, text=True, env=self._environment
        )
        listening = threading.Event()
        threading.Thread(target=self._read_log, args=(self.process, listening), daemon=True).start()
        assert listening.wait(START_SECONDS), f"the service did not start: {self.log}"

    def _read_log(self, process: "subprocess.Popen[str]", listening: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.log.append(line)
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    self.port = int(found.group(1))
                    listening.set()
        listening.set()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)

    def client(self, **options: object) -> SchedulerClient:
        return SchedulerClient(self.url, **options)  # type: ignore[arg-type]


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services on this test's folder, and ends them with the test."""
    started: list[Service] = []

    def start(*flags: str, **environment: str) -> Service:
        started.append(Service(tmp_path, *flags, **environment))
        return started[-1]

    yield start
    for service in started:
        service.kill()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that only need one; each uses job names of its own."""
    running = Service(tmp_path_factory.mktemp("service"), "--max-samples", "5000000")
    yield running
    running.kill()


@pytest.fixture
def client(service: Service) -> Iterator[SchedulerClient]:
    """A client of the shared service."""
    with service.client(retries=0) as scheduler:
        yield scheduler


@pytest.fixture
def job_name(request: pytest.FixtureRequest) -> str:
    """A job name of this test's own."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", request.node.name)[:80]
