"""Opening a store's database: its engine, and its failures in words."""

import re
import sqlite3
from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

from bss_service.errors import StoreError
from bss_service.journal.owning.file import real_path

BUSY_SECONDS: Final = 5  # that a commit waits for another process to unlock the file, or a row
ANSWER_SECONDS: Final = 60  # for a statement, and for a server that seems to be there
LOG_PAGES: Final = 2**16  # of SQLite's log, at which a commit brings it into the database itself
LOG_BYTES: Final = 2**26  # of its file, once it is empty
_ALONE: Final = sa.select(
    sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.func.concat("bss tables ", sa.func.current_schema()), 0))
)
_MALFORMED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Reading:
    """A connection whose failures are StoreErrors."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def __enter__(self) -> sa.Connection:
        try:
            self._connection = self._engine.connect()
            if self._engine.dialect.name == "postgresql":  # SQLite's are of one moment anyway
                self._connection = self._connection.execution_options(isolation_level="REPEATABLE READ")
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


def concerns_all(error: BaseException) -> bool:
    """Whether a change failed of what all others would fail of as well: each would wait as long for it."""
    own = getattr(error, "orig", None) or error
    if isinstance(own, sqlite3.Error):  # another process held the database for too long
        return getattr(own, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    return type(own).__name__ == "OperationalError" and not str(getattr(own, "sqlstate", None)).startswith("40")


def create_engine(url: str) -> sa.Engine:
    """The engine of a SQLAlchemy URL. Raises StoreError."""
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            parsed = parsed.set(database=real_path(parsed))
        if parsed.get_backend_name() == "postgresql":  # of its drivers this one alone is known to work
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, **_OPTIONS.get(parsed.get_backend_name(), {}))
    except ImportError as error:
        raise StoreError(
            f"the store {_shown(url)!r} can't be opened: its driver {error.name} is not installed"
            + ("; pip install 'bss-scheduler[postgres]'" if error.name == "psycopg" else "")
        ) from None
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"the store {_shown(url)!r} can't be opened: {reason(error)}") from None
    if engine.dialect.name not in _TUNED:
        raise StoreError(f"the store must be in SQLite or PostgreSQL, got {_shown(url)!r}")
    sa.event.listen(engine, "connect", _TUNED[engine.dialect.name])
    return engine


def by_name(engine: sa.Engine, statement: sa.Insert | sa.Select[Any]) -> str:
    """A statement as the driver takes it, with its parameters by their names."""
    dialect: Any = type(engine.dialect)
    style = "named" if engine.dialect.name == "sqlite" else "pyformat"
    return str(statement.compile(dialect=dialect(paramstyle=style)))


def begin_change(connection: sa.Connection) -> None:
    """Begin a transaction that changes tables, or who may write to them: one at a time.

    SQLite's driver would begin it at the first change, after what was read before.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(_ALONE)


def _shown(url: str) -> str:
    """A URL, also one that can't be read, without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _tune_sqlite(connection: Any, _: object) -> None:
    connection.execute(f"PRAGMA busy_timeout={1000 * BUSY_SECONDS}")  # the first: the others may have to wait too
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # a commit outlives the process, not a loss of power
    connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")


class _OneByOne:
    """A cursor that sends each statement by itself, where psycopg's sends many rows in a pipeline.

    Between two commands of a pipeline a session counts as active: the server would wait for ever for a service that is
    stopped there, with the rows of its shards locked, and end no session for being idle.
    """

    execute: Any

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        """As psycopg's, but for the rows that it could return: nothing here asks for those."""
        for parameters in params_seq:
            self.execute(query, parameters)


def _tune_postgresql(connection: Any, _: object) -> None:
    connection.cursor_factory = type("Cursor", (_OneByOne, connection.cursor_factory), {})
    for name, value in (("statement_timeout", ANSWER_SECONDS), ("lock_timeout", BUSY_SECONDS)):
        connection.execute(f"SET {name} = '{value}s'")
    for name, value in (("idle", BUSY_SECONDS), ("interval", 2), ("count", 2)):  # of a service whose machine is gone
        connection.execute(f"SET tcp_keepalives_{name} = {value}")
    connection.execute("SET synchronous_commit = on")  # whatever the server's own setting: what is told is stored
    connection.commit()


_TUNED: Final = {"sqlite": _tune_sqlite, "postgresql": _tune_postgresql}
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "postgresql": {
        "pool_pre_ping": True,  # the server may have been started again
        "connect_args": {
            "connect_timeout": BUSY_SECONDS,
            "tcp_user_timeout": 2000 * BUSY_SECONDS,  # ms; a network that is cut says nothing
            "keepalives_idle": BUSY_SECONDS,
            "keepalives_interval": BUSY_SECONDS // 2,
            "keepalives_count": 2,
            "prepare_threshold": None,  # a pooler between may answer the next statement by another session
        },
    }
}
