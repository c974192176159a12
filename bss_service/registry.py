"""The jobs in memory: loaded when asked for, changed under their locks, journaled, and let go of."""

import asyncio
import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar

import structlog

from bss_service.core.evidence.posterior import Evidence
from bss_service.core.samples.keys import bytes_of as bytes_of_keys
from bss_service.core.samples.table import SampleTable
from bss_service.errors import (
    BssError,
    BusyError,
    MovedError,
    NoRoomError,
    NotFoundError,
    NotReproducibleError,
    PlanningError,
    StoppedError,
    StoreError,
    TooManyError,
    UnownedError,
)
from bss_service.job.events import BatchesReleased, JobEvent
from bss_service.job.job import Job
from bss_service.job.lock import JobLock, Leaving
from bss_service.job.places import check_incarnation
from bss_service.job.plans import Plan
from bss_service.job.room import bytes_of, bytes_of_job
from bss_service.job.shown import views
from bss_service.job.shown.pace import Pace
from bss_service.job.shown.summaries import Summaries
from bss_service.job.snapshot import frozen, snapshot_of
from bss_service.journal.loading import Loader
from bss_service.journal.store import Store
from bss_service.journal.transaction import DecisionBlock, Entry, Fence, Removal, Transaction, parts_of
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec, JobState
from bss_service.protocol.message import AT_WORK
from bss_service.protocol.training import AttachAnswer
from bss_service.telemetry import tracing
from bss_service.telemetry.metrics import Metrics

log = structlog.get_logger()
A = TypeVar("A")

SNAPSHOT_ENTRIES: Final = 4096  # a restart replays at most about so many entries
SNAPSHOT_SECONDS: Final = 0.2  # nor planning that took much longer than so
COLD_SECONDS: Final = 60.0  # after which a job may leave it where another needs the room
OTHERS_SECONDS: Final = 5.0  # that another service's job, which goes on, is told as it was
SOON: Final = 5.0  # seconds that a request waits for a plan before it is told so
IDLE_SECONDS: Final = 3600.0  # after which a job may leave memory; it is loaded again when asked for


