"""The right to write to a store, which one service at a time has: a token in the database, of whatever kind it is."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
import structlog

from bss_service.errors import StoreError, StoreLostError
from bss_service.journal import schema
from bss_service.journal.engine import begin_change, reason
from bss_service.journal.file import StoreFile

log = structlog.get_logger()

_LOCKED: Final = sa.select(
    sa.func.pg_try_advisory_lock(sa.func.hashtextextended(sa.func.concat("bss ", sa.func.current_schema()), 0))
)
_TAKEN: Final = (
    "another service has taken the store over since this one opened it: this one stores nothing more, stop it and use "
    "the other"
)


class DatabaseLock:
    """Keeps a second service from a PostgreSQL database by mistake: an advisory lock of a session of its own.

    It is gone when that session is, with the server perhaps, or behind a pooler. What no lock can do the token does.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Raises StoreError where another session has it."""
        shown = engine.url.render_as_string(hide_password=True)
        try:
            self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._connection.detach()  # in the pool it would keep the lock
            if not self._connection.scalar(_LOCKED):
                self._connection.close()
                raise StoreError(f"another service has the store {shown} open")
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the store {shown} can't be opened: {reason(error)}") from None

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()


class Writer:
    """Holds a store for one service. Whoever takes the token ends the right of the one before, wherever that runs.

    The token is compared within the transaction of each change, so that a service that was stopped for a while, or a
    lock that was lost, can't let two write. A database that several share keeps such a row for each part of it.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Raises StoreError where another service on this machine holds the store's file, or on any its database."""
        self._engine = engine
        self._file = StoreFile.of(engine.url)
        self._lock = None if self._file is not None else DatabaseLock(engine)
        self._token = secrets.token_hex(16)
        self._lost: str | None = None
        self._connection: sa.Connection | None = None
        # The row is locked where a database has locks of rows, so that whoever takes the token waits for the changes
        # that have compared it.
        row = sa.select(schema.writer.c.token)
        self._compared = str(row.with_for_update().compile(dialect=engine.dialect))
        self._read = str(row.compile(dialect=engine.dialect))

    def take(self) -> None:
        """Take the token, once the tables are there."""
        with self._engine.begin() as connection:
            begin_change(connection)
            connection.execute(schema.writer.delete())
            connection.execute(schema.writer.insert().values(token=self._token))
        if self._file is not None:
            self._file.remember()

    @contextmanager
    def change(self) -> Iterator[sa.Connection]:
        """A change, committed at its end, or not at all. For the one thread that makes changes.

        Its connection is kept for the next change, and what is common to all goes to the driver: SQLAlchemy's pool and
        statements cost more than the change. Raises StoreLostError where another service has taken the token, or the
        files are not those that were opened.
        """
        self._check_lost()
        connection = self._connection = self._connection or self._engine.connect()
        try:
            cursor = connection.connection.cursor()
            if connection.dialect.name == "sqlite":
                cursor.execute("BEGIN IMMEDIATE")
            cursor.execute(self._compared)
            self._check_token(cursor.fetchone())
            yield connection
            self.check()
            if connection.in_transaction():  # something went by SQLAlchemy, which has begun one of its own then
                connection.commit()
            else:
                connection.connection.commit()
        except BaseException:
            self.disconnect()  # which takes back what was not committed
            raise

    def disconnect(self) -> None:
        """Let go of the connection, which may be broken; the next change takes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def check(self) -> None:
        """Raises StoreLostError where the files are not those that were opened: nothing may be told as stored then.

        It costs a few microseconds. Once lost, a store stays so: what this process has open may be neither the one file
        nor the other.
        """
        self._check_lost()
        if self._file is not None:
            try:
                self._file.check()
            except StoreLostError as error:
                self._lose(error.detail)

    def check_all(self, connection: sa.Connection) -> None:
        """`check`, and that of the token."""
        self.check()
        self._check_token(connection.exec_driver_sql(self._read).one_or_none())

    @property
    def has_lost(self) -> bool:
        """Whether the store is lost to this service."""
        try:
            self.check()
        except StoreError:
            return True
        return False

    def close(self) -> None:
        """Let go of the file, for which the database must be closed by then, or of the database."""
        for held in (self._file, self._lock):
            if held is not None:
                held.close()

    def _check_token(self, row: Any) -> None:
        if row is None or row[0] != self._token:
            self._lose(_TAKEN)

    def _lose(self, why: str) -> None:
        if self._lost is None:
            log.error("store lost", reason=why)
        self._lost = why
        self._check_lost()

    def _check_lost(self) -> None:
        if self._lost is not None:
            raise StoreLostError(self._lost)
