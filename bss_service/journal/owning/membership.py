"""A service's part in a store that several share: its term, and the shards that it owns as long as that lasts.

All is by the database's clock and in its rows: who owns what, since which epoch, until when. What a service believes
saves it from asking, and keeps it from telling what may be so no longer; what it may store the database decides, which
compares the epoch in the transaction of each change.
"""

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
import structlog

from bss_service.errors import MovedError, StoreError, StoreLostError, UnownedError
from bss_service.journal.owning.shards import SHARDS, Shard, View, free_for, homes_of, shard_of, view_of
from bss_service.journal.schema import VERSION, meta, writer
from bss_service.journal.transaction import Fence

SHARED: Final = "shared"  # in place of the token of one that has a store alone
LOOKS: Final = 3  # in a term: two may fail
AGAIN: Final = 0.1  # seconds between two looks, however many ask for one
KEPT: Final = 100  # terms after its end for which a member's row stays

log = structlog.get_logger()

metadata: Final = sa.MetaData()  # made only in databases that are shared: other services need not know of these
members: Final = sa.Table(
    "members",
    metadata,
    sa.Column("address", sa.String(300), primary_key=True),
    sa.Column("token", sa.String(32), nullable=False),  # of the process that has it now
    sa.Column("until", sa.DateTime(timezone=True), nullable=False),  # by the database's clock
)
shards: Final = sa.Table(
    "shards",
    metadata,
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.String(300)),
)
_RENEW: Final = sa.text(
    "UPDATE members SET until = clock_timestamp() + make_interval(secs => :term) "
    "WHERE address = :address AND token = :token"
)
_JOIN: Final = sa.text(
    "INSERT INTO members (address, token, until) VALUES (:address, :token, "
    "clock_timestamp() + make_interval(secs => :term)) "
    "ON CONFLICT (address) DO UPDATE SET token = excluded.token, until = excluded.until"
)
_ALIVE: Final = sa.select(members.c.address).where(members.c.until > sa.func.clock_timestamp())
_FORGET: Final = sa.text("DELETE FROM members WHERE until < clock_timestamp() - make_interval(secs => :seconds)")
_FILL: Final = sa.text(
    f"INSERT INTO shards (shard, epoch) SELECT n, 0 FROM generate_series(0, {SHARDS - 1}) AS n ON CONFLICT DO NOTHING"
)
_LET_GO: Final = "UPDATE shards SET epoch = epoch + 1, owner = NULL"
# What a change is being committed in is left for the next look: who renews a term must not wait for anybody.
_ASSIGN: Final = sa.text(
    "WITH moves AS (SELECT * FROM unnest(CAST(:shards AS int[]), CAST(:epochs AS bigint[]), CAST(:owners AS text[])) "
    "AS m (shard, epoch, owner)), "
    "free AS (SELECT shard FROM shards WHERE (shard, epoch) IN (SELECT shard, epoch FROM moves) "
    "ORDER BY shard FOR UPDATE SKIP LOCKED) "
    "UPDATE shards SET epoch = shards.epoch + 1, owner = moves.owner FROM moves JOIN free USING (shard) "
    "WHERE shards.shard = moves.shard RETURNING shards.shard"
)


@dataclass(frozen=True, slots=True)
class Member:
    """A service that shares its store. address: URL at which it is reached. term: seconds."""

    address: str
    term: float


