"""Opening a store's database: its engine, the lock beside its file, and its failures in words."""

import os
import re
import sqlite3
from pathlib import Path
from typing import Any, Final, TextIO

import sqlalchemy as sa

from bss_service.errors import StoreError, UnsupportedSystemError

BUSY_SECONDS: Final = 5  # that a commit waits for another process to unlock the file
_MALFORMED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Reading:
    """A connection whose failures are StoreErrors."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def __enter__(self) -> sa.Connection:
        try:
            self._connection = self._engine.connect()
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the store can't be read: {reason(error)}") from None
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._connection.close()
        if isinstance(error, sa.exc.SQLAlchemyError):
            raise StoreError(f"the store can't be read: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """The database's own words, without the statement and its parameters; of a broken file, what can be done."""
    own = getattr(error, "orig", None) or error
    message = str(own).split("\n")[0]
    if getattr(own, "sqlite_errorcode", 0) & 0xFF in _MALFORMED:
        message += "; stop the service, and restore the file from a backup or take what `sqlite3 FILE .recover` finds"
    return message


def is_locked(error: BaseException) -> bool:
    """Whether another process held the database for too long: then it does so for all changes alike."""
    code: int = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def create_engine(url: str) -> sa.Engine:
    """The engine of a SQLAlchemy URL. Raises StoreError."""
    try:
        engine = sa.create_engine(url)
    except ImportError as error:
        raise StoreError(
            f"the store {_shown(url)!r} can't be opened: its driver {error.name} is not installed"
        ) from None
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"the store {_shown(url)!r} can't be opened: {reason(error)}") from None
    if engine.dialect.name == "sqlite":
        if engine.url.database in (None, "", ":memory:"):
            raise StoreError(f"the store must be a file, got {url!r}: memory does not outlive the service")
        sa.event.listen(engine, "connect", _tune_sqlite)
    return engine


def lock_file(url: sa.URL) -> TextIO | None:
    """Hold a lock beside an SQLite file: two services on one file would contradict each other.

    Raises StoreError where another holds it, UnsupportedSystemError where there are no such locks.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    try:
        import fcntl  # not on Windows, where the client and the other commands work
    except ModuleNotFoundError:
        raise UnsupportedSystemError("bss serve needs a POSIX system (Linux, macOS, WSL), to lock its store") from None
    path = Path(f"{os.path.realpath(url.database)}.lock")  # one file may have several names
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise StoreError(f"the store {url.database!r} can't be opened: {error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise StoreError(f"another service has the store {url.database!r} open") from None
    return handle


def _shown(url: str) -> str:
    """A URL, also one that can't be read, without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _tune_sqlite(connection: Any, _: object) -> None:
    connection.execute(f"PRAGMA busy_timeout={1000 * BUSY_SECONDS}")  # the first: the others may have to wait too
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # a commit outlives the process, not a loss of power
