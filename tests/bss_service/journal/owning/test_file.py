"""One service has the file of a store, whatever name it is reached by, and stops once the file is not there."""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from bss_service.errors import StoreError
from bss_service.journal.store import Store
from bss_service.protocol.training import FeedbackRequest, StepsRequest
from bss_service.testing import ServiceStartError
from tests.support.services import Service
from tests.support.simulated import measured, order, spec, take, train
from trainer_client.errors import OutageError

StartService = Callable[..., Service]


def symlinked(store: Path) -> str:
    store.with_name("link.sqlite").symlink_to(store)
    return f"sqlite:///{store.with_name('link.sqlite')}"


def hard_linked(store: Path) -> str:
    store.with_name("hard.sqlite").hardlink_to(store)
    return f"sqlite:///{store.with_name('hard.sqlite')}"


def bind_mounted(store: Path) -> str:
    other = store.with_name("mounted.sqlite")
    other.touch()
    done = subprocess.run(["mount", "--bind", store, other], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this needs the right to mount: {done.stderr.strip()}")
    return f"sqlite:///{other}"


def as_uri(store: Path) -> str:
    return f"sqlite:///file:{store}?uri=true"


def without_lock(store: Path) -> str:
    """What was the lock once, and what may look like one: nothing beside the file holds it."""
    for beside in store.parent.glob("*.lock"):
        beside.unlink()
    return f"sqlite:///{store}"


@pytest.mark.parametrize("name", [symlinked, hard_linked, bind_mounted, as_uri, without_lock])
def test_a_second_service_gets_the_store_by_no_name(tmp_path: Path, name: Callable[[Path], str]) -> None:
    store = tmp_path / "bss.sqlite"
    first = Store(f"sqlite:///{store}")
    try:
        with pytest.raises(StoreError, match=r"another service has the store|of one name, got one of 2|without uri="):
            Store(name(store))
        refused = subprocess.run(["flock", "--nonblock", store, "true"])  # nor does another process
        assert refused.returncode == 1
    finally:
        first.close()
        if name is bind_mounted:
            subprocess.run(["umount", store.with_name("mounted.sqlite")], check=True)


def test_a_store_of_two_names_is_refused_at_the_start_until_one_is_left(start_service: StartService) -> None:
    service = start_service()
    service.stop()
    other = service.store.with_name("other.sqlite")
    other.hardlink_to(service.store)
    with pytest.raises(ServiceStartError, match=r"must be a file of one name, got one of 2 \(hard links\)"):
        service.start()
    other.unlink()
    service.start()


def test_a_second_opening_in_one_process_leaves_the_first_ones_locks(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bss.sqlite"
    first = Store(url)
    first.check()
    with pytest.raises(StoreError, match="another service"):
        Store(url)
    # SQLite's lock keeps every other process from having the file for itself: it must not have been dropped.
    take_over = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA journal_mode=DELETE')"
    other = subprocess.run(["python3", "-c", take_over, tmp_path / "bss.sqlite"], capture_output=True, text=True)
    assert "locked" in other.stderr
    first.close()


def move_file(store: Path) -> None:
    store.rename(store.with_name("moved.sqlite"))


def delete_file(store: Path) -> None:
    for part in store.parent.glob("bss.sqlite*"):
        part.unlink()


def replace_file(store: Path) -> None:
    """By a whole copy, as a restore does that nobody has stopped the service for."""
    copy = store.with_name("copy.sqlite")
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.rename(store)


def delete_log(store: Path) -> None:
    store.with_name("bss.sqlite-wal").unlink()


def move_folder(store: Path) -> None:
    store.parent.rename(store.parent.with_name("elsewhere"))


def delete_folder(store: Path) -> None:
    shutil.rmtree(store.parent)


@pytest.mark.parametrize("lose", [move_file, delete_file, replace_file, delete_log, move_folder, delete_folder])
def test_nothing_is_acknowledged_once_the_store_is_not_there(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    store = folder / "bss.sqlite"
    job = spec("job", patience=0.0)
    with Service(tmp_path, store=f"sqlite:///{store}") as service, service.client(retries=0) as client:
        client.create_job(job)
        answers = train(client, job, range(5))
        told = FeedbackRequest(feedback=measured(4, answers[-1].indices[-1]))
        assert client.feedback("job", told).feedback == ["repeated"]
        lose(store)
        attempts = [
            httpx.post(f"{service.url}/v1/jobs/job/steps", json={"start": 5}),
            httpx.post(f"{service.url}/v1/jobs/job/feedback", content=told.to_frame(), headers=FRAME),
            httpx.post(f"{service.url}/v1/jobs", json=spec("other").model_dump()),
            httpx.get(f"{service.url}/v1/jobs"),
            httpx.get(f"{service.url}/readyz"),
        ]
        assert [answer.status_code for answer in attempts] == [503] * 5
        for answer in attempts:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["field"] == "store"
            assert "was deleted, moved or replaced while the service runs" in answer.json()["detail"]
            assert answer.headers["retry-after"] == "10"
        with pytest.raises(OutageError, match="moved or replaced"):
            client.steps("job", StepsRequest(start=5))
        assert "bss_store_lost 1.0" in httpx.get(f"{service.url}/metrics").text


FRAME = {"content-type": "application/vnd.bss.frame"}


def test_a_store_that_was_moved_is_whole_where_it_is(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    job = spec("job", patience=0.0)
    with Service(tmp_path, store=f"sqlite:///{before}/bss.sqlite") as service, service.client(retries=0) as client:
        client.create_job(job)
        came = order(train(client, job, range(5)))
        before.rename(after)
        with pytest.raises(OutageError):
            train(client, job, range(5, 6))
    with Service(tmp_path, store=f"sqlite:///{after}/bss.sqlite") as service, service.client(retries=0) as client:
        state = client.job("job")
        assert (state.next_step, state.steps_fed_back) == (5, 5)
        assert (order(take(client, "job", range(5))) == came).all()
