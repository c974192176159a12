"""What is committed reaches SQLite's database soon, and no commit waits for that."""

import shutil
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from bss_service.journal.store import Store
from bss_service.journal.transaction import Transaction
from bss_service.journal.writing.checkpoints import Checkpoints
from bss_service.protocol.jobs import JobSpec
from tests.support.cluster import until

SECONDS = 20.0
SPEC = JobSpec(name="job", samples=8, modalities=["a", "b"], batch_size=2)


def jobs_in(file: Path, copy: Path) -> list[str]:
    """Those that the database tells of without its log; none where it does not have the table yet."""
    shutil.copy(file, copy)
    with (
        closing(sqlite3.connect(f"file:{copy}?immutable=1", uri=True)) as connection,
        suppress(sqlite3.OperationalError),
    ):
        return [name for (name,) in connection.execute("SELECT job FROM jobs")]
    return []


def test_a_commit_reaches_the_database_while_the_store_is_open(tmp_path: Path) -> None:
    file = tmp_path / "bss.sqlite"
    store = Store(f"sqlite:///{file}")
    try:
        store.commit(Transaction("job", created=SPEC)).result(SECONDS)
        until(lambda: jobs_in(file, tmp_path / "copy") == ["job"])
    finally:
        store.close()


def test_a_store_that_is_lost_is_looked_at_no_more(tmp_path: Path) -> None:
    file = tmp_path / "bss.sqlite"
    store = Store(f"sqlite:///{file}")
    try:
        file.rename(tmp_path / "elsewhere")
        assert store._checkpoints is not None
        store._checkpoints.due()
        store._checkpoints._thread.join(SECONDS)
        assert not store._checkpoints._thread.is_alive()
        assert not file.exists()
    finally:
        store.close()


def test_the_end_that_comes_behind_a_pause_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(sa.create_engine("sqlite://"), lambda: None)
    closing_it = threading.Thread(target=checkpoints.close, daemon=True)
    waited = checkpoints._over.wait

    def wait(seconds: float) -> bool:
        came = waited(seconds)
        if not closing_it.ident:
            closing_it.start()
            closing_it.join(0.2)  # in which it says that it is the end, and waits for it
        return came

    monkeypatch.setattr(checkpoints._over, "wait", wait)
    checkpoints.due()
    until(lambda: closing_it.ident is not None)
    closing_it.join(SECONDS)
    assert not closing_it.is_alive()


def test_what_fails_is_told_and_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    tried = []

    def connect() -> sa.Connection:
        tried.append(1)
        raise sa.exc.OperationalError("PRAGMA", {}, sqlite3.OperationalError("disk I/O error"))

    engine = sa.create_mock_engine("sqlite://", executor=lambda *_: None)
    engine.connect = connect  # type: ignore[method-assign,assignment]
    checkpoints = Checkpoints(engine, lambda: None)  # type: ignore[arg-type]
    for times in (1, 2):
        checkpoints.due()
        until(lambda times=times: len(tried) == times)  # type: ignore[misc]
    checkpoints.close()
    assert capsys.readouterr().out.count("disk I/O error") == 2
