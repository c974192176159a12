"""A copy of an SQLite store, made while a service writes to it."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bss_service.errors import ConflictError, StoreError
from bss_service.job.events import Forked
from bss_service.job.job import new_incarnation
from bss_service.journal import schema
from bss_service.journal.engine import create_engine, reason
from bss_service.journal.schema import checksum
from bss_service.journal.transaction import Entry


def back_up(url: str, file: Path, *, force: bool = False) -> None:
    """Write what the store at a SQLAlchemy URL holds at this moment into a file, which is there whole or not at all.

    Raises StoreError where the store can't be read or the file not be written, ConflictError where the file is there
    and force is not set, or where it is in use.
    """
    store = _sqlite_file(url)
    _check_free(file, store, force=force)
    try:
        with (
            written_whole(file) as temporary,
            closing(_opened(store)) as source,
            closing(sqlite3.connect(temporary)) as copy,
        ):
            source.backup(copy)
            _begin_anew(copy)
    except sqlite3.Error as error:
        raise StoreError(f"the store {str(store)!r} can't be copied: {reason(error)}") from None
    except OSError as error:
        raise StoreError(f"FILE {str(file)!r} can't be written: {error.strerror}") from None


def _begin_anew(copy: sqlite3.Connection) -> None:
    """Give each job a new incarnation, that goes on from its own: from here on the two have different futures.

    A trainer that is ahead of the copy then finds out by its first call, also where the job has caught up meanwhile.
    """
    has_jobs = copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
    if not has_jobs or copy.execute("SELECT schema_version FROM meta").fetchone() != (schema.VERSION,):
        return  # of an older version: the service that opens it draws them
    rows = copy.execute("SELECT job, spec, incarnation, checksum FROM jobs").fetchall()
    for job, spec, before, proof in rows:
        if proof != checksum(spec, job, before):
            continue  # damaged: it stays as it is
        seqs = "SELECT seq FROM journal WHERE job = :job UNION ALL SELECT seq FROM snapshots WHERE job = :job"
        [last] = copy.execute(f"SELECT coalesce(max(seq), 0) FROM ({seqs})", {"job": job}).fetchone()
        now, entry = new_incarnation(), Entry.of(last + 1, Forked(before))
        values = (job, entry.seq, entry.kind, entry.body, checksum(entry.body, job, entry.seq, entry.kind))
        copy.execute("INSERT INTO journal (job, seq, kind, body, checksum) VALUES (?, ?, ?, ?, ?)", values)
        copy.execute(
            "UPDATE jobs SET incarnation = ?, checksum = ? WHERE job = ?", (now, checksum(spec, job, now), job)
        )
    copy.commit()


def _sqlite_file(url: str) -> Path:
    engine = create_engine(url)
    if engine.dialect.name != "sqlite":
        shown = engine.url.render_as_string(hide_password=True)
        raise StoreError(f"the store must be an SQLite file, got {shown!r}: its own tools make backups of a database")
    return Path(engine.url.database or "")


def _check_free(file: Path, store: Path, *, force: bool) -> None:
    if file.exists() and store.exists() and file.samefile(store):
        raise ConflictError(f"FILE must be another than the store, got {str(file)!r}", field="FILE")
    if file.exists() and not force:
        raise ConflictError(f"FILE {str(file)!r} is there already: --force puts the copy in its place", field="FILE")
    if Path(f"{file}-wal").exists():  # SQLite would apply it to the copy
        raise ConflictError(f"FILE {str(file)!r} is in use, or was left by a crash: {file}-wal is there", field="FILE")


def _opened(store: Path) -> sqlite3.Connection:
    """A connection that makes no file where there is none."""
    return sqlite3.connect(f"{store.absolute().as_uri()}?mode=rw", uri=True)


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """A path beside the file, for this user alone; it takes the file's place at the end, and goes at a failure."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
