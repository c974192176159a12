"""The store: journal, plans, snapshots and artefacts in SQL.

One writer thread commits what many requests ask for at once.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

import sqlalchemy as sa

from bss_service.errors import StoreError, StoreLostError
from bss_service.job import history
from bss_service.job.plans import Plan
from bss_service.journal import descriptions, schema
from bss_service.journal.descriptions import Description
from bss_service.journal.engine import Reading, by_name, concerns_all, create_engine, reason
from bss_service.journal.owning.membership import Member, Membership
from bss_service.journal.owning.writer import ShardWriter, Writer
from bss_service.journal.schema import checksum, journal, plan_pieces, plans, snapshots
from bss_service.journal.stored import Damage, PlanRow, Stored, decisions_body, decisions_of, plan_body
from bss_service.journal.transaction import (
    DecisionBlock,
    Entry,
    Fence,
    PlanPiece,
    Removal,
    SnapshotPart,
    Transaction,
    Written,
)
from bss_service.journal.writing.checkpoints import Checkpoints
from bss_service.journal.writing.lanes import Item, Lanes
from bss_service.policies import artefact
from bss_service.policies.artefact import AnyArtefact
from bss_service.protocol.artefacts import MANIFESTS, ArtefactManifest
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.samples import DescriptionRow

SOME_ROWS: Final = 16  # that are removed at once, and
SOME_PIECES: Final = 4  # pieces of large plans: about as long as they are being removed no other change is made


class DamagedPlanError(StoreError):
    """The stored plan of a step is not as it was written, or not there."""

    def __init__(self, job: str, step: int) -> None:
        super().__init__(f"the batches of job {job!r} from step {step} on are damaged in the store")
        self.step = step


class Store:
    """Opens or makes the database at a SQLAlchemy URL. Raises StoreError where it can't, or where another has it.

    member: who shares it with others, of whose jobs nothing is stored here.
    """

    def __init__(self, url: str, member: Member | None = None) -> None:
        self._engine = create_engine(url)
        self._right = Writer(self._engine) if member is None else ShardWriter(self._engine, member)
        try:
            schema.prepare(self._engine, self._right.prepare_migration)
            self._right.take()
        except sa.exc.SQLAlchemyError as error:
            self._let_go()
            raise StoreError(f"the store {self.shown_url} can't be opened: {reason(error)}") from None
        except StoreError:
            self._let_go()
            raise
        self._insert_entry = by_name(self._engine, journal.insert())
        is_sqlite = self._engine.dialect.name == "sqlite"
        self._checkpoints = Checkpoints(self._engine, self._right.check) if is_sqlite else None
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="bss-store-writer", daemon=True)
        self._writer.start()

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    @property
    def membership(self) -> Membership | None:
        """Of a store that several services share."""
        return self._right.membership

    def fence(self, job: str) -> Fence:
        """What a job is to be loaded behind. Raises MovedError or UnownedError where it is another service's."""
        return self._right.fence(job)

    def commit(self, transaction: Transaction) -> Future[None]:
        """Queue a transaction; transactions of a job are committed in the order of their calls.

        Once one has failed with StoreError, so do all later ones behind its fence.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # whoever waits for it may give up, the writer does not
        self._queue.put((transaction, future))
        return future

    def close(self) -> None:
        """Commit what is queued, and let go of the database."""
        self._queue.put(None)
        self._writer.join()
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._let_go()

    def job_names(self) -> list[str]:
        """All jobs, sorted."""
        with self._reading() as connection:
            return list(connection.scalars(sa.select(schema.jobs.c.job).order_by(schema.jobs.c.job)))

    def spec(self, job: str) -> JobSpec | None:
        """What a job is; None if there is none, or if it can't be read."""
        with self._reading() as connection:
            row = connection.execute(sa.select(schema.jobs).where(schema.jobs.c.job == job)).one_or_none()
        return (
            JobSpec.model_validate_json(row.spec)
            if row is not None and _intact(row.spec, row.checksum, job, row.incarnation)
            else None
        )

    def stored_bytes(self, job: str) -> int:
        """How much a job's journal and plans take."""
        with self._reading() as connection:
            sizes = [
                connection.scalar(sa.select(sa.func.sum(sa.func.length(table.c.body))).where(table.c.job == job))
                for table in (journal, plans, plan_pieces)
            ]
        return sum(size or 0 for size in sizes)

    def has(self, job: str) -> bool:
        """Whether anything is stored of a job."""
        with self._reading() as connection:
            return connection.scalar(sa.select(schema.jobs.c.job).where(schema.jobs.c.job == job)) is not None

    def check(self) -> None:
        """Raises StoreError if the database does not answer, or is not this service's any more."""
        with self._reading() as connection:
            self._right.check_all(connection)

    def check_held(self, job: str, fence: Fence) -> None:
        """Raises StoreError or MovedError where what was loaded of a job may not be so any more; at next to no cost.

        The store's files are not those that were opened then, or the job is another service's.
        """
        self._right.check_job(job, fence)

    def state_of(self, job: str) -> tuple[str, int] | None:
        """What changes whenever a job does: its incarnation, and the seq of its last entry; None if there is none."""
        last = sa.select(sa.func.max(journal.c.seq)).where(journal.c.job == job).scalar_subquery()
        with self._reading() as connection:
            query = sa.select(schema.jobs.c.incarnation, sa.func.coalesce(last, 0)).where(schema.jobs.c.job == job)
            row = connection.execute(query).one_or_none()
        return None if row is None else (row[0], row[1])

    @property
    def is_lost(self) -> bool:
        """Whether another service has the store, or its files are not those that were opened."""
        return self._right.has_lost

    def load(self, job: str, *, whole: bool = False) -> Stored | None:
        """What is stored of a job; None if nothing is. whole: from the journal's first entry on.

        Raises StoreError where too little of it is as it was written.
        """
        with self._reading() as connection:
            row = connection.execute(sa.select(schema.jobs).where(schema.jobs.c.job == job)).one_or_none()
            if row is None:
                return None
            if not _intact(row.spec, row.checksum, job, row.incarnation):
                raise StoreError(f"job {job!r} can't be read: its spec is damaged, its checksum does not agree")
            snapshot, seq, bad, imported = _snapshot(connection, job, whole=whole)
            entries, damage = _entries(connection, job, seq)
            last_plan = connection.scalar(sa.select(sa.func.max(plans.c.first_step)).where(plans.c.job == job))
        spec = JobSpec.model_validate_json(row.spec)
        last_plan = -1 if last_plan is None else last_plan
        return Stored(spec, snapshot, seq, entries, damage, bad, last_plan, imported, row.incarnation)

    def journal(self, job: str) -> list[Entry]:
        """All entries of a job's journal, from its first; raises StoreError if one is damaged."""
        with self._reading() as connection:
            entries, damage = _entries(connection, job, _base(connection, job) or 0)
        if damage is not None:
            raise StoreError(f"{damage.reason} of job {job!r}")
        return entries

    def plans(self, job: str, start: int, stop: int) -> list[Plan]:
        """The plans that hold the steps [start, stop), in order, each up to where the next begins.

        Raises DamagedPlanError where one is damaged or missing.
        """
        first = (
            sa.select(sa.func.max(plans.c.first_step))
            .where(plans.c.job == job, plans.c.first_step <= start)
            .scalar_subquery()
        )
        query = sa.select(plans).where(plans.c.job == job, plans.c.first_step >= first, plans.c.first_step < stop)
        with self._reading() as connection:
            rows = [_plan_row(connection, row) for row in connection.execute(query.order_by(plans.c.first_step)).all()]
        readable = [row.plan() if row.intact else None for row in rows]
        tiled: list[Plan] = []
        step = start
        for plan, following in zip(readable, [*rows[1:], None], strict=False):
            end = stop if following is None else following.first_step
            if plan is None or plan.first_step > step:
                raise DamagedPlanError(job, step)
            if plan.end_step < end:
                raise DamagedPlanError(job, max(step, plan.end_step))
            tiled.append(plan.cut(end) if plan.end_step > end and following is not None else plan)
            step = end
        if not tiled:
            raise DamagedPlanError(job, start)
        return tiled

    def snapshots(self, job: str) -> list[tuple[int, int]]:
        """The seq of each whole snapshot that is not older than the journal, and the first step of its plans."""
        count = sa.func.count()
        query = sa.select(snapshots.c.seq, snapshots.c.first_step).where(snapshots.c.job == job)
        query = query.group_by(snapshots.c.seq, snapshots.c.first_step, snapshots.c.parts)
        with self._reading() as connection:
            base = _base(connection, job) or 0
            rows = connection.execute(query.having(count == snapshots.c.parts).order_by(snapshots.c.seq))
            return [(row.seq, row.first_step) for row in rows if row.seq >= base]

    def plan_rows(self, job: str, start: int) -> Iterator[PlanRow]:
        """The stored plans that begin at a step or later, in order, one at a time: they may be large."""
        firsts = sa.select(plans.c.first_step).where(plans.c.job == job, plans.c.first_step >= start)
        with self._reading() as connection:
            for first in connection.scalars(firsts.order_by(plans.c.first_step)).all():
                row = connection.execute(sa.select(plans).where(plans.c.job == job, plans.c.first_step == first)).one()
                yield _plan_row(connection, row)

    def plans_before(self, job: str, step: int, most: int) -> Sequence[int]:
        """First steps of the latest plans that begin before a step, at most so many, latest first."""
        query = sa.select(plans.c.first_step).where(plans.c.job == job, plans.c.first_step < step)
        with self._reading() as connection:
            return list(connection.scalars(query.order_by(plans.c.first_step.desc()).limit(most)))

    def decisions(self, job: str, start: int, stop: int) -> list[Decision]:
        """The decisions number `start` to `stop`, of those that have left memory.

        Raises StoreError where some are damaged or missing.
        """
        table, first = schema.decisions, start // history.BLOCK * history.BLOCK
        query = sa.select(table).where(table.c.job == job, table.c.first >= first, table.c.first < stop)
        found: list[Decision] = []
        with self._reading() as connection:
            for row in connection.execute(query.order_by(table.c.first)):
                if row.first == first + len(found) and _intact(row.body, row.checksum, job, row.first):
                    found += decisions_of(row.body)
        if start < stop and first + len(found) < stop:
            raise StoreError(f"the decisions of job {job!r} from number {first + len(found)} on are damaged")
        return found[start - first : stop - first]

    def manifests(self) -> list[ArtefactManifest]:
        """What the artefacts are, by name."""
        with self._reading() as connection:
            texts = connection.scalars(
                sa.select(schema.artefacts.c.manifest).order_by(schema.artefacts.c.name, schema.artefacts.c.sha256)
            )
            return [MANIFESTS.validate_json(text) for text in texts]

    def manifest(self, sha256: str) -> ArtefactManifest | None:
        """What an artefact is; None if it is not stored."""
        with self._reading() as connection:
            text = connection.scalar(sa.select(schema.artefacts.c.manifest).where(schema.artefacts.c.sha256 == sha256))
        return None if text is None else MANIFESTS.validate_json(text)

    def artefact(self, sha256: str) -> AnyArtefact | None:
        """An artefact; None if it is not stored. Raises ArtefactError where it does not fit the code."""
        body = self.artefact_bytes(sha256)
        return None if body is None else artefact.read_any(body)

    def artefact_bytes(self, sha256: str) -> bytes | None:
        """An artefact as it was uploaded; None if it is not stored."""
        with self._reading() as connection:
            body: bytes | None = connection.scalar(
                sa.select(schema.artefacts.c.body).where(schema.artefacts.c.sha256 == sha256)
            )
        return body

    def descriptions(self, job: str) -> list[DescriptionRow]:
        """Which samples of a job are described."""
        with self._reading() as connection:
            return descriptions.read_rows(connection, job)

    def description(self, job: str, sample: int) -> Description | None:
        """What a sample shows; None where nobody told."""
        with self._reading() as connection:
            return descriptions.read(connection, job, sample)

    def _let_go(self) -> None:
        self._right.leave()
        self._engine.dispose()
        self._right.close()

    def _reading(self) -> Reading:
        self._right.check()
        return Reading(self._engine)

    def _write(self) -> None:
        lanes, is_open = Lanes(), True
        items: list[Item] = []
        while is_open or lanes or items:
            if is_open:
                is_open = self._take(items, wait=not lanes and not items)
            self._commit_together_or_apart(lanes.ready(items))
            items = self._write_piece(lanes) if lanes else []
            if self._checkpoints is not None:
                self._checkpoints.due()
        self._right.disconnect()

    def _take(self, items: list[Item], *, wait: bool) -> bool:
        """Add what is queued; False: the store is being closed."""
        with suppress(queue.Empty):
            while (item := self._queue.get(wait and not items)) is not None:
                items.append(item)
            return False
        return True

    def _write_piece(self, lanes: Lanes) -> list[Item]:
        """Write a piece of a large plan; once all of its are, or where it has none, commit it.

        Returns what waited behind it then.
        """
        item = lanes.turn()
        transaction, _ = item
        try:
            piece = lanes.next_piece(transaction)
            if piece is None:
                first, *behind = lanes.leave(transaction.job)
                self._commit_together_or_apart([first])
                return behind
            with self._right.change([transaction]) as connection:
                _put_piece(connection, transaction.job, piece)
        except Exception as error:
            _fail([item], error)
            return lanes.leave(transaction.job)[1:]
        return []

    def _commit_together_or_apart(self, batch: list[Item]) -> None:
        """Apart if need be, so that what one job's change suffers from does not fail another's."""
        try:
            self._commit(batch)
        except Exception as error:
            alike = concerns_all(error) or isinstance(error, StoreLostError)
            apart = [[pair] for pair in batch] if len(batch) > 1 and not alike else []
            for one in apart:
                self._commit_together_or_apart(one)
            if not apart:
                _fail(batch, error)

    def _commit(self, batch: list[Item]) -> None:
        if batch:
            with self._right.change([transaction for transaction, _ in batch]) as connection:
                for transaction, _ in batch:
                    if transaction.fence.closed:
                        raise StoreError(f"an earlier change of job {transaction.job!r} was not stored")
                    self._execute(connection, transaction)
        for _, future in batch:
            future.set_result(None)

    def _execute(self, connection: sa.Connection, transaction: Transaction) -> None:
        job = transaction.job
        if transaction.deleted:
            for table in schema.OF_A_JOB:
                connection.execute(table.delete().where(table.c.job == job))
        for known in transaction.artefacts:
            _put_artefact(connection, known)
        if transaction.created is not None:
            spec = transaction.created.model_dump_json()
            incarnation = transaction.incarnation
            row = {"job": job, "spec": spec, "incarnation": incarnation, "checksum": checksum(spec, job, incarnation)}
            connection.execute(schema.jobs.insert().values(row))
        if transaction.truncated is not None:
            _drop_plans(connection, job, transaction.truncated, None, [w.write for w in transaction.written.values()])
        if transaction.damaged_from is not None:
            _set_aside(connection, job, transaction.damaged_from)
        if transaction.entries:
            # The hot insert goes to the driver: SQLAlchemy's own statement costs half a millisecond more.
            rows = [
                {
                    "job": job,
                    "seq": e.seq,
                    "kind": e.kind,
                    "body": e.body,
                    "checksum": checksum(e.body, job, e.seq, e.kind),
                }
                for e in transaction.entries
            ]
            connection.connection.cursor().executemany(self._insert_entry, rows)
        for plan in transaction.plans:
            _put_plan(connection, job, plan, transaction.written.get(plan.first_step))
        for block in transaction.decisions:
            _put_decisions(connection, job, block)
        if transaction.descriptions:
            descriptions.put(connection, job, transaction.descriptions)
        for part in transaction.snapshot:
            _put_part(connection, job, part)
        if transaction.removal is not None:
            _remove(connection, job, transaction.removal)


