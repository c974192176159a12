"""The store: journal, plans, snapshots and artefacts in SQL.

One writer thread commits what many requests ask for at once.
"""

import fcntl
import queue
import threading
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

import sqlalchemy as sa

from bss_service import artefact, frames
from bss_service.artefact import Artefact
from bss_service.errors import StoreError
from bss_service.plans import Plan
from bss_service.wire import JobSpec, PolicyManifest

SCHEMA_VERSION: Final = 1
PART_BYTES: Final = 256 * 2**20  # of a snapshot in one row: SQLite holds at most 10⁹ bytes in one

_metadata = sa.MetaData()
_meta = sa.Table("meta", _metadata, sa.Column("schema_version", sa.Integer, nullable=False))
_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("job", sa.String(100), primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
)
_journal = sa.Table(
    "journal",
    _metadata,
    sa.Column("job", sa.String(100), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("checksum", sa.BigInteger, nullable=False),  # CRC-32 of the body
)
_plans = sa.Table(
    "plans",
    _metadata,
    sa.Column("job", sa.String(100), primary_key=True),
    sa.Column("first_step", sa.BigInteger, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
_snapshots = sa.Table(
    "snapshots",
    _metadata,
    sa.Column("job", sa.String(100), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),  # journal entries up to this one are in it
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
_artefacts = sa.Table(
    "artefacts",
    _metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A journal entry: what changed a job."""

    seq: int
    kind: str
    body: bytes

    @classmethod
    def of(cls, seq: int, kind: str, message: Mapping[str, Any]) -> "Entry":
        """The entry of a message's fields."""
        return cls(seq, kind, frames.encode(dict(message)))

    def message(self) -> dict[str, Any]:
        """The entry's content."""
        return frames.decode(self.body)


@dataclass(slots=True)
class Lease:
    """One loading of a job into memory. After a failed commit nothing more that was built on that memory is stored."""

    broken: bool = False


@dataclass(slots=True)
class Transaction:
    """Changes that are committed together or not at all."""

    job: str  # empty where they concern none
    lease: Lease
    entries: list[Entry] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    undrawn: int | None = None  # plans from this step on are void
    snapshot: tuple[int, bytes] | None = None  # with the seq of the last entry in it
    artefacts: list[Artefact] = field(default_factory=list)  # stored unless they are already
    created: JobSpec | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds of a job: its last snapshot, and what came after."""

    spec: JobSpec
    snapshot: bytes | None
    seq: int  # of the snapshot; 0 without one
    entries: list[Entry]


class Store:
    """Opens or makes the database at a SQLAlchemy URL. Raises StoreError where it can't, or where another has it."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._lock = _lock_file(self._engine.url)
        try:
            _metadata.create_all(self._engine)
            self._check_version()
        except sa.exc.SQLAlchemyError as error:
            self._let_go()
            raise StoreError(f"the store can't be opened: {_reason(error)}") from None
        except StoreError:
            self._let_go()
            raise
        self._insert_entry = str(_journal.insert().compile(dialect=self._engine.dialect))
        self._queue: queue.SimpleQueue[tuple[Transaction, Future[None]] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="bss-store-writer", daemon=True)
        self._writer.start()

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    def commit(self, transaction: Transaction) -> Future[None]:
        """Queue a transaction; transactions of a job are committed in the order of their calls.

        Once one has failed with StoreError, so do all later ones of its lease.
        """
        future: Future[None] = Future()
        self._queue.put((transaction, future))
        return future

    def close(self) -> None:
        """Commit what is queued, and let go of the database."""
        self._queue.put(None)
        self._writer.join()
        self._let_go()

    def job_names(self) -> list[str]:
        """All jobs, sorted."""
        with self._reading() as connection:
            return list(connection.scalars(sa.select(_jobs.c.job).order_by(_jobs.c.job)))

    def has(self, job: str) -> bool:
        """Whether anything is stored of a job."""
        with self._reading() as connection:
            return connection.scalar(sa.select(_jobs.c.job).where(_jobs.c.job == job)) is not None

    def check(self) -> None:
        """Raises StoreError if the database does not answer."""
        with self._reading() as connection:
            connection.execute(sa.select(_meta))

    def load(self, job: str) -> Stored | None:
        """What is stored of a job; None if nothing is."""
        with self._reading() as connection:
            spec = connection.scalar(sa.select(_jobs.c.spec).where(_jobs.c.job == job))
            if spec is None:
                return None
            newest = sa.select(sa.func.max(_snapshots.c.seq)).where(_snapshots.c.job == job).scalar_subquery()
            parts = connection.execute(
                sa.select(_snapshots)
                .where(_snapshots.c.job == job, _snapshots.c.seq == newest)
                .order_by(_snapshots.c.part)
            ).all()
            seq = parts[0].seq if parts else 0
            rows = connection.execute(
                sa.select(_journal).where(_journal.c.job == job, _journal.c.seq > seq).order_by(_journal.c.seq)
            )
            entries = [_checked(row) for row in rows]
        snapshot = b"".join(part.body for part in parts) if parts else None
        return Stored(JobSpec.model_validate_json(spec), snapshot, seq, entries)

    def journal(self, job: str) -> list[Entry]:
        """All entries of a job's journal, from its first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(_journal).where(_journal.c.job == job).order_by(_journal.c.seq))
            return [_checked(row) for row in rows]

    def plans(self, job: str, start: int, stop: int) -> list[Plan]:
        """The plans that hold the steps [start, stop), in order, each up to where the next begins."""
        first = (
            sa.select(sa.func.max(_plans.c.first_step))
            .where(_plans.c.job == job, _plans.c.first_step <= start)
            .scalar_subquery()
        )
        query = sa.select(_plans).where(_plans.c.job == job, _plans.c.first_step >= first, _plans.c.first_step < stop)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(_plans.c.first_step)).all()
        found = [_plan(row.first_step, row.body) for row in rows]
        ends = [plan.first_step for plan in found[1:]]
        return [plan.cut(end) if plan.end_step > end else plan for plan, end in zip(found, ends, strict=False)] + found[
            -1:
        ]

    def plans_before(self, job: str, step: int) -> Sequence[int]:
        """First steps of all plans that begin before a step, latest first."""
        query = sa.select(_plans.c.first_step).where(_plans.c.job == job, _plans.c.first_step < step)
        with self._reading() as connection:
            return list(connection.scalars(query.order_by(_plans.c.first_step.desc())))

    def manifests(self) -> list[PolicyManifest]:
        """What the artefacts are, by name."""
        with self._reading() as connection:
            texts = connection.scalars(
                sa.select(_artefacts.c.manifest).order_by(_artefacts.c.name, _artefacts.c.sha256)
            )
            return [PolicyManifest.model_validate_json(text) for text in texts]

    def manifest(self, sha256: str) -> PolicyManifest | None:
        """What an artefact is; None if it is not stored."""
        with self._reading() as connection:
            text = connection.scalar(sa.select(_artefacts.c.manifest).where(_artefacts.c.sha256 == sha256))
        return None if text is None else PolicyManifest.model_validate_json(text)

    def artefact(self, sha256: str) -> Artefact | None:
        """An artefact; None if it is not stored. Raises ArtefactError where it does not fit the code."""
        body = self.artefact_bytes(sha256)
        return None if body is None else artefact.read(body)

    def artefact_bytes(self, sha256: str) -> bytes | None:
        """An artefact as it was uploaded; None if it is not stored."""
        with self._reading() as connection:
            body: bytes | None = connection.scalar(sa.select(_artefacts.c.body).where(_artefacts.c.sha256 == sha256))
        return body

    def _let_go(self) -> None:
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def _reading(self) -> "_Reading":
        return _Reading(self._engine)

    def _check_version(self) -> None:
        with self._engine.begin() as connection:
            version = connection.scalar(sa.select(_meta.c.schema_version))
            if version is None:
                connection.execute(_meta.insert().values(schema_version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise StoreError(f"the store has schema version {version}, this service needs {SCHEMA_VERSION}")

    def _write(self) -> None:
        while True:
            item = self._queue.get()
            batch = []
            while item is not None:
                batch.append(item)
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if not self._committed(batch):
                for pair in batch:  # apart, so that what one job's change suffers from does not fail another's
                    self._committed([pair], last_try=True)
            if item is None:
                return

    def _committed(self, batch: list[tuple[Transaction, Future[None]]], last_try: bool = False) -> bool:
        try:
            with self._engine.begin() as connection:
                for transaction, _ in batch:
                    if transaction.lease.broken:
                        raise StoreError(f"an earlier change of job {transaction.job!r} was not stored")
                    self._execute(connection, transaction)
        except Exception as error:
            if last_try:
                for transaction, future in batch:
                    transaction.lease.broken = True
                    future.set_exception(StoreError(f"the change was not stored: {_reason(error)}"))
            return False
        for _, future in batch:
            future.set_result(None)
        return True

    def _execute(self, connection: sa.Connection, transaction: Transaction) -> None:
        job = transaction.job
        if transaction.deleted:
            for table in (_jobs, _journal, _plans, _snapshots):
                connection.execute(table.delete().where(table.c.job == job))
        for known in transaction.artefacts:
            _put_artefact(connection, known)
        if transaction.created is not None:
            connection.execute(_jobs.insert().values(job=job, spec=transaction.created.model_dump_json()))
        if transaction.undrawn is not None:
            connection.execute(_plans.delete().where(_plans.c.job == job, _plans.c.first_step >= transaction.undrawn))
        if transaction.entries:
            # The hot insert goes to the driver: SQLAlchemy's own statement costs half a millisecond more.
            rows = [(job, e.seq, e.kind, e.body, zlib.crc32(e.body)) for e in transaction.entries]
            connection.exec_driver_sql(self._insert_entry, rows if len(rows) > 1 else rows[0])
        for plan in transaction.plans:
            connection.execute(_plans.insert().values(job=job, first_step=plan.first_step, body=_plan_body(plan)))
        if transaction.snapshot is not None:
            seq, body = transaction.snapshot
            # The one that a job was imported with stays: its journal begins there.
            connection.execute(_snapshots.delete().where(_snapshots.c.job == job, _snapshots.c.seq > 0))
            for part, start in enumerate(range(0, len(body), PART_BYTES)):
                chunk = body[start : start + PART_BYTES]
                connection.execute(_snapshots.insert().values(job=job, seq=seq, part=part, body=chunk))


class _Reading:
    """A connection whose failures are StoreErrors."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def __enter__(self) -> sa.Connection:
        try:
            self._connection = self._engine.connect()
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the store can't be read: {_reason(error)}") from None
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._connection.close()
        if isinstance(error, sa.exc.SQLAlchemyError):
            raise StoreError(f"the store can't be read: {_reason(error)}") from None


def _put_artefact(connection: sa.Connection, known: Artefact) -> None:
    if connection.scalar(sa.select(_artefacts.c.name).where(_artefacts.c.sha256 == known.sha256)) is None:
        manifest = known.manifest
        row = {
            "sha256": known.sha256,
            "name": manifest.name,
            "manifest": manifest.model_dump_json(),
            "body": known.data,
        }
        connection.execute(_artefacts.insert().values(row))


def _plan_body(plan: Plan) -> bytes:
    """A plan as a frame. Indices are narrowed where they fit: plans are most of what a store holds."""
    narrow = plan.indices.astype("<u4") if plan.indices.size and int(plan.indices.max()) < 2**32 else plan.indices
    return frames.encode(
        {
            "indices": narrow,
            "probabilities": plan.probabilities,
            "policy_version": plan.policy_version,
            "scored_until": plan.scored_until,
        }
    )


def _plan(first_step: int, body: bytes) -> Plan:
    message: Mapping[str, Any] = frames.decode(body)
    return Plan(
        first_step,
        message["indices"].astype("<i8"),
        message["probabilities"],
        message["policy_version"],
        message["scored_until"],
    )


def _checked(row: Any) -> Entry:
    if zlib.crc32(row.body) != row.checksum:
        raise StoreError(f"journal entry {row.seq} of job {row.job!r} is damaged: its checksum does not agree")
    return Entry(row.seq, row.kind, row.body)


def _reason(error: Exception) -> str:
    """The database's own words, without the statement and its parameters."""
    return str(getattr(error, "orig", None) or error).split("\n")[0]


def _tune_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # a commit outlives the process, not a loss of power
    connection.execute("PRAGMA busy_timeout=5000")


def _engine(url: str) -> sa.Engine:
    try:
        engine = sa.create_engine(url)
    except ImportError as error:
        raise StoreError(f"the store can't be opened: its driver {error.name} is not installed") from None
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"the store can't be opened: {_reason(error)}") from None
    if engine.dialect.name == "sqlite":
        if engine.url.database in (None, "", ":memory:"):
            raise StoreError(f"the store must be a file, got {url!r}: memory does not outlive the service")
        sa.event.listen(engine, "connect", _tune_sqlite)
    return engine


def _lock_file(url: sa.URL) -> TextIO | None:
    """Hold a lock beside an SQLite file: two services on one file would contradict each other."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    path = Path(f"{url.database}.lock")
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