@dataclass(slots=True)
class LiveJob:
    """A job in memory, and how far its journal has got."""

    job: Job
    seq: int
    fence: Fence = field(default_factory=Fence)
    changed: JobLock = field(default_factory=JobLock)
    pending: Transaction | None = None  # changes not yet handed to the store
    durable: Future[None] | None = None  # the last changes that were
    heard: dict[str, float] = field(default_factory=dict)  # by client of a trainer: when it last called
    joined: AttachAnswer | None = None  # where the run that trains now began: the same for all of its ranks
    asking: int = 0  # requests of rank 0 that are held for the next interval
    used: float = field(default_factory=time.monotonic)  # when it was last asked for
    size: int = 0  # bytes of memory that it may take
    stored: int = 0  # bytes of its journal and plans in the store
    most_stored: int | None = None
    bytes_since_snapshot: int = 0
    entries_since_snapshot: int = 0
    planning_since_snapshot: float = 0.0  # seconds
    snapshot_seconds: float = 0.0  # that the last one took
    snapshot: asyncio.Task[None] | None = None  # being written
    snapshots: list[tuple[int, int]] = field(default_factory=list)  # stored: seq, and first step of the plans in it
    evidence: tuple[Any, Evidence | None] | None = None  # computed last, and of which state
    copies: set[asyncio.Task[SampleTable]] = field(default_factory=set)  # being made of the table: it must not change
    looks: "weakref.WeakValueDictionary[Any, asyncio.Task[Any]]" = field(default_factory=weakref.WeakValueDictionary)
    held: Counter[Any] = field(default_factory=Counter)  # requests that wait for something to come true, by who waits
    summaries: Summaries = field(default_factory=Summaries)
    pace: Pace = field(default_factory=Pace)
    planning: asyncio.Task[None] | None = None  # draws an interval, which takes long, under the job's lock

    def __post_init__(self) -> None:
        self.size = bytes_of_job(self.job)
        for trainer in self.job.trainers.values():
            self.hear(trainer.client)  # it may be there still: it was the service that was away

    def hear(self, client: str | None, held: float = 0.0) -> None:
        """Note that a trainer has called, if it is one of those that hold a place; its call may be held so long."""
        if client is not None and any(trainer.client == client for trainer in self.job.trainers.values()):
            self.heard[client] = time.monotonic() + held

    def silences(self) -> dict[str, float]:
        """Seconds since each trainer called, by client; less than 0 while a call of it may be held."""
        holders = {trainer.client for trainer in self.job.trainers.values()}
        self.heard = {client: when for client, when in self.heard.items() if client in holders}
        now = time.monotonic()
        return {client: now - when for client, when in self.heard.items()}

    def copy_table(self) -> "asyncio.Task[SampleTable]":
        """A copy of the table as it is now, made beside the loop; whoever plans waits for it first."""
        copying = asyncio.create_task(asyncio.to_thread(self.job.table.copy))
        self.copies.add(copying)
        copying.add_done_callback(self.copies.discard)
        return copying

    def check_stored(self) -> None:
        """Raises NoRoomError where the job has all the room in the store that it may have."""
        if self.most_stored is not None and self.stored >= self.most_stored:
            raise NoRoomError(
                f"job {self.job.spec.name!r} has {self.stored} bytes in the store, of at most {self.most_stored} "
                "(setting max_stored_bytes): nothing of it changes any more",
                field="job",
                value=self.stored,
            )

    def apply(self, event: JobEvent[A]) -> A:
        """Let something happen to the job, and have the change journaled; the answer to it.

        Raises NoRoomError, before anything has happened, where its journal has all the room that it may have.
        """
        self.check_stored()
        plans, planned_until = self.job.plans, self.job.planned_until
        applied = event.apply(self.job)
        if applied.entry is not None:
            self._record(applied.entry, plans, planned_until)
        return applied.answer

    def _record(self, event: JobEvent[Any], plans: list[Plan], planned_until: int) -> None:
        """Journal an event that has happened, and what it has made of the plans that there were before."""
        self.seq += 1
        entry = Entry.of(self.seq, event)
        pending = self.pending = self.pending or Transaction(self.job.spec.name, self.fence)
        pending.entries.append(entry)
        self.bytes_since_snapshot += len(entry.body)
        self.stored += len(entry.body)
        self.entries_since_snapshot += 1
        pending.decisions += DecisionBlock.of(*self.job.history.take_leaving())
        if self.job.plans is plans:
            return
        before = set(map(id, plans))  # there may be thousands
        written = [plan for plan in self.job.plans if id(plan) not in before]
        kept = min([self.job.planned_until, *(plan.first_step for plan in written)])
        if kept < planned_until:
            pending.truncate(kept)
        pending.plans += written
        drawn = sum(plan.indices.nbytes for plan in written)
        self.bytes_since_snapshot += drawn
        self.stored += drawn

    def release(self) -> int:
        """Keep no longer what the job need not keep; the seq of the snapshot that its journal may begin behind, or 0.

        That is the latest but one, or an earlier, out of which all batches that are kept can be drawn anew: should one
        be damaged, there is another.
        """
        until = self.job.outdated_until()
        applied = BatchesReleased(until).apply(self.job)
        if applied.entry is not None:  # also where the store is full: it makes room
            self._record(applied.entry, self.job.plans, self.job.planned_until)
        return max((seq for seq, first in self.snapshots[:-1] if 0 <= first <= self.job.kept_from), default=0)

    def snapshots_kept(self) -> tuple[int, ...]:
        """Those that stay when another is stored: what the journal is to begin behind next, before it gets too long."""
        return () if self.job.spec.keep_epochs is None else tuple(seq for seq, _ in self.snapshots[:2])

    @property
    def snapshot_is_due(self) -> bool:
        """Whether a snapshot would save much of a replay; not more often than in proportion to its own size."""
        if self.snapshot is not None:
            return False
        written = self.bytes_since_snapshot
        return (
            self.entries_since_snapshot > SNAPSHOT_ENTRIES
            or self.planning_since_snapshot > max(SNAPSHOT_SECONDS, self.snapshot_seconds)
            or (written > 2**20 and written > self.job.table.nbytes)
        )

    @property
    def is_idle(self) -> bool:
        """Whether nobody has asked for it in a long time."""
        return self.is_cold_for(IDLE_SECONDS)

    def is_cold_for(self, seconds: float) -> bool:
        """Whether nobody has asked for it in so long, and all of it is stored."""
        long_ago = time.monotonic() - self.used > seconds
        busy = self.changed.locked() or self.held or self.copies or self.snapshot is not None
        return long_ago and not busy and (self.durable is None or self.durable.done())


@dataclass(frozen=True, slots=True)
class LookedAt:
    """Another service's job, as it was stored when this one read it."""

    state: JobState
    stored: tuple[str, int] | None
    when: float = field(default_factory=time.monotonic)


