"""Full disks, read-only disks, locked files and jumping clocks: real ones, under a real service."""

import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest

from bss_service.protocol.training import FeedbackRequest, StepsRequest
from bss_service.testing import ServiceStartError
from tests.support.services import Service
from tests.support.simulated import measured, order, spec, take, train
from trainer_client.errors import OutageError

StartService = Callable[..., Service]
FAKETIME = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]


class Disk:
    """A small disk of its own."""

    def __init__(self, folder: Path, size: str = "2m") -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder}/bss.sqlite"
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))

    def fill(self) -> None:
        with (
            pytest.raises(OSError, match="No space left"),
            (self.folder / "ballast").open("wb", buffering=0) as ballast,
        ):
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        (self.folder / "ballast").unlink()

    def read_only(self, read_only: bool) -> None:
        mount("-o", f"remount,{'ro' if read_only else 'rw'}", str(self.folder))

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this needs the right to mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    small = Disk(tmp_path)
    yield small
    small.close()


@pytest.fixture
def service(disk: Disk) -> Iterator[Service]:
    with Service(store=disk.store) as running:
        yield running


def test_a_full_disk_is_told_and_once_there_is_room_the_same_request_succeeds(disk: Disk, service: Service) -> None:
    job = spec("job", samples=2000, batch_size=500, patience=0.0)
    with service.client(retries=0) as client, httpx.Client(base_url=service.url) as http:
        client.create_job(job)
        first = train(client, job, range(3), count=1)
        next_batch = client.steps("job", StepsRequest(start=3)).batches
        feedback = FeedbackRequest(feedback=measured(3, next_batch.indices[0]))
        disk.fill()
        for step in range(4, 40):  # the file may have some room left within
            refused = http.post("/v1/jobs/job/steps", json={"start": step})
            if refused.status_code != 200:
                break
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert "database or disk is full" in refused.json()["detail"]
        with pytest.raises(OutageError, match="full"):
            client.feedback("job", feedback)
        assert client.job("job").next_step == step
        assert client.job("job").steps_fed_back == 3
        assert (order(take(client, "job", range(3))) == order(first)).all()
        disk.free()
        assert client.feedback("job", feedback).feedback == ["applied"]
        batch = client.steps("job", StepsRequest(start=step)).batches.indices
        service.kill()
        service.start()
        assert client.feedback("job", feedback).feedback == ["repeated"]
        assert (client.steps("job", StepsRequest(start=step)).batches.indices == batch).all()


def test_a_disk_that_may_only_be_read_is_refused_at_the_start_and_goes_on_where_it_was(disk: Disk) -> None:
    job = spec("job")
    with Service(store=disk.store) as service, service.client(retries=0) as client:
        client.create_job(job)
        before = order(train(client, job, range(5)))
        service.stop()
        disk.read_only(True)
        with pytest.raises(ServiceStartError, match=r"can't be opened: .*Read-only file system"):
            service.start()
        assert service.process.returncode == 1
        disk.read_only(False)
        service.start()
        assert (order(take(client, "job", range(5))) == before).all()


def test_a_file_that_may_only_be_read_is_refused_at_the_start(start_service: StartService) -> None:
    service = start_service()
    with service.client() as client:
        client.create_job(spec("job"))
    service.stop()
    service.store.chmod(0o400)
    if os.geteuid() == 0:  # who may write to any file, but not through a mount that forbids it
        mount("--bind", str(service.store), str(service.store))
        mount("-o", "remount,bind,ro", str(service.store))
    try:
        with pytest.raises(ServiceStartError, match=r"can't be opened: .*(Read-only file system|Permission denied)"):
            service.start()
    finally:
        subprocess.run(["umount", "--lazy", service.store], capture_output=True)
        service.store.chmod(0o600)
    assert service.process.returncode == 1


def locked(store: Path) -> sqlite3.Connection:
    """Another process's transaction, that keeps all others from writing."""
    blocker = sqlite3.connect(store, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    return blocker


def test_a_lock_that_is_let_go_in_time_is_waited_for(start_service: StartService) -> None:
    service, job = start_service(), spec("job")
    with service.client(retries=0, timeout=20) as client:
        client.create_job(job)
        client.steps("job", StepsRequest(start=0))
        with closing(locked(service.store)) as blocker:
            threading.Timer(1.0, blocker.execute, ["ROLLBACK"]).start()
            assert client.steps("job", StepsRequest(start=1)).batches.start == 1
        service.stop()
        with closing(locked(service.store)) as blocker:
            threading.Timer(2.0, blocker.execute, ["ROLLBACK"]).start()
            service.start()
        assert client.job("job").next_step == 2


def test_a_store_that_stays_locked_is_refused_at_the_start(start_service: StartService) -> None:
    service = start_service()
    service.stop()
    with (
        closing(locked(service.store)),
        pytest.raises(ServiceStartError, match="can't be opened: database is locked"),
    ):
        service.start()
    assert service.process.returncode == 1


@pytest.mark.long
def test_what_is_drawn_does_not_depend_on_the_clock(tmp_path: Path) -> None:
    if not FAKETIME:
        pytest.skip("this needs libfaketime")
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    jumping = {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    drawn = []
    for name, environment in (("steady", {}), ("jumping", jumping)):
        folder = tmp_path / name
        folder.mkdir()
        job = spec("job", policy="bandit", interval=3, lag=1)
        with Service(folder, environment=environment) as running, running.client() as client:
            client.create_job(job)
            parts = []
            for k, days in enumerate([0, 1, -1, 0, -1]):
                set_clock(clock, days)
                parts.append(order(train(client, job, range(6 * k, 6 * k + 6))))
                if days < 0:
                    running.kill()
                    running.start()
        dates = {line[:10] for line in running.log if line[:2] == "20"}
        drawn.append(np.concatenate(parts))
    assert len(dates) > 1  # it did jump
    assert (drawn[0] == drawn[1]).all()


def set_clock(clock: Path, days: int) -> None:
    there = datetime.now() + timedelta(days=days)
    clock.with_suffix(".new").write_text(f"@{there:%Y-%m-%d %H:%M:%S}\n")
    clock.with_suffix(".new").rename(clock)
