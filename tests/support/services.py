"""Fixtures: real scheduler services, each a process of its own on a free loopback port."""

import os
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bss_service.testing import ServiceProcess
from bss_service.testing.service import inherited_environment
from tests.support.nursery import Nursery
from trainer_client.client import SchedulerClient


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


NURSERY: Final = Nursery()


class Service(ServiceProcess):
    """A service over an SQLite file, and clients of it. It is forked where that makes no difference."""

    def _spawn(self, arguments: Sequence[str], log: BinaryIO) -> Any:
        environment = inherited_environment() | self._environment
        if NURSERY.fits(environment):
            return NURSERY.fork(arguments, self.folder, environment, log)
        return super()._spawn(arguments, log)

    @property
    def store(self) -> Path:
        """The file."""
        return self.folder / "bss.sqlite"

    def client(self, **options: Any) -> SchedulerClient:
        return SchedulerClient(self.url, **options)


def metric_in(text: str, name: str) -> float:
    """The value of a metric without labels, in what `/metrics` tells. Raises ValueError where it is not there."""
    families = text_string_to_metric_families(text)
    [value] = [sample.value for family in families for sample in family.samples if sample.name == name]
    return float(value)


def metric(service: ServiceProcess, name: str) -> float:
    """The same, as a service tells it now."""
    headers = {} if service.token is None else {"authorization": f"Bearer {service.token.get_secret_value()}"}
    return metric_in(httpx.get(f"{service.url}/metrics", headers=headers, timeout=20.0).text, name)


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services on this test's folder, and ends them with the test."""
    with ExitStack() as started:

        def start(*flags: str, **environment: str) -> Service:
            service = Service(tmp_path, flags=flags, environment=environment).start()
            started.callback(service.kill)
            return service

        yield start


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that only need one; each uses job names of its own."""
    with Service(tmp_path_factory.mktemp("service"), flags=["--max-samples", "5000000"]) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[SchedulerClient]:
    """A client of the shared service."""
    with service.client(retries=0) as scheduler:
        yield scheduler


@pytest.fixture
def job_name(request: pytest.FixtureRequest) -> str:
    """A job name of this test's own, also among those whose long names begin alike."""
    name: str = request.node.name
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)[:70]}-{zlib.crc32(name.encode()):08x}"