class JobRegistry:
    """The jobs of this service that are in memory. Of a store that several share, each job is one service's."""

    def __init__(self, store: Store, metrics: Metrics, memory: int, stored: int | None) -> None:
        """memory: bytes that all jobs in it may take. stored: that each may have in the store."""
        self._memory, self._stored = memory, stored
        self._reserved = 0  # bytes of memory, for jobs that are being made or loaded
        metrics.most_memory.set(memory)
        self._store = store
        self._membership = store.membership
        self._metrics = metrics
        self._live: dict[str, LiveJob] = {}
        self._idle_states: dict[str, tuple[Fence, JobState]] = {}  # of jobs that have left memory, as they were then
        self._others: dict[str, LookedAt] = {}
        self._stopping = False
        self._loading: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self.loader = Loader(store, metrics)

    def all(self) -> list[LiveJob]:
        """Those in memory."""
        return list(self._live.values())

    def loading(self, name: str) -> AbstractAsyncContextManager[None]:
        """While it is held nobody else loads, creates or deletes the job of that name."""
        return self._loading.setdefault(name, asyncio.Lock())

    @contextmanager
    def room_for(self, spec: JobSpec, *, known: bool = False) -> Iterator[None]:
        """Keep memory free for a job that is being made, or loaded; those of which nobody has asked lately make room.

        Raises NoRoomError, or BusyError for a job that is known: others may make room for it soon.
        """
        with self._room(bytes_of(spec), 0, spec.samples, known=known):
            yield

    @contextmanager
    def room_to_grow(self, live: LiveJob, samples: int, keys: Sequence[str] = ()) -> Iterator[None]:
        """The same for a job that is to have more samples, or these keys more; afterwards it is known what it takes."""
        before = live.job.spec
        grown = bytes_of(before.model_copy(update={"samples": samples}))
        with self._room(grown - bytes_of(before) + bytes_of_keys(keys), before.samples, samples):
            yield
        live.size = bytes_of_job(live.job)
        self._count()

    @contextmanager
    def _room(self, needed: int, before: int, samples: int, *, known: bool = False) -> Iterator[None]:
        """The same for so many bytes, for samples beside those that there were before."""
        for live in sorted(self.all(), key=lambda live: live.used):
            if self._free() < needed and live.is_cold_for(COLD_SECONDS):
                self._let_go(live)
        if self._free() < needed:
            fit = before + max(0, self._free()) * (samples - before) // max(1, needed)
            wrong = f"samples must be at most {fit} now, got {samples}"
            if samples == before:
                wrong = f"keys must wait, which need {needed} bytes more"
            told = (
                f"{wrong}: jobs take {self._memory - self._free()} bytes of memory, of at most {self._memory} "
                "(setting max_memory)"
            )
            raise BusyError(told) if known else NoRoomError(told, field="samples", value=samples)
        self._reserved += needed
        try:
            yield
        finally:
            self._reserved -= needed

    async def find(self, name: str) -> LiveJob | None:
        """The live job, loaded if need be; the caller holds its `loading`. Raises MovedError or UnownedError."""
        if name not in self._live:
            started = time.monotonic()
            fence = await self.fence(name)
            loaded = await self._loaded(name, fence)
            if loaded is None:
                return None
            job, seq, entries = loaded
            spent = time.monotonic() - started
            live = LiveJob(
                job, seq, fence, entries_since_snapshot=entries, planning_since_snapshot=spent if entries else 0
            )
            live.stored = await asyncio.to_thread(self._store.stored_bytes, name)
            live.snapshots = await asyncio.to_thread(self._store.snapshots, name)
            self._keep(live)
            self._snapshot_if_due(live)  # so that another restart need not do all that again
            log.info("job loaded", job=name, replayed=entries, next_step=job.served, seconds=round(spent, 3))
        return self._live[name]

    async def live(self, name: str) -> LiveJob:
        """The live job, loaded if need be. Raises NotFoundError."""
        live = self._live.get(name)
        if live is None:
            async with self.loading(name):
                live = await self.find(name)
        if live is None:
            raise unknown(name)
        return live

    async def fence(self, name: str) -> Fence:
        """What a job is loaded, made or deleted behind; the caller holds its `loading`.

        Raises MovedError or UnownedError where it is another service's, also after another look at who owns what.
        """
        try:
            return self._store.fence(name)
        except (MovedError, UnownedError):
            if self._membership is not None:
                await asyncio.to_thread(self._membership.look_again)
            return self._store.fence(name)

    def check_held(self, live: LiveJob) -> None:
        """Raises StoreError or MovedError where memory may not hold any more what is stored of a job."""
        self._store.check_held(live.job.spec.name, live.fence)

    def check_owned(self, live: LiveJob) -> None:
        """Raises MovedError or UnownedError where a job is another service's, or may be, and forgets it then.

        The caller has its lock.
        """
        if self._membership is None:
            return
        try:
            self._membership.check(live.job.spec.name, live.fence)
        except (MovedError, UnownedError):
            self.drop(live)
            raise

    async def put(self, job: Job, transaction: Transaction) -> None:
        """Store and keep a new job; the caller holds its `loading`, and has got the transaction's fence since."""
        await self.committed(self._store.commit(transaction))
        self._keep(LiveJob(job, 0, transaction.fence))
        log.info("job created", job=job.spec.name, samples=job.spec.samples, policy=job.spec.policy.name)

    async def delete(self, name: str) -> None:
        """Forget a job and all that is stored of it; the caller holds its `loading`."""
        fence = await self.fence(name)
        live = self._live.get(name)  # not loaded for this: a job that can't be read can be deleted
        if live is None and not await asyncio.to_thread(self._store.has, name):
            raise unknown(name)
        if live is not None:
            async with live.changed:
                self.drop(live)
        self._idle_states.pop(name, None)
        await self.committed(self._store.commit(Transaction(name, fence, deleted=True)))

    async def state(self, name: str) -> JobState | None:
        """Where a job is; one that is not in memory is not kept there for this. None if there is none.

        Of another service's: as it was stored a moment ago.
        """
        async with self.loading(name):
            try:
                fence = self._store.fence(name)
            except (MovedError, UnownedError):
                return await self._others_state(name)
            if name not in self._live:
                return await self._idle_state(name, fence)
        async with self.open(name) as live:
            return views.state(live.job)

    async def read(self, name: str) -> Job:
        """Another service's job, as it is stored at this moment; it is not kept. Raises NotFoundError."""
        async with self.loading(name):
            loaded = await self._loaded(name, None)
        if loaded is None:
            raise unknown(name)
        return loaded[0]

    def open(self, name: str, incarnation: str | None = None) -> "Opened":
        """The job under its lock; on the way out, wait until all that the answer may tell of is stored, also a refusal.

        incarnation: of the job that a trainer means; None: whichever there is.
        """
        return Opened(self, name, incarnation)

    async def hold(
        self, live: LiveJob, who: Hashable, is_true: Callable[[], bool], leaving: Leaving | None, most: int
    ) -> None:
        """Wait, without the job's lock, until something is true of it, or the client has gone.

        Raises TooManyError where so many of `who` wait already, StoreError where this process lets go of the job.
        """
        if live.held[who] >= most:
            raise TooManyError(f"{most} requests are held for the same already: try again in a second", retry_after=1)
        live.held[who] += 1
        self._metrics.held.inc()
        try:
            await live.changed.wait_for(lambda: live.fence.closed or self._stopping or is_true(), leaving)
        finally:
            self._metrics.held.dec()
            live.held[who] -= 1
            if not live.held[who]:
                del live.held[who]
        if live.fence.closed or self._stopping:
            raise StoreError(f"job {live.job.spec.name!r} is not held by this process any more, ask again")

    async def release(self) -> None:
        """Before a stop: let go of all requests that are held, and end plans that are being drawn."""
        self._stopping = True
        for live in self.all():
            live.changed.notify_all()
        if planning := [live.planning for live in self.all() if live.planning is not None]:
            await asyncio.wait(planning)

    def _proceed(self) -> None:
        if self._stopping:
            raise StoppedError

    def hand_over(self, live: LiveJob) -> None:
        """Hand the changes to the store, in their order, and wake up whoever waits for one."""
        if live.pending is not None:
            live.durable = self._store.commit(live.pending)
            live.pending = None
            live.changed.notify_all()
            self._snapshot_if_due(live)

    async def committed(self, future: Future[None]) -> None:
        """Wait until a change is stored. Raises StoreError."""
        try:
            if not future.done():
                await _end_of(future)
            future.result()
        except StoreError:
            self._metrics.store_failures.inc()
            raise

    def drop(self, live: LiveJob) -> None:
        """Forget what memory holds of a job, whose lock the caller has; the next request loads what is stored."""
        live.fence.closed = True
        live.changed.notify_all()
        if self._live.get(live.job.spec.name) is live:
            del self._live[live.job.spec.name]
            self._count()

    async def let_go(self, lives: Sequence[LiveJob]) -> None:
        """Forget what memory holds of jobs, each once nothing of it is half done, and wait until all is stored."""
        await asyncio.gather(*(self._let_go_of(live) for live in lives))

    async def _let_go_of(self, live: LiveJob) -> None:
        async with live.changed:
            self.drop(live)
        with suppress(StoreError):
            await self.committed(self._store.commit(Transaction(live.job.spec.name)))

    async def close(self) -> None:
        """Let the snapshots that are being written come to their end, or to nothing."""
        for live in self.all():
            if live.snapshot is not None:
                live.snapshot.cancel()
                with suppress(asyncio.CancelledError):
                    await live.snapshot

    async def _idle_state(self, name: str, fence: Fence) -> JobState | None:
        """Where a job of this service is that is not in memory."""
        known = self._idle_states.get(name)
        if known is not None and known[0].epoch == fence.epoch:
            return known[1]
        loaded = await self._loaded(name, fence)
        if loaded is None:
            return None
        self._idle_states[name] = fence, views.state(loaded[0])
        return self._idle_states[name][1]

    async def _others_state(self, name: str) -> JobState | None:
        """Where another service's job is; read anew when it has gone on, but not more often than it may."""
        stored = await asyncio.to_thread(self._store.state_of, name)
        known = self._others.get(name)
        if known is None or (known.stored != stored and time.monotonic() - known.when > OTHERS_SECONDS):
            self._others.pop(name, None)
            loaded = await self._loaded(name, None)
            if loaded is None:
                return None
            known = self._others[name] = LookedAt(views.state(loaded[0]), stored)
        return known.state

    async def _loaded(self, name: str, fence: Fence | None) -> tuple[Job, int, int] | None:
        """A job out of the store, for which there is room. fence: None, where it is another service's."""
        spec = await asyncio.to_thread(self._store.spec, name)
        if spec is None:
            return await self.loader.load(name, fence)  # there is none, or it says what is wrong with it
        with self.room_for(spec, known=True):
            loaded = await self.loader.load(name, fence)
            if loaded is not None:  # it may have grown, of which its journal alone tells
                more = bytes_of_job(loaded[0]) - bytes_of(spec)
                with self._room(more, spec.samples, loaded[0].spec.samples, known=True):
                    pass
            return loaded

    def _recall(self, name: str, start: int, stop: int) -> list[Decision]:
        """Decisions that have left memory, also those that are still on their way to the store."""
        self._store.commit(Transaction(name)).result()
        return self._store.decisions(name, start, stop)

    def _free(self) -> int:
        """Bytes of memory that jobs may take beside those that are there."""
        return self._memory - self._reserved - sum(live.size for live in self._live.values())

    def _let_go(self, live: LiveJob) -> None:
        """Let a job that nobody uses leave memory."""
        live.fence.closed = True
        name = live.job.spec.name
        self._idle_states[name] = live.fence, views.state(live.job)
        del self._live[name]
        self._count()

    def _count(self) -> None:
        self._metrics.live_jobs.set(len(self._live))
        self._metrics.memory.set(sum(live.size for live in self.all()))

    def _keep(self, live: LiveJob) -> None:
        """Keep a job in memory, and let go of those that nobody has asked for in a long time."""
        for other in self.all():
            if other.is_idle:
                self._let_go(other)
        live.most_stored = self._stored
        live.job.proceed = self._proceed
        live.job.history.recall = partial(self._recall, live.job.spec.name)
        self._live[live.job.spec.name] = live
        self._idle_states.pop(live.job.spec.name, None)
        self._count()

    def _snapshot_if_due(self, live: LiveJob) -> None:
        if live.snapshot_is_due and not live.fence.closed:
            live.bytes_since_snapshot = live.entries_since_snapshot = 0
            live.planning_since_snapshot = 0.0
            # Begun here and not by the other task: whoever holds the lock may plan before that one's turn comes.
            live.snapshot = asyncio.create_task(
                self._write_snapshot(live, frozen(live.job), live.copy_table(), live.seq)
            )

    async def _write_snapshot(self, live: LiveJob, job: Job, table: asyncio.Task[SampleTable], seq: int) -> None:
        """Write the job as it was, part by part, while it goes on. What fails is tried again when it is due again."""
        started = time.monotonic()
        try:
            job.table = await table
            frame = await asyncio.to_thread(lambda: snapshot_of(job).to_frame())
            first_step, kept = job.plans[0].first_step if job.plans else 0, live.snapshots_kept()
            for part in parts_of(seq, frame, first_step, kept):
                if live.fence.closed:
                    return  # it is deleted, or loaded again: what memory held of it is not stored any more
                await self.committed(self._store.commit(Transaction(job.spec.name, live.fence, snapshot=[part])))
            live.snapshots = [*(one for one in live.snapshots if one[0] in kept), (seq, first_step)]
            if live.job.kept_from or live.job.spec.keep_epochs is not None:
                await self._remove(live)
        except StoreError as error:
            log.warning("snapshot not written", job=job.spec.name, error=error.detail)
        except Exception as error:  # a bug: the job goes on without, and nobody else would tell
            log.error("snapshot not written", job=job.spec.name, exc_info=error)
        finally:
            live.snapshot = None
            live.snapshot_seconds = time.monotonic() - started

    async def _remove(self, live: LiveJob) -> None:
        """Let a job keep no more than it has to, and remove the rest from the store, a little at a time."""
        async with live.changed:
            if live.fence.closed:
                return
            begins = live.release()
            step = live.job.kept_from
            self.hand_over(live)
            released = live.durable
        if released is not None:
            await self.committed(released)  # what is removed must not be promised any more
        name, removal = live.job.spec.name, Removal(step, begins)
        while not removal.is_done and not live.fence.closed:
            await self.committed(self._store.commit(Transaction(name, live.fence, removal=removal)))
        if begins:
            live.snapshots = [one for one in live.snapshots if one[0] >= begins]
        live.stored = await asyncio.to_thread(self._store.stored_bytes, name)