def _fail(batch: list[Item], error: Exception) -> None:
    for transaction, future in batch:
        if transaction.is_change:
            transaction.fence.closed = True
        lost = isinstance(error, StoreLostError)
        future.set_exception(error if lost else StoreError(f"the change was not stored: {reason(error)}"))


def _put_artefact(connection: sa.Connection, known: AnyArtefact) -> None:
    artefacts = schema.artefacts
    if connection.scalar(sa.select(artefacts.c.name).where(artefacts.c.sha256 == known.sha256)) is None:
        manifest = known.manifest
        row = {
            "sha256": known.sha256,
            "name": manifest.name,
            "manifest": manifest.model_dump_json(),
            "body": known.data,
        }
        connection.execute(artefacts.insert().values(row))


def _put_plan(connection: sa.Connection, job: str, plan: Plan, written: Written | None) -> None:
    _drop_plans(connection, job, plan.first_step, plan.end_step, [] if written is None else [written.write])
    if written is None:
        body, write = plan_body(plan), ""
        proof = checksum(body, job, plan.first_step)
    else:
        body, write, proof = b"", written.write, written.checksum
    row = {"job": job, "first_step": plan.first_step, "body": body, "checksum": proof, "write": write}
    connection.execute(plans.insert().values(row))


def _drop_plans(connection: sa.Connection, job: str, start: int, stop: int | None, kept: Sequence[str]) -> None:
    """Delete the plans that begin in [start, stop), and pieces there but for those of some writes."""
    for table in (plans, plan_pieces):
        held = [table.c.job == job, table.c.first_step >= start]
        held += [] if stop is None else [table.c.first_step < stop]
        held += [table.c.write.not_in(kept)] if kept and table is plan_pieces else []
        connection.execute(table.delete().where(*held))


