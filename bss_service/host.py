"""The host owns the live jobs: it loads one, locks it, lets it change, journals the change and only then answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from bss_service import artefact, plans, views
from bss_service.artefact import Artefact, ArtefactError
from bss_service.errors import (
    BssError,
    ConflictError,
    InvalidValueError,
    NotFoundError,
    NotReproducibleError,
    StoreError,
    TooEarlyError,
    TooLargeError,
    UnknownStepError,
)
from bss_service.job import Job
from bss_service.metrics import Metrics
from bss_service.policies.artefact import named
from bss_service.snapshot import (
    Snapshot,
    artefacts_in,
    policies_of,
    restore,
    take_snapshot,
    unpacked,
    with_artefacts,
)
from bss_service.store import Entry, Lease, Store, Stored, Transaction
from bss_service.versions import make_policy
from bss_service.wire import (
    ActionAnswer,
    ActionRequest,
    Batches,
    DecisionLog,
    FeedbackAnswer,
    FeedbackOutcome,
    FeedbackRequest,
    JobList,
    JobSpec,
    JobState,
    LocalBatches,
    LocalBatchesAnswer,
    Message,
    ObservationAnswer,
    PolicyAnswer,
    PolicyList,
    PolicyManifest,
    PolicySpec,
    SampleState,
    Scores,
    ScoresAnswer,
    StepsAnswer,
    StepsRequest,
    SwapRequest,
    ValidationAnswer,
    ValidationReport,
)

log = structlog.get_logger()

THREADED_SAMPLES: Final = 50_000  # from this size on a job is planned in a thread, so that other jobs go on meanwhile
SNAPSHOT_ENTRIES: Final = 4096  # a restart replays at most about so many entries
IDLE_SECONDS: Final = 3600.0  # after which a job may leave memory; it is loaded again when asked for
MAX_EPOCHS: Final = 1000  # in one interval
ANSWER_ROWS: Final = 2**20  # samples in one answer; the client asks again for the rest


@dataclass(slots=True)
class LiveJob:
    """A job in memory, and how far its journal has got."""

    job: Job
    seq: int
    lease: Lease = field(default_factory=Lease)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)  # its lock is the job's lock
    pending: Transaction | None = None  # changes not yet handed to the store
    durable: Future[None] | None = None  # the last changes that were
    asking: int = 0  # requests of rank 0 that are held for the next interval
    used: float = field(default_factory=time.monotonic)  # when it was last asked for
    bytes_since_snapshot: int = 0
    entries_since_snapshot: int = 0


class Host:
    """All jobs of one service. One process only may have a store open."""

    def __init__(self, store: Store, metrics: Metrics, max_samples: int) -> None:
        self._store = store
        self._metrics = metrics
        self._max_samples = max_samples
        self._live: dict[str, LiveJob] = {}
        self._loading = asyncio.Lock()
        self._stopping = False

    async def release(self) -> None:
        """Before a stop: let go of the requests that wait for feedback; whoever asked will ask again."""
        self._stopping = True
        for live in list(self._live.values()):
            async with live.changed:
                live.changed.notify_all()

    # Jobs.

    async def create(self, spec: JobSpec) -> JobState:
        """Create the job, or attach to it if it has the very same spec."""
        self._check_size(spec)
        async with self._loading:
            known = await self._find(spec.name) is not None
        created = not known and await self._create(spec)
        async with self._open(spec.name) as live:
            if not created:
                _check_same(live.job.spec, spec)
            return views.state(live.job, created=created)

    async def jobs(self) -> JobList:
        """All jobs by name."""
        names = await asyncio.to_thread(self._store.job_names)
        answer = JobList(jobs=[])
        for name in names:
            try:
                state = await (self.state(name) if name in self._live else self._stored_state(name))
            except BssError as error:  # one job that can't be read must not hide the others
                answer.unreadable[name] = error.detail
            else:
                answer.jobs += [state] if state is not None else []
        return answer

    async def state(self, name: str) -> JobState:
        """Where a job is."""
        async with self._open(name) as live:
            return views.state(live.job)

    async def delete(self, name: str) -> None:
        """Forget a job and all that is stored of it."""
        async with self._loading:
            live = self._live.get(name)  # not loaded for this: a job that can't be read can be deleted
            if live is None and not await asyncio.to_thread(self._store.has, name):
                raise _unknown(name)
            if live is not None:
                async with live.changed:
                    self._drop(name, live)
            await _committed(self._store.commit(Transaction(name, Lease(), deleted=True)))
        log.info("job deleted", job=name)

    # The training loop.

    async def steps(self, name: str, request: StepsRequest) -> StepsAnswer:
        """Count feedback and hand out batches; waits for the feedback that the next interval needs."""
        outcomes: list[FeedbackOutcome] = []
        async with self._open(name) as live:
            live.job.check_start(request.start)
            if request.feedback is not None:
                outcomes = self._count(
                    live,
                    FeedbackRequest(rank=request.rank, world_size=request.world_size, feedback=request.feedback),
                )
            if request.start >= live.job.planned_until:
                self._hand_over(live)  # others may change the job while this call waits
                await self._wait_for_turn(live, request)
                live.job.check_start(request.start)  # a client's own batches may have led back to before it
            if request.start >= live.job.planned_until:
                await self._plan(live)
            batches = await self._serve(live, request.start, request.count)
        return StepsAnswer(feedback=outcomes, batches=batches)

    async def batches(self, name: str, start: int, count: int) -> Batches:
        """Batches that were handed out before."""
        async with self._open(name) as live:
            if start + count > live.job.served:
                raise UnknownStepError(
                    f"step {start + count - 1} has not been handed out: the next is step {live.job.served}",
                    field="count",
                    value=count,
                )
            return await self._serve(live, start, count)

    async def feedback(self, name: str, request: FeedbackRequest) -> FeedbackAnswer:
        """Count feedback."""
        async with self._open(name) as live:
            return FeedbackAnswer(feedback=self._count(live, request))

    async def validate(self, name: str, report: ValidationReport) -> ValidationAnswer:
        """Take in a validation report."""
        async with self._open(name) as live:
            answer = live.job.validate(report)
            if answer.outcome == "applied":
                self._record(live, "validation", report)
            return answer

    async def measure(self, name: str, scores: Scores) -> ScoresAnswer:
        """Take in a part of a measuring pass."""
        async with self._open(name) as live:
            live.job.measure(scores)
            self._record(live, "scores", scores)
            return ScoresAnswer(accepted=len(scores.indices))

    async def adopt(self, name: str, local: LocalBatches) -> LocalBatchesAnswer:
        """Put batches on record that a client drew by itself."""
        async with self._open(name) as live:
            if not live.job.adopt(local):
                return LocalBatchesAnswer(outcome="repeated")
            transaction = self._record(live, "local", local)
            transaction.undrawn = local.start
            transaction.plans = [live.job.plans[-1]]
            log.warning("batches drawn by a client", job=name, start=local.start, steps=len(local.indices))
            return LocalBatchesAnswer(outcome="applied")

    # The policy.

    async def policy(self, name: str) -> PolicyAnswer:
        """The policy that draws the next step to be handed out."""
        async with self._open(name) as live:
            return live.job.versions.in_force(live.job.served).answer()

    async def swap(self, name: str, request: SwapRequest) -> PolicyAnswer:
        """Change the policy."""
        artefacts = await self._artefacts([request.policy])  # slow, and they never change: not under the job's lock
        async with self._open(name) as live:
            planned_until = live.job.planned_until
            answer = live.job.swap(request, artefacts)
            if answer.changed:
                transaction = self._record(live, "swap", request)
                if live.job.planned_until < planned_until:
                    transaction.undrawn = live.job.planned_until
                said = "shadow put" if request.shadow else "policy swapped"
                log.info(said, job=name, policy=request.policy.name, version=answer.policy_version)
            return answer

    async def end_shadow(self, name: str) -> None:
        """Let no policy watch a job any more."""
        async with self._open(name) as live:
            live.job.end_shadow()
            self._record(live, "end_shadow", {})
            log.info("shadow ended", job=name)

    async def observation(self, name: str, wait: float) -> ObservationAnswer:
        """What the policy sees that draws the next interval; waits at most so long for an action to be awaited."""
        async with self._open(name) as live:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    while not (live.asking and live.job.awaits_action()):
                        await self._change(live)
            threaded = live.job.spec.samples >= THREADED_SAMPLES
            look = partial(views.observation, live.job, trainer_waiting=live.asking > 0)
            answer = await asyncio.to_thread(look) if threaded else look()
        return await asyncio.to_thread(answer) if threaded else answer()

    async def act(self, name: str, request: ActionRequest) -> ActionAnswer:
        """Take in an action from outside."""
        async with self._open(name) as live:
            answer = live.job.act(request)
            if answer.outcome != "repeated":
                self._record(live, "action", request)
            return answer

    async def decisions(self, name: str, start: int, count: int) -> DecisionLog:
        """A part of the decision log."""
        async with self._open(name) as live:
            return views.decisions(live.job, start, count)

    async def sample(self, name: str, index: int, draws: int) -> SampleState:
        """Why a sample is drawn as it is."""
        async with self._open(name) as live:
            if index >= live.job.spec.samples:
                raise NotFoundError(
                    f"sample must be less than samples = {live.job.spec.samples}, got {index}", field="i", value=index
                )
            told, served = views.sample(live.job, index), live.job.served
        found = await asyncio.to_thread(self._draws, name, served, index, draws)
        return told.model_copy(update={"draws": views.draws(found)})

    # Artefacts.

    async def policies(self) -> PolicyList:
        """Installed policies and artefacts."""
        installed = await asyncio.to_thread(views.policies)
        return PolicyList(policies=installed, artefacts=await asyncio.to_thread(self._store.manifests))

    async def upload(self, data: bytes) -> tuple[PolicyManifest, bool]:
        """Store an artefact; what it is, and whether it is new."""
        uploaded = await asyncio.to_thread(artefact.read, data)
        new = await asyncio.to_thread(self._store.manifest, uploaded.sha256) is None
        if new:
            await _committed(self._store.commit(Transaction("", Lease(), artefacts=[uploaded])))
            log.info("artefact stored", name=uploaded.manifest.name, sha256=uploaded.sha256)
        return uploaded.manifest, new

    async def manifest(self, sha256: str) -> PolicyManifest:
        """What an artefact is."""
        found = await asyncio.to_thread(self._store.manifest, sha256)
        if found is None:
            raise _unknown_artefact(sha256)
        return found

    async def artefact_bytes(self, sha256: str) -> bytes:
        """An artefact as it was uploaded."""
        found = await asyncio.to_thread(self._store.artefact_bytes, sha256)
        if found is None:
            raise _unknown_artefact(sha256)
        return found

    # Snapshots.

    async def snapshot(self, name: str) -> bytes:
        """The portable state of a job, as a frame."""
        async with self._open(name) as live:
            taken = with_artefacts(take_snapshot(live.job), live.job.artefacts)
        return await asyncio.to_thread(taken.to_frame)

    async def put_snapshot(self, name: str, snapshot: Snapshot) -> JobState:
        """Create a job from a snapshot, under this name."""
        self._check_size(snapshot.spec)
        carried = await asyncio.to_thread(artefacts_in, snapshot)
        spec = snapshot.spec.model_copy(update={"name": name})
        renamed = snapshot.model_copy(update={"spec": spec, "artefacts": {}})
        known = await self._readable(policies_of(snapshot))
        try:
            job = await asyncio.to_thread(restore, renamed, {**known, **carried})
        except NotReproducibleError as error:
            raise InvalidValueError(str(error), field="decisions") from None
        async with self._loading:
            if await self._find(name) is not None:
                raise ConflictError(f"job {name!r} exists already", field="job", value=name)
            body = await asyncio.to_thread(renamed.to_frame)
            transaction = Transaction(name, Lease(), created=renamed.spec, plans=list(job.plans), snapshot=(0, body))
            transaction.artefacts = list(carried.values())
            await self._put(job, transaction)
        return await self.state(name)

    # Inside.

    @asynccontextmanager
    async def _open(self, name: str) -> AsyncIterator[LiveJob]:
        """The job under its lock; on the way out, wait until all that the answer may tell of is stored."""
        live = self._live.get(name)
        if live is None:
            async with self._loading:
                live = await self._find(name)
        if live is None:
            raise _unknown(name)
        async with live.changed:
            if live.lease.broken:
                raise StoreError(f"job {name!r} is being loaded again, ask once more")
            live.used = time.monotonic()
            try:
                yield live
            except BssError as error:
                if isinstance(error, NotReproducibleError):
                    self._drop(name, live)
                raise  # all others are raised before anything changes
            except BaseException:
                live.pending = None  # a change may be half done: what is stored is whole
                self._drop(name, live)
                raise
            finally:
                self._hand_over(live)
            durable = live.durable
        if durable is not None:
            try:
                await _committed(durable)
            except StoreError as error:
                log.error("store failed", job=name, error=str(error))
                async with live.changed:
                    self._drop(name, live)
                raise

    def _drop(self, name: str, live: LiveJob) -> None:
        """Forget what memory holds of a job, whose lock the caller has; the next request loads what is stored."""
        live.lease.broken = True
        live.changed.notify_all()
        if self._live.get(name) is live:
            del self._live[name]

    async def _stored_state(self, name: str) -> JobState | None:
        """Where a job is that nobody uses now: looked at, but not kept in memory."""
        stored = await asyncio.to_thread(self._store.load, name)
        if stored is None:  # deleted meanwhile
            return None
        job, _ = await self._load(stored)
        return views.state(job)

    async def _find(self, name: str) -> LiveJob | None:
        """The live job, loaded if need be; the caller holds `_loading`."""
        if name not in self._live:
            stored = await asyncio.to_thread(self._store.load, name)
            if stored is None:
                return None
            job, seq = await self._load(stored)
            self._keep(LiveJob(job, seq, entries_since_snapshot=len(stored.entries)))
            log.info("job loaded", job=name, replayed=len(stored.entries), next_step=job.served)
        return self._live[name]

    async def _load(self, stored: Stored) -> tuple[Job, int]:
        """A job from its snapshot and the journal entries after it."""
        snapshot = None
        if stored.snapshot is not None:
            snapshot = await asyncio.to_thread(Snapshot.from_frame, stored.snapshot)
        known = await self._readable(_policies_of(stored, snapshot))
        return await asyncio.to_thread(_replayed, stored, snapshot, known)

    async def _artefacts(self, policies: Iterable[PolicySpec]) -> dict[str, Artefact]:
        """The stored artefacts among those that policies name; of the others their parameters are wrong."""
        found = [await asyncio.to_thread(self._store.artefact, sha256) for sha256 in named(policies)]
        return {known.sha256: known for known in found if known is not None}

    async def _readable(self, policies: Iterable[PolicySpec]) -> dict[str, Artefact]:
        """The same without those that don't fit the code any more: a job may have named them long ago."""
        readable: dict[str, Artefact] = {}
        for sha256 in named(policies):
            try:
                found = await asyncio.to_thread(self._store.artefact, sha256)
            except ArtefactError as error:
                log.warning("artefact left out", sha256=sha256, error=error.detail)
            else:
                readable |= {} if found is None else {sha256: found}
        return readable

    async def _create(self, spec: JobSpec) -> bool:
        """Create a job, unless somebody else has meanwhile."""
        job = await asyncio.to_thread(_new, spec, await self._artefacts([spec.policy]))
        async with self._loading:
            if await self._find(spec.name) is not None:
                return False
            await self._put(job, Transaction(spec.name, Lease(), created=spec))
        return True

    async def _put(self, job: Job, transaction: Transaction) -> None:
        await _committed(self._store.commit(transaction))
        self._keep(LiveJob(job, seq=0))
        log.info("job created", job=job.spec.name, samples=job.spec.samples, policy=job.spec.policy.name)

    def _check_interval(self, spec: JobSpec) -> None:
        rows = min(max(self._max_samples, spec.samples), MAX_EPOCHS * spec.samples)
        if (spec.interval or 0) * spec.batch_size > rows:
            raise TooLargeError(
                f"interval must be at most {rows // spec.batch_size} steps of {spec.batch_size} samples, "
                f"got {spec.interval}",
                field="interval",
                value=spec.interval,
            )

    def _keep(self, live: LiveJob) -> None:
        """Keep a job in memory, and let go of those that nobody has asked for in a long time."""
        now = time.monotonic()
        for name, other in list(self._live.items()):
            if now - other.used > IDLE_SECONDS and not other.changed.locked():
                other.lease.broken = True
                del self._live[name]
        self._live[live.job.spec.name] = live
        self._metrics.live_jobs.set(len(self._live))

    def _check_size(self, spec: JobSpec) -> None:
        if spec.samples * (len(spec.modalities) + 8) > self._max_samples * 10:  # columns of the table; 10 for two
            raise TooLargeError(
                f"samples must be at most {self._max_samples * 10 // (len(spec.modalities) + 8)} with "
                f"{len(spec.modalities)} modalities (setting max_samples), got {spec.samples}",
                field="samples",
                value=spec.samples,
            )
        self._check_interval(spec)

    async def _wait_for_turn(self, live: LiveJob, request: StepsRequest) -> None:
        """Wait until the interval can be planned with the feedback that belongs to it, at most `patience` seconds.

        Rank 0 leads: it alone validates, and asks for the next interval only after it has reported. Another rank's
        request never draws one, or a validation longer than `patience` would be left out of the plan.
        """
        job = live.job
        started = asyncio.get_running_loop().time()
        leads = request.rank == 0
        live.asking += leads
        live.changed.notify_all()  # whoever waits to act on what the trainer has told by now
        try:
            async with asyncio.timeout(job.spec.patience):
                while request.start >= job.planned_until and not (leads and job.is_ready(request.start)):
                    await self._change(live)
        except TimeoutError:
            if request.start >= job.planned_until and request.rank != 0:
                raise TooEarlyError(
                    f"step {request.start} begins an interval that rank 0 has not asked for yet",
                    field="start",
                    value=request.start,
                ) from None
            if request.start >= job.planned_until:
                log.warning(
                    "patience ran out: planned without all that belongs to it",
                    job=job.spec.name,
                    step=request.start,
                    rank=request.rank,
                    missing_from=job.ledger.first_missing,
                    awaits_action=job.awaits_action(),
                )
                self._metrics.impatient_plans.inc()
        finally:
            live.asking -= leads
        self._metrics.hold_seconds.observe(asyncio.get_running_loop().time() - started)

    async def _change(self, live: LiveJob) -> None:
        """Wait until something of the job has changed."""
        if not self._stopping:
            await live.changed.wait()
        if live.lease.broken or self._stopping:
            raise StoreError(f"job {live.job.spec.name!r} is not held by this process any more, ask again")

    async def _plan(self, live: LiveJob) -> None:
        with self._metrics.plan_seconds.time():
            if live.job.spec.samples < THREADED_SAMPLES:
                plan = live.job.plan()
            else:
                plan = await asyncio.to_thread(live.job.plan)
        self._tell_failures(live.job)
        transaction = self._record(live, "plan", {"first_step": plan.first_step, "checksum": plan.checksum()})
        transaction.plans = [plan]
        live.bytes_since_snapshot += plan.indices.nbytes
        if self._snapshot_is_due(live):
            taken = take_snapshot(live.job)
            transaction.snapshot = (live.seq, await asyncio.to_thread(taken.to_frame))
            live.bytes_since_snapshot = live.entries_since_snapshot = 0

    def _tell_failures(self, job: Job) -> None:
        decision = job.history.decisions[-1]
        if decision.choice.failed:
            log.error("policy failed, shuffled uniformly", job=job.spec.name, error=decision.choice.detail["error"])
            self._metrics.policy_failures.inc()
        if decision.shadow is not None and decision.shadow.choice.failed:
            log.warning("shadow failed", job=job.spec.name, error=decision.shadow.choice.detail["error"])
            self._metrics.shadow_failures.inc()

    def _snapshot_is_due(self, live: LiveJob) -> bool:
        table_bytes = sum(column.nbytes for column in live.job.table.columns().values())
        return live.entries_since_snapshot > SNAPSHOT_ENTRIES or live.bytes_since_snapshot > max(2**20, table_bytes)

    async def _serve(self, live: LiveJob, start: int, count: int) -> Batches:
        job = live.job
        count = min(count, max(1, ANSWER_ROWS // job.spec.batch_size))
        if not job.holds(start):
            stop = min(start + count, job.served)
            found = await asyncio.to_thread(self._store.plans, job.spec.name, start, stop)
            if not found or found[0].first_step > start:
                raise NotFoundError(
                    f"step {start} was handed out by another service before this job's snapshot was put here",
                    field="start",
                    value=start,
                )
            return plans.batches(found, job.calendar, start, stop)
        served = job.served
        answer = job.serve(start, count)
        if job.served > served:
            self._record(live, "serve", {"until": job.served})
            self._metrics.batches.inc(job.served - served)
        return answer

    def _count(self, live: LiveJob, request: FeedbackRequest) -> list[FeedbackOutcome]:
        outcomes = live.job.feedback(request)
        if any(outcome != "repeated" for outcome in outcomes):
            self._record(live, "feedback", request)
        for outcome in outcomes:
            self._metrics.feedback.labels(outcome).inc()
        return outcomes

    def _record(self, live: LiveJob, kind: str, message: Message | Mapping[str, Any]) -> Transaction:
        """Journal a change that has happened; returns the transaction that it is part of."""
        live.seq += 1
        entry = Entry.of(live.seq, kind, message.model_dump() if isinstance(message, Message) else message)
        live.bytes_since_snapshot += len(entry.body)
        live.entries_since_snapshot += 1
        if live.pending is None:
            live.pending = Transaction(live.job.spec.name, live.lease)
        live.pending.entries.append(entry)
        return live.pending

    def _hand_over(self, live: LiveJob) -> None:
        """Hand the changes to the store, in their order, and wake up whoever waits for one."""
        if live.pending is not None:
            live.durable = self._store.commit(live.pending)
            live.pending = None
            live.changed.notify_all()

    def _draws(self, name: str, served: int, index: int, limit: int) -> list[tuple[int, float, int]]:
        """The latest draws of a sample before a step as (step, probability, policy version), newest first."""
        found: list[tuple[int, float, int]] = []
        end = served
        for first in self._store.plans_before(name, served):
            for plan in self._store.plans(name, first, first + 1):
                found += plan.cut(min(end, plan.end_step)).draws_of(index)
            if len(found) >= limit:
                break
            end = first
        return found[:limit]


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"job {name!r} is not known", field="job", value=name)


def _unknown_artefact(sha256: str) -> NotFoundError:
    return NotFoundError(f"artefact {sha256!r} is not known", field="sha256", value=sha256)


def _policies_of(stored: Stored, snapshot: Snapshot | None) -> list[PolicySpec]:
    """All policies that a job had, or may need when it is replayed."""
    before = [stored.spec.policy] if snapshot is None else policies_of(snapshot)
    swaps = [SwapRequest.model_validate(entry.message()) for entry in stored.entries if entry.kind == "swap"]
    return [*before, *(swap.policy for swap in swaps)]


def _new(spec: JobSpec, artefacts: Mapping[str, Artefact]) -> Job:
    make_policy(spec.policy, artefacts)  # a wrong one is refused here
    return Job(spec, artefacts)


def _replayed(stored: Stored, snapshot: Snapshot | None, known: Mapping[str, Artefact]) -> tuple[Job, int]:
    job = Job(stored.spec, known) if snapshot is None else unpacked(snapshot, known)
    for entry in stored.entries:
        job.replay(entry.kind, entry.message())
    job.restore_policy()
    return job, stored.entries[-1].seq if stored.entries else stored.seq


def _check_same(known: JobSpec, asked: JobSpec) -> None:
    for name in JobSpec.model_fields:
        if getattr(known, name) != getattr(asked, name):
            raise ConflictError(
                f"{name} of job {known.name!r} is {_shown(getattr(known, name))}, got {_shown(getattr(asked, name))}",
                field=name,
                value=_shown(getattr(asked, name)),
            )


def _shown(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Message) else value


async def _committed(future: Future[None]) -> None:
    # Shielded: a client that hangs up must not cancel what the writer has in hand.
    await asyncio.shield(asyncio.wrap_future(future))
