"""Two services over one store: the one that took it last writes, whatever became of the lock."""

import fcntl
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bss_service.errors import StoreLostError
from bss_service.journal.store import Store
from bss_service.journal.transaction import Fence, Transaction
from bss_service.protocol.jobs import JobSpec
from tests.support.services import Service
from tests.support.simulated import spec, train

StartService = Callable[..., Service]
SECONDS = 30


def taken_over(url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, opened although another has it: as on a file system whose locks hold nothing."""
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", lambda *_: None)
        patched.setattr("bss_service.journal.owning.file._held", set())
        return Store(url)


def test_who_lost_the_store_stores_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/bss.sqlite"
    first = Store(url)
    job = JobSpec(name="job", samples=4, modalities=["audio"], batch_size=2)
    first.commit(Transaction("job", created=job)).result(SECONDS)
    second = taken_over(url, monkeypatch)
    fence = Fence()
    failed = [first.commit(Transaction(name, fence, created=job)).exception(SECONDS) for name in ("other", "third")]
    assert all(isinstance(error, StoreLostError) for error in failed)
    assert "another service has taken the store over" in str(failed[0])
    assert fence.closed and first.is_lost
    with pytest.raises(StoreLostError):
        first.check()
    second.commit(Transaction("fourth", created=job)).result(SECONDS)
    assert second.job_names() == ["fourth", "job"]
    second.check()
    first.close()
    second.close()


def test_a_service_that_was_stopped_meanwhile_finds_itself_replaced(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start_service()
    job = spec("job", patience=0.0)
    with service.client() as client:
        client.create_job(job)
        train(client, job, range(3))
    service.process.send_signal(signal.SIGSTOP)
    second = taken_over(f"sqlite:///{service.store}", monkeypatch)
    before = second.journal("job")
    service.process.send_signal(signal.SIGCONT)
    refused = httpx.post(f"{service.url}/v1/jobs/job/steps", json={"start": 3}, timeout=SECONDS)
    assert (refused.status_code, refused.json()["field"]) == (503, "store")
    assert "another service has taken the store over" in refused.json()["detail"]
    ready = httpx.get(f"{service.url}/readyz", timeout=SECONDS)
    assert (ready.status_code, ready.json()["detail"]) == (503, refused.json()["detail"])
    assert "bss_store_lost 1.0" in httpx.get(f"{service.url}/metrics", timeout=SECONDS).text
    assert second.journal("job") == before
    second.close()