def _put_decisions(connection: sa.Connection, job: str, block: DecisionBlock) -> None:
    table, body = schema.decisions, decisions_body(block.decisions)
    connection.execute(table.delete().where(table.c.job == job, table.c.first == block.first))
    row = {"job": job, "first": block.first, "body": body, "checksum": checksum(body, job, block.first)}
    connection.execute(table.insert().values(row))


def _put_piece(connection: sa.Connection, job: str, piece: PlanPiece) -> None:
    row = {"job": job, "first_step": piece.first_step, "write": piece.write, "piece": piece.piece, "body": piece.body}
    connection.execute(plan_pieces.insert().values(row))


def _put_part(connection: sa.Connection, job: str, part: SnapshotPart) -> None:
    of_job = snapshots.c.job == job
    if part.part == 0:  # what is left of one that was not written to its end
        connection.execute(snapshots.delete().where(of_job, snapshots.c.seq == part.seq))
    key = {"job": job, "seq": part.seq, "part": part.part, "parts": part.parts}
    proof = checksum(part.body, job, part.seq, part.part, part.parts)
    connection.execute(snapshots.insert().values(**key, body=part.body, checksum=proof, first_step=part.first_step))
    if part.is_last:  # the one that a job was imported with stays, and any other that its journal begins behind
        kept = (0, part.seq, *part.kept)
        connection.execute(snapshots.delete().where(of_job, snapshots.c.seq.not_in(kept), snapshots.c.base == 0))