def unknown(name: str) -> NotFoundError:
    """There is no job of that name."""
    return NotFoundError(f"job {name!r} is not known", field="job", value=name)


class Opened:
    """A job that is open, as `JobRegistry.open` says; for `async with`, once."""

    __slots__ = ("_incarnation", "_jobs", "_known", "_live", "_name")

    def __init__(self, jobs: JobRegistry, name: str, incarnation: str | None) -> None:
        self._jobs, self._name, self._incarnation = jobs, name, incarnation

    async def __aenter__(self) -> LiveJob:
        live = self._live = await self._jobs.live(self._name)
        if live.planning is not None:
            await planned(live)
        await live.changed.__aenter__()
        try:
            if live.fence.closed:
                self._jobs.drop(live)  # a change failed that nobody waited for
                raise StoreError(f"job {self._name!r} is being loaded again, ask once more")
            self._jobs.check_owned(live)
            check_incarnation(live.job, self._incarnation)
        except BaseException:
            await live.changed.__aexit__()
            raise
        self._known = live.durable
        live.used = time.monotonic()
        return live

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        live, is_refused = self._live, isinstance(error, BssError)
        try:
            # A change may be half done, and what is stored is whole; but what is refused leaves the job as it is to be
            # stored, unless its plan is half drawn.
            if error is not None and (not is_refused or isinstance(error, NotReproducibleError | StoppedError)):
                live.pending = None
                self._jobs.drop(live)
            self._jobs.hand_over(live)
            durable, step = live.durable, live.job.served
        finally:
            await live.changed.__aexit__()
        if error is None or is_refused:  # by what somebody else did a moment ago, perhaps
            await self._stored(durable, step)
        if error is None and durable is self._known:
            self._jobs.check_held(live)  # nothing was to be stored, and the answer may tell of what is gone by now

    async def _stored(self, durable: Future[None] | None, step: int) -> None:
        if durable is None:
            return
        try:
            with tracing.span("commit", job=self._name, step=step):
                await self._jobs.committed(durable)
        except StoreError as error:
            log.error("store failed", job=self._name, error=str(error))
            async with self._live.changed:
                self._jobs.drop(self._live)
            raise


async def _end_of(future: Future[None]) -> None:
    """Wait for the end of what a thread has in hand; a client that hangs up must not cancel that."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def tell(_: Future[None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(tell)
    await waiter


async def planned(live: LiveJob) -> None:
    """Wait for the end of a plan that takes long. Raises PlanningError where that does not come soon."""
    planning = live.planning
    if planning is None or planning is asyncio.current_task():
        return
    await asyncio.wait({planning}, timeout=SOON)
    if not planning.done():
        name = live.job.spec.name
        raise PlanningError(f"the next interval of job {name!r} is being drawn: ask again", field=AT_WORK, value=name)
