"""Opening a store's database: its engine, and its failures in words."""

import re
import sqlite3
from typing import Any, Final

import sqlalchemy as sa

from bss_service.errors import StoreError
from bss_service.journal.file import real_path

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
    code: int = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def create_engine(url: str) -> sa.Engine:
    """The engine of a SQLAlchemy URL. Raises StoreError."""
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            parsed = parsed.set(database=real_path(parsed))
        engine = sa.create_engine(parsed)
    except ImportError as error:
        raise StoreError(
            f"the store {_shown(url)!r} can't be opened: its driver {error.name} is not installed"
        ) from None
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"the store {_shown(url)!r} can't be opened: {reason(error)}") from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _tune_sqlite)
    return engine


def begin_change(connection: sa.Connection) -> None:
    """Begin a transaction that writes; SQLite's driver would do so at the first change, after what was read before."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _shown(url: str) -> str:
    """A URL, also one that can't be read, without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _tune_sqlite(connection: Any, _: object) -> None:
    connection.execute(f"PRAGMA busy_timeout={1000 * BUSY_SECONDS}")  # the first: the others may have to wait too
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # a commit outlives the process, not a loss of power