def _remove(connection: sa.Connection, job: str, removal: Removal) -> None:
    """Remove some rows that are not needed any more, oldest first."""
    of_job = snapshots.c.job == job
    if removal.seq:
        connection.execute(snapshots.update().where(of_job, snapshots.c.seq == removal.seq).values(base=1))
        connection.execute(snapshots.delete().where(of_job, snapshots.c.seq < removal.seq))
    last = sa.select(sa.func.max(plans.c.first_step)).where(plans.c.job == job, plans.c.first_step <= removal.step)
    step = connection.scalar(last) or 0  # of the plan that holds the first step that is kept
    removed = 0
    for table, most, is_old in (
        (plan_pieces, SOME_PIECES, plan_pieces.c.first_step < step),
        (plans, SOME_ROWS, plans.c.first_step < step),
        (journal, SOME_ROWS, journal.c.seq <= removal.seq),
    ):
        key = list(table.primary_key.columns)
        some = sa.select(*key).where(table.c.job == job, is_old).order_by(*key).limit(most).subquery()
        found = connection.execute(sa.select(some)).all()
        for row in found:
            connection.execute(table.delete().where(*(column == getattr(row, column.name) for column in key)))
        removed += len(found)
        if removed:
            break
    removal.removed, removal.is_done = removed, removed == 0