class Membership:
    """Keeps the term of a service, and a fair share of the shards. Thread-safe."""

    def __init__(self, engine: sa.Engine, member: Member, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._member = member
        self._clock = clock
        self._token = secrets.token_hex(16)
        self._view = View()
        self._leaving: frozenset[int] = frozenset()
        self._looking = threading.Lock()
        self._looked = float("-inf")
        self._wanted = threading.Event()
        self._ended = False
        self._failed = False
        self._thread = threading.Thread(target=self._keep, name="bss-membership", daemon=True)
        self.lost: str | None = None
        self.looked: Callable[[], None] = lambda: None  # called in a thread of its own after each look

    @property
    def view(self) -> View:
        """Who owned what at the last look."""
        return self._view

    def join(self, connection: sa.Connection) -> None:
        """Become a member, in place of an earlier process at the same address, whose shards are free then.

        It waits for changes that are being committed in those.
        """
        metadata.create_all(connection)
        connection.execute(_FILL)
        if connection.scalar(sa.select(writer.c.token)) != SHARED:  # of a service that has it alone, and has it no more
            connection.execute(writer.delete())
            connection.execute(writer.insert().values(token=SHARED))
        connection.execute(_JOIN, self._parameters())
        connection.execute(sa.text(f"{_LET_GO} WHERE owner = :address"), {"address": self._member.address})

    def start(self) -> None:
        """Keep the term from now on."""
        self.look()
        self._thread.start()

    def fence(self, job: str) -> Fence:
        """What a job is loaded behind. Raises MovedError or UnownedError where it is not this service's."""
        view, shard = self._view, shard_of(job)
        if self._clock() >= view.until:
            raise UnownedError(
                f"this service could not renew its term, and may not own job {job!r} any more: ask again"
            )
        epoch = view.epochs.get(shard)
        if epoch is not None and shard not in self._leaving:
            return Fence(epoch=epoch)
        if shard in view.owners:
            raise MovedError(job, view.owners[shard])
        raise UnownedError(f"no service owns job {job!r} at the moment: ask again")

    def check(self, job: str, fence: Fence) -> None:
        """Raises MovedError or UnownedError where what was loaded behind a fence may not be so any more."""
        if self.fence(job).epoch != fence.epoch:
            raise UnownedError(f"job {job!r} is being loaded again, ask once more")

    def holds(self, job: str, fence: Fence) -> bool:
        """Whether `check` lets pass."""
        try:
            self.check(job, fence)
        except (MovedError, UnownedError):
            return False
        return True

    def check_term(self) -> None:
        """Raises StoreLostError, or UnownedError where the term is over."""
        if self.lost is not None:
            raise StoreLostError(self.lost)
        if self._clock() >= self._view.until:
            raise UnownedError("this service could not renew its term: it owns no job")

    def wake(self) -> None:
        """Look soon: something is not as it seemed."""
        self._wanted.set()

    def look_again(self) -> None:
        """Look, unless somebody has a moment ago. Raises StoreError."""
        if self._clock() - self._looked >= AGAIN:
            try:
                self.look()
            except sa.exc.SQLAlchemyError as error:
                raise StoreError(f"who owns which jobs can't be read: {error}") from None

    def look(self) -> None:
        """Renew the term, see who owns what, and take what is free up to one's share. Raises SQLAlchemyError."""
        if not self._looking.acquire(timeout=self._member.term / LOOKS):  # another is at it, and waits for the server
            return
        try:
            self._look()
        finally:
            self._looking.release()

    @contextmanager
    def leaving(self, numbers: Collection[int]) -> Iterator[None]:
        """While it lasts, nothing is begun in some of one's own shards."""
        self._leaving = frozenset(numbers)
        try:
            yield
        finally:
            self._leaving = frozenset()

    def hand_over(self, numbers: Collection[int]) -> None:
        """Give some of one's own shards to those who have fewest; nobody else's. Raises SQLAlchemyError."""
        with self._looking:
            asked = self._clock()
            with self._engine.begin() as connection:
                rows, alive = _read(connection)
                others = alive - {self._member.address}
                given = [row for row in rows if row.owner == self._member.address and row.number in numbers]
                moved = _assign(connection, homes_of(given, rows, others))
                rows, alive = _read(connection)
            self._view = view_of(self._member.address, rows, alive, self._view.until)
            log.info("shards handed over", shards=len(moved), seconds=round(self._clock() - asked, 3))

    def close(self) -> None:
        """Let go of all at once, for others to take; nothing is stored by then any more."""
        if self._thread.ident is None:  # it has not got so far
            return
        self._ended = True
        self._wanted.set()
        self._thread.join()
        try:
            if self.lost is None:
                self.hand_over(range(SHARDS))
                with self._engine.begin() as connection:
                    mine = (members.c.address == self._member.address) & (members.c.token == self._token)
                    connection.execute(members.delete().where(mine))
        except sa.exc.SQLAlchemyError as error:  # its term ends by itself
            log.warning("shards not handed over", error=str(error))

    def _keep(self) -> None:
        while not self._ended and self.lost is None:
            self._wanted.wait(self._member.term / LOOKS)
            self._wanted.clear()
            if self._ended:
                return
            try:
                self.look()
                self._failed = False
            except sa.exc.SQLAlchemyError as error:
                if not self._failed:
                    log.warning("term not renewed", error=str(getattr(error, "orig", error)).split("\n")[0])
                self._failed = True
            except Exception as error:  # a bug: without this thread the service would own nothing for ever
                log.error("term not renewed", exc_info=error)
            self.looked()

    def _look(self) -> None:
        asked = self._looked = self._clock()
        was_there = asked < self._view.until  # else it may be the others who were there, and it was away
        with self._engine.begin() as connection:
            self._renew(connection)
            rows, alive = _read(connection)
        if self.lost is not None:
            self._view = View()
            return
        until, me = asked + self._member.term, self._member.address
        self._view = view_of(me, rows, alive, until)
        free = free_for(me, rows, alive, also_of_the_dead=was_there)
        if free:
            with self._engine.begin() as connection:
                taken = _assign(connection, free)
                connection.execute(_FORGET, {"seconds": KEPT * self._member.term})
                rows, alive = _read(connection)
            self._view = view_of(me, rows, alive, until)
            log.info("shards taken", shards=len(taken), of=len(self._view.epochs))

    def _renew(self, connection: sa.Connection) -> None:
        if connection.scalar(sa.select(writer.c.token)) != SHARED:
            self._lose("another service has taken the store for itself alone: stop this one or that")
        elif (version := connection.scalar(sa.select(meta.c.schema_version))) != VERSION:
            self._lose(f"the store has schema version {version} by now, this service needs {VERSION}")
        elif not connection.execute(_RENEW, self._parameters()).rowcount:
            row = connection.scalar(sa.select(members.c.token).where(members.c.address == self._member.address))
            if row is not None:
                self._lose(f"another service has the address {self._member.address} by now: each must have its own")
            else:
                connection.execute(_JOIN, self._parameters())

    def _lose(self, why: str) -> None:
        log.error("store lost", reason=why)
        self.lost = why

    def _parameters(self) -> dict[str, object]:
        return {"address": self._member.address, "token": self._token, "term": self._member.term}


def let_go_of_all(connection: sa.Connection) -> None:
    """End the right of all who share the store, if any do: another service is to have it alone."""
    if sa.inspect(connection).has_table(shards.name):
        connection.execute(sa.text(_LET_GO))
        connection.execute(members.delete())


def check_unshared(connection: sa.Connection) -> None:
    """Raises StoreError where services share the store at this moment: its tables must stay as they are."""
    if sa.inspect(connection).has_table(members.name) and (alive := sorted(connection.scalars(_ALIVE))):
        raise StoreError(
            f"the store is of an older version, and is used by {', '.join(alive)}: stop all of them, then start this "
            "one, which brings it to its own"
        )


def _read(connection: sa.Connection) -> tuple[list[Shard], set[str]]:
    """All shards, and who is there."""
    alive = set(connection.scalars(_ALIVE))
    rows = connection.execute(sa.select(shards).order_by(shards.c.shard))
    return [Shard(row.shard, row.epoch, row.owner) for row in rows], alive


def _assign(connection: sa.Connection, moves: Mapping[Shard, str | None]) -> list[int]:
    """Give shards, as they were when they were read, to others; which of them could be."""
    rows = {
        "shards": [shard.number for shard in moves],
        "epochs": [shard.epoch for shard in moves],
        "owners": list(moves.values()),
    }
    return list(connection.scalars(_ASSIGN, rows))
