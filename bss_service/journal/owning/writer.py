"""The right to write to a store: that of one service to all of it, and that of each that shares it to its shards."""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
import structlog

from bss_service.errors import StoreError, StoreLostError
from bss_service.journal import schema
from bss_service.journal.engine import begin_change, reason
from bss_service.journal.owning.file import StoreFile
from bss_service.journal.owning.membership import LOOKS, Member, Membership, check_unshared, let_go_of_all
from bss_service.journal.owning.shards import shard_of
from bss_service.journal.transaction import Fence, Transaction

log = structlog.get_logger()

NOTICED: Final = 2.0  # seconds in which the server notices that a service that was killed is gone
_KEY: Final = sa.func.hashtextextended(sa.func.concat("bss ", sa.func.current_schema()), 0)
_LOCKED: Final = {
    False: sa.select(sa.func.pg_try_advisory_lock(_KEY)),
    True: sa.select(sa.func.pg_try_advisory_lock_shared(_KEY)),
}
# A service that is stopped in mid-change would keep its shards from others: its session ends before its term does.
_HELD: Final = (
    "SELECT shard, epoch, set_config('idle_in_transaction_session_timeout', '{}', true) FROM shards "
    "WHERE shard = ANY(%(shards)s) ORDER BY shard FOR SHARE"
)
_TAKEN: Final = (
    "another service has taken the store over since this one opened it: this one stores nothing more, stop it and use "
    "the other"
)


class DatabaseLock:
    """Keeps a second service from a PostgreSQL database by mistake: an advisory lock of a session of its own.

    It is gone when that session is, with the server perhaps, or behind a pooler. What no lock can do the token does.
    """

    def __init__(self, engine: sa.Engine, *, shared: bool) -> None:
        """shared: with others that share the database. Raises StoreError where another session has it otherwise."""
        shown = engine.url.render_as_string(hide_password=True)
        try:
            self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._connection.detach()  # in the pool it would keep the lock
            if not self._comes_free(shared):
                self._connection.close()
                raise StoreError(
                    f"another service has the store {shown} open"
                    + (", for itself alone: let it share that (BSS_ADVERTISE), or stop it" if shared else "")
                )
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the store {shown} can't be opened: {reason(error)}") from None

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()

    def _comes_free(self, shared: bool) -> bool:
        deadline = time.monotonic() + NOTICED
        while not self._connection.scalar(_LOCKED[shared]):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


class Writer:
    """Holds a store for one service. Whoever takes the token ends the right of the one before, wherever that runs.

    The token is compared within the transaction of each change, so that a service that was stopped for a while, or a
    lock that was lost, can't let two write.
    """

    membership: Membership | None = None  # of a store that several share

    def __init__(self, engine: sa.Engine, *, shared: bool = False) -> None:
        """Raises StoreError where another service on this machine holds the store's file, or on any its database."""
        self._engine = engine
        self._file = StoreFile.of(engine.url)
        self._lock = None if self._file is not None else DatabaseLock(engine, shared=shared)
        self._token = secrets.token_hex(16)
        self._lost: str | None = None
        self._connection: sa.Connection | None = None
        # The row is locked where a database has locks of rows, so that whoever takes the token waits for the changes
        # that have compared it.
        row = sa.select(schema.writer.c.token)
        self._compared = str(row.with_for_update().compile(dialect=engine.dialect))
        self._read = str(row.compile(dialect=engine.dialect))

    def prepare_migration(self, connection: sa.Connection) -> None:
        """Before the tables are changed. Raises StoreError where others use them as they are."""
        check_unshared(connection)
        let_go_of_all(connection)

    def take(self) -> None:
        """Take the token, once the tables are there."""
        with self._engine.begin() as connection:
            begin_change(connection)
            let_go_of_all(connection)
            connection.execute(schema.writer.delete())
            connection.execute(schema.writer.insert().values(token=self._token))
        if self._file is not None:
            self._file.remember()

    def fence(self, job: str) -> Fence:
        """What a job is to be loaded behind. Raises MovedError or UnownedError where it is another service's."""
        return Fence()

    @contextmanager
    def change(self, transactions: Sequence[Transaction]) -> Iterator[sa.Connection]:
        """A change by transactions, committed at its end, or not at all. For the one thread that makes changes.

        Its connection is kept for the next change, and what is common to all goes to the driver: SQLAlchemy's pool and
        statements cost more than the change. Raises StoreLostError where another service has taken the token, or the
        files are not those that were opened; StoreError where a job of them is another service's by now.
        """
        self._check_lost()
        connection = self._connection = self._connection or self._engine.connect()
        try:
            cursor = connection.connection.cursor()
            if connection.dialect.name == "sqlite":
                cursor.execute("BEGIN IMMEDIATE")
            self._compare(cursor, transactions)
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

    def check_job(self, job: str, fence: Fence) -> None:
        """`check`, and that what was loaded behind a fence is still this service's; MovedError or UnownedError."""
        self.check()

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

    def leave(self) -> None:
        """Let go of what is owned by rows of the database; nothing is being stored by then any more."""

    def close(self) -> None:
        """Let go of the file, for which the database must be closed by then, or of the database."""
        for held in (self._file, self._lock):
            if held is not None:
                held.close()

    def _compare(self, cursor: Any, transactions: Sequence[Transaction]) -> None:
        """Raises StoreError unless these may be stored. What it has compared stays so until the change's end."""
        cursor.execute(self._compared)
        self._check_token(cursor.fetchone())

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


class ShardWriter(Writer):
    """Holds the shards of one of several services that share a database, in place of all of it.

    What is compared is the epoch of each job's shard: whoever takes a shard over raises it, and waits for the changes
    that have compared it.
    """

    def __init__(self, engine: sa.Engine, member: Member) -> None:
        """Raises StoreError where the database is none that can be shared, or another service has it alone."""
        if engine.dialect.name != "postgresql":
            raise StoreError(
                f"a store that several services share must be in PostgreSQL, got {engine.url.get_backend_name()}: "
                "advertise is for those alone"
            )
        super().__init__(engine, shared=True)
        self.membership: Membership = Membership(engine, member)
        self._compared = _HELD.format(int(1000 * member.term / LOOKS))

    def take(self) -> None:
        """Join those who share the store, once the tables are there."""
        with self._engine.begin() as connection:
            begin_change(connection)
            self.membership.join(connection)
        self.membership.start()

    def fence(self, job: str) -> Fence:
        """See Writer."""
        return self.membership.fence(job)

    def check_job(self, job: str, fence: Fence) -> None:
        """See Writer."""
        self.check()
        self.membership.check(job, fence)

    def check(self) -> None:
        """Raises StoreLostError where the store is not one that this service shares any more."""
        if self.membership.lost is not None:
            self._lose(self.membership.lost)
        super().check()

    def check_all(self, connection: sa.Connection) -> None:
        """`check`, and whether its term lasts."""
        self.check()
        self.membership.check_term()

    def leave(self) -> None:
        """Give the shards to those who are there."""
        self.membership.close()

    def _compare(self, cursor: Any, transactions: Sequence[Transaction]) -> None:
        changes = [(t.job, t.fence.epoch) for t in transactions if t.job and t.stores]
        if not changes:
            return
        cursor.execute(self._compared, {"shards": sorted({shard_of(job) for job, _ in changes})})
        epochs = {row[0]: row[1] for row in cursor.fetchall()}
        for job, epoch in changes:
            if epochs.get(shard_of(job)) != epoch:
                self.membership.wake()
                raise StoreError(f"job {job!r} belongs to another service by now, or did meanwhile: ask again")
