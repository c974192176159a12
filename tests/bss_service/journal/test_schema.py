"""A store of an older version becomes one of this version, or stays as it was."""

import sqlite3
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from bss_service.journal import schema
from bss_service.journal.store import Store
from bss_service.protocol import frames
from bss_service.protocol.samples import SampleDescriptions
from tests.bss_service.journal.test_recovery import logged_soon
from tests.support.services import Service
from tests.support.simulated import order, spec, take, train

StartService = Callable[..., Service]

VERSION_1 = """
CREATE TABLE meta (schema_version INTEGER NOT NULL);
CREATE TABLE jobs (job VARCHAR(100) NOT NULL, spec TEXT NOT NULL, PRIMARY KEY (job));
CREATE TABLE journal (job VARCHAR(100) NOT NULL, seq BIGINT NOT NULL, kind VARCHAR(20) NOT NULL, body BLOB NOT NULL,
    checksum BIGINT NOT NULL, PRIMARY KEY (job, seq));
CREATE TABLE plans (job VARCHAR(100) NOT NULL, first_step BIGINT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (job, first_step));
CREATE TABLE snapshots (job VARCHAR(100) NOT NULL, seq BIGINT NOT NULL, part INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (job, seq, part));
CREATE TABLE artefacts (sha256 VARCHAR(64) NOT NULL, name VARCHAR(100) NOT NULL, manifest TEXT NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (sha256));
INSERT INTO meta VALUES (1);
"""


def as_version_1(store: Path) -> None:
    """Write what a store holds as the first version of the service would have written it."""
    old = store.with_name("old.sqlite")
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript(VERSION_1)
        connection.execute("ATTACH ? AS new", (str(store),))
        connection.execute("INSERT INTO jobs SELECT job, spec FROM new.jobs")
        connection.execute("INSERT INTO plans SELECT job, first_step, body FROM new.plans")
        connection.execute("INSERT INTO snapshots SELECT job, seq, part, body FROM new.snapshots")
        for job, seq, kind, body in connection.execute("SELECT job, seq, kind, body FROM new.journal").fetchall():
            message = frames.decode(body)
            message.pop("answer", None)  # which swaps did not keep
            plain = frames.encode(message)
            connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", (job, seq, kind, plain, zlib.crc32(plain)))
        connection.commit()
    for suffix in ("", "-wal", "-shm"):
        store.with_name(store.name + suffix).unlink(missing_ok=True)
    old.rename(store)


def stored_by_version_1(start_service: StartService) -> tuple[Service, np.ndarray]:
    """A service that is stopped, over a store of version 1 with two jobs; what one of them has drawn."""
    service = start_service()
    with service.client() as client:
        for name in ("job", "undisturbed"):
            client.create_job(spec(name, interval=3))
            train(client, spec(name, interval=3), range(8))
            client.swap(name, "bandit", at="now")
        undisturbed = order(train(client, spec("undisturbed", interval=3), range(8, 40)))
        drawn = order(take(client, "undisturbed", range(8)))
    service.stop()
    as_version_1(service.store)
    return service, np.concatenate([drawn, undisturbed])


def version_of(store: Path) -> int:
    with closing(sqlite3.connect(store)) as connection:
        return int(connection.execute("SELECT schema_version FROM meta").fetchone()[0])


def test_a_job_of_a_version_1_store_goes_on_as_if_nothing_had_happened(start_service: StartService) -> None:
    service, expected = stored_by_version_1(start_service)
    service.start()
    with service.client() as client:
        assert (order(take(client, "job", range(8))) == expected[: 8 * 8]).all()
        came = order(train(client, spec("job", interval=3), range(8, 40)))
        assert (came == expected[8 * 8 :]).all()
        service.kill()
        service.start()
        assert (order(take(client, "job", range(40))) == expected).all()
    assert version_of(service.store) == schema.VERSION
    assert len([line for line in service.log if "migrating" in line]) == 1


def test_a_migration_that_breaks_off_leaves_the_store_as_it_was(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = stored_by_version_1(start_service)
    before = dump(service.store)

    def fail(*_: object) -> None:
        raise sa.exc.OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))

    with monkeypatch.context() as patched:
        patched.setattr(schema.journal, "update", fail)  # its last table
        with pytest.raises(Exception, match="can't be opened: database or disk is full"):
            Store(f"sqlite:///{service.store}")
    assert dump(service.store) == before
    Store(f"sqlite:///{service.store}").close()
    assert version_of(service.store) == schema.VERSION


def dump(store: Path) -> list[str]:
    with closing(sqlite3.connect(store)) as connection:
        return list(connection.iterdump())


def test_an_entry_that_was_damaged_before_the_migration_is_so_behind_it(start_service: StartService) -> None:
    service, expected = stored_by_version_1(start_service)
    with closing(sqlite3.connect(service.store)) as connection, connection:
        connection.execute("DELETE FROM snapshots")  # which a slow machine takes early
        connection.execute("UPDATE journal SET body = x'00' WHERE job = 'job' AND seq = 5")
    service.start()
    with service.client() as client:
        assert (order(take(client, "job", range(8))) == expected[: 8 * 8]).all()
    assert logged_soon(service, "journal entry 5 is damaged")


def test_a_migration_holds_one_row_in_memory(tmp_path: Path) -> None:
    size, rows = 2**20, 30
    with closing(sqlite3.connect(tmp_path / "bss.sqlite")) as connection, connection:
        connection.executescript(VERSION_1)
        connection.execute(
            "WITH RECURSIVE step(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM step WHERE k + 1 < ?) "
            "INSERT INTO plans SELECT 'job', k, zeroblob(?) FROM step",
            (rows, size),
        )
    tracemalloc.start()
    try:
        Store(f"sqlite:///{tmp_path}/bss.sqlite").close()
        assert tracemalloc.get_traced_memory()[1] < 5 * size
    finally:
        tracemalloc.stop()


def test_a_store_of_version_4_keeps_what_it_holds_and_takes_descriptions(start_service: StartService) -> None:
    service = start_service()
    with service.client() as client:
        client.create_job(spec("job", interval=3))
        expected = order(train(client, spec("job", interval=3), range(8)))
        incarnation = client.job("job").incarnation
    service.stop()
    with closing(sqlite3.connect(service.store)) as connection, connection:
        connection.execute("DROP TABLE descriptions")
        connection.execute("DROP TABLE decisions")
        for column in ("first_step", "base"):
            connection.execute(f"ALTER TABLE snapshots DROP COLUMN {column}")
        connection.execute("UPDATE meta SET schema_version = 4")
    service.start()
    with service.client() as client:
        assert (order(take(client, "job", range(8))) == expected).all()
        assert client.job("job").incarnation == incarnation
        told = client.describe("job", SampleDescriptions(index=[3], texts=["a dog"]))
    assert [row.index for row in told.descriptions] == [3]
    assert version_of(service.store) == schema.VERSION