def _set_aside(connection: sa.Connection, job: str, seq: int) -> None:
    """Move the journal's entries from `seq` on to where they can be looked at."""
    later = (journal.c.job == job) & (journal.c.seq >= seq)
    columns = [journal.c.job, journal.c.seq, journal.c.kind, journal.c.body, journal.c.checksum]
    names = [column.name for column in columns]
    connection.execute(schema.damaged.insert().from_select(names, sa.select(*columns).where(later)))
    connection.execute(journal.delete().where(later))


def _snapshot(connection: sa.Connection, job: str, *, whole: bool) -> tuple[bytes | None, int, tuple[int, ...], bool]:
    """The newest snapshot that is as it was written, its seq, the newer ones that aren't, and whether one began it.

    whole: only the one that its journal begins behind, which it was imported with or has been cut to.
    """
    of_job = snapshots.c.job == job
    base = _base(connection, job)
    held = sa.select(snapshots.c.seq).where(of_job, snapshots.c.seq >= (base or 0)).distinct()
    stored = list(connection.scalars(held.order_by(snapshots.c.seq.desc())))
    bad: list[int] = []
    for seq in [seq for seq in stored if seq == base or not whole]:
        query = sa.select(snapshots).where(of_job, snapshots.c.seq == seq).order_by(snapshots.c.part)
        rows = connection.execute(query).all()
        intact = all(_intact(row.body, row.checksum, job, row.seq, row.part, row.parts) for row in rows)
        if intact and len(rows) == rows[0].parts:
            return b"".join(row.body for row in rows), seq, tuple(bad), 0 in stored
        if seq == base:
            which = "its journal begins behind" if seq else "it was imported with"
            raise StoreError(f"job {job!r} can't be read: the snapshot that {which} is damaged")
        bad += [] if intact else [seq]  # else it was not written to its end
    return None, 0, tuple(bad), False


def _base(connection: sa.Connection, job: str) -> int | None:
    """The seq of the snapshot that a job's journal begins behind; None: it begins with the job."""
    begins = (snapshots.c.base == 1) | (snapshots.c.seq == 0)
    base: int | None = connection.scalar(sa.select(sa.func.max(snapshots.c.seq)).where(snapshots.c.job == job, begins))
    return base


def _entries(connection: sa.Connection, job: str, after: int) -> tuple[list[Entry], Damage | None]:
    """The journal's entries behind one, up to the first that is damaged or missing."""
    query = sa.select(journal).where(journal.c.job == job, journal.c.seq > after).order_by(journal.c.seq)
    entries: list[Entry] = []
    later: list[Entry] = []
    first, why, lost = 0, "", 0
    for row in connection.execute(query):
        expected = after + 1 + len(entries)
        intact = _intact(row.body, row.checksum, row.job, row.seq, row.kind)
        if not first and not (intact and row.seq == expected):
            first = expected
            fault = "damaged: its checksum does not agree" if row.seq == expected else "missing"
            why = f"journal entry {expected} is {fault}"
        lost += not intact
        if intact:
            (later if first else entries).append(Entry(row.seq, row.kind, row.body))
    return entries, Damage(first, why, later, lost) if first else None


def _plan_row(connection: sa.Connection, row: Any) -> PlanRow:
    body = row.body
    if row.write:
        key = (
            plan_pieces.c.job == row.job,
            plan_pieces.c.first_step == row.first_step,
            plan_pieces.c.write == row.write,
        )
        pieces = sa.select(plan_pieces.c.body).where(*key).order_by(plan_pieces.c.piece)
        body = b"".join([body, *connection.scalars(pieces)])
    return PlanRow(row.first_step, body, row.checksum, _intact(body, row.checksum, row.job, row.first_step))


def _intact(body: Any, expected: Any, *key: str | int) -> bool:
    return isinstance(body, bytes | str) and checksum(body, *key) == expected
