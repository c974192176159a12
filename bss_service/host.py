"""The host does what requests ask for: it opens a job, lets it change, has that journaled and only then answers."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog

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
from bss_service.job import plans, views
from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, artefacts_in, policies_of, restore, take_snapshot, with_artefacts
from bss_service.journal.records import Lease, Transaction, parts_of
from bss_service.journal.store import DamagedPlanError, Store
from bss_service.metrics import Metrics
from bss_service.policies import artefact
from bss_service.policies.artefact import Artefact
from bss_service.policies.versions import make_policy
from bss_service.protocol import (
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
    SampleState,
    Scores,
    ScoresAnswer,
    StepsAnswer,
    StepsRequest,
    SwapRequest,
    ValidationAnswer,
    ValidationReport,
)
from bss_service.registry import LiveJob, LiveJobs

log = structlog.get_logger()

THREADED_SAMPLES: Final = 50_000  # from this size on a job is planned in a thread, so that other jobs go on meanwhile
MAX_EPOCHS: Final = 1000  # in one interval
ANSWER_ROWS: Final = 2**20  # samples in one answer; the client asks again for the rest


class Host:
    """All jobs of one service. One process only may have a store open."""

    def __init__(self, store: Store, metrics: Metrics, max_samples: int) -> None:
        self._store = store
        self._metrics = metrics
        self._max_samples = max_samples
        self._jobs = LiveJobs(store, metrics)
        self._loader = self._jobs.loader
        self._stopping = False

    async def release(self) -> None:
        """Before a stop: let go of the requests that wait for feedback; whoever asked will ask again."""
        self._stopping = True
        for live in self._jobs.all():
            async with live.changed:
                live.changed.notify_all()

    async def close(self) -> None:
        """After a stop."""
        await self._jobs.close()

    # Jobs.

    async def create(self, spec: JobSpec) -> JobState:
        """Create the job, or attach to it if it has the very same spec."""
        self._check_size(spec)
        async with self._jobs.loading(spec.name):
            known = await self._jobs.find(spec.name) is not None
        created = not known and await self._create(spec)
        async with self._jobs.open(spec.name) as live:
            if not created:
                _check_same(live.job.spec, spec)
            return views.state(live.job, created=created)

    async def jobs(self) -> JobList:
        """All jobs by name."""
        names = await asyncio.to_thread(self._store.job_names)
        answer = JobList(jobs=[])
        for name in names:
            try:
                state = await self._jobs.state(name)
            except BssError as error:  # one job that can't be read must not hide the others
                answer.unreadable[name] = error.detail
            else:
                answer.jobs += [state] if state is not None else []
        return answer

    async def state(self, name: str) -> JobState:
        """Where a job is."""
        async with self._jobs.open(name) as live:
            return views.state(live.job)

    async def delete(self, name: str) -> None:
        """Forget a job and all that is stored of it."""
        async with self._jobs.loading(name):
            await self._jobs.delete(name)
        log.info("job deleted", job=name)

    # The training loop.

    async def steps(self, name: str, request: StepsRequest) -> StepsAnswer:
        """Count feedback and hand out batches; waits for the feedback that the next interval needs."""
        outcomes: list[FeedbackOutcome] = []
        async with self._jobs.open(name) as live:
            live.job.check_start(request.start)
            if request.feedback is not None:
                outcomes = self._count(
                    live,
                    FeedbackRequest(rank=request.rank, world_size=request.world_size, feedback=request.feedback),
                )
            if request.start >= live.job.planned_until:
                self._jobs.hand_over(live)  # others may change the job while this call waits
                await self._wait_for_turn(live, request)
                live.job.check_start(request.start)  # a client's own batches may have led back to before it
            if request.start >= live.job.planned_until:
                await self._plan(live)
            batches = await self._serve(live, request.start, request.count)
        return StepsAnswer(feedback=outcomes, batches=batches)

    async def batches(self, name: str, start: int, count: int) -> Batches:
        """Batches that were handed out before."""
        async with self._jobs.open(name) as live:
            if start + count > live.job.served:
                raise UnknownStepError(
                    f"step {start + count - 1} has not been handed out: the next is step {live.job.served}",
                    field="count",
                    value=count,
                )
            return await self._serve(live, start, count)

    async def feedback(self, name: str, request: FeedbackRequest) -> FeedbackAnswer:
        """Count feedback."""
        async with self._jobs.open(name) as live:
            return FeedbackAnswer(feedback=self._count(live, request))

    async def validate(self, name: str, report: ValidationReport) -> ValidationAnswer:
        """Take in a validation report."""
        async with self._jobs.open(name) as live:
            answer = live.job.validate(report)
            if answer.outcome == "applied":
                live.record("validation", report)
            return answer

    async def measure(self, name: str, scores: Scores) -> ScoresAnswer:
        """Take in a part of a measuring pass."""
        async with self._jobs.open(name) as live:
            live.job.measure(scores)
            live.record("scores", scores)
            return ScoresAnswer(accepted=len(scores.indices))

    async def adopt(self, name: str, local: LocalBatches) -> LocalBatchesAnswer:
        """Put batches on record that a client drew by itself."""
        async with self._jobs.open(name) as live:
            if not live.job.adopt(local):
                return LocalBatchesAnswer(outcome="repeated")
            transaction = live.record("local", local)
            transaction.undrawn = local.start
            transaction.plans += live.job.plans[-2:]  # the one before may have been cut
            log.warning("batches drawn by a client", job=name, start=local.start, steps=len(local.indices))
            return LocalBatchesAnswer(outcome="applied")

    # The policy.

    async def policy(self, name: str) -> PolicyAnswer:
        """The policy that draws the next step to be handed out."""
        async with self._jobs.open(name) as live:
            return live.job.versions.in_force(live.job.served).answer()

    async def swap(self, name: str, request: SwapRequest) -> PolicyAnswer:
        """Change the policy."""
        artefacts = await self._loader.artefacts([request.policy])  # slow: not under the job's lock
        async with self._jobs.open(name) as live:
            planned_until = live.job.planned_until
            answer = live.job.swap(request, artefacts)
            if answer.changed:
                told = answer.model_dump(include={"policy_version", "first_step"})
                transaction = live.record("swap", {**request.model_dump(), "answer": told})
                if live.job.planned_until < planned_until:
                    transaction.undrawn = live.job.planned_until
                    transaction.plans += live.job.plans[-1:]  # it may have been cut
                said = "shadow put" if request.shadow else "policy swapped"
                log.info(said, job=name, policy=request.policy.name, version=answer.policy_version)
            return answer

    async def end_shadow(self, name: str) -> None:
        """Let no policy watch a job any more."""
        async with self._jobs.open(name) as live:
            live.job.end_shadow()
            live.record("end_shadow", {})
            log.info("shadow ended", job=name)

    async def observation(self, name: str, wait: float) -> ObservationAnswer:
        """What the policy sees that draws the next interval; waits at most so long for an action to be awaited."""
        async with self._jobs.open(name) as live:
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
        async with self._jobs.open(name) as live:
            answer = live.job.act(request)
            if answer.outcome != "repeated":
                live.record("action", request)
            return answer

    async def decisions(self, name: str, start: int, count: int) -> DecisionLog:
        """A part of the decision log."""
        async with self._jobs.open(name) as live:
            return views.decisions(live.job, start, count)

    async def sample(self, name: str, index: int, draws: int) -> SampleState:
        """Why a sample is drawn as it is."""
        async with self._jobs.open(name) as live:
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
            await self._jobs.committed(self._store.commit(Transaction("", Lease(), artefacts=[uploaded])))
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
        async with self._jobs.open(name) as live:
            taken = with_artefacts(await asyncio.to_thread(take_snapshot, live.job), live.job.artefacts)
        return await asyncio.to_thread(taken.to_frame)

    async def put_snapshot(self, name: str, snapshot: Snapshot) -> JobState:
        """Create a job from a snapshot, under this name."""
        self._check_size(snapshot.spec)
        carried = await asyncio.to_thread(artefacts_in, snapshot)
        spec = snapshot.spec.model_copy(update={"name": name})
        renamed = snapshot.model_copy(update={"spec": spec, "artefacts": {}})
        known = await self._loader.readable(policies_of(snapshot))
        try:
            job = await asyncio.to_thread(restore, renamed, {**known, **carried})
        except NotReproducibleError as error:
            raise InvalidValueError(str(error), field="decisions") from None
        async with self._jobs.loading(name):
            if await self._jobs.find(name) is not None:
                raise ConflictError(f"job {name!r} exists already", field="job", value=name)
            transaction = Transaction(name, Lease(), created=renamed.spec, plans=list(job.plans))
            transaction.snapshot = list(parts_of(0, await asyncio.to_thread(renamed.to_frame)))
            transaction.artefacts = list(carried.values())
            await self._jobs.put(job, transaction)
        return await self.state(name)

    # Inside.

    async def _create(self, spec: JobSpec) -> bool:
        """Create a job, unless somebody else has meanwhile."""
        job = await asyncio.to_thread(_new, spec, await self._loader.artefacts([spec.policy]))
        async with self._jobs.loading(spec.name):
            if await self._jobs.find(spec.name) is not None:
                return False
            await self._jobs.put(job, Transaction(spec.name, Lease(), created=spec))
        return True

    def _check_size(self, spec: JobSpec) -> None:
        if spec.samples * (len(spec.modalities) + 8) > self._max_samples * 10:  # columns of the table; 10 for two
            raise TooLargeError(
                f"samples must be at most {self._max_samples * 10 // (len(spec.modalities) + 8)} with "
                f"{len(spec.modalities)} modalities (setting max_samples), got {spec.samples}",
                field="samples",
                value=spec.samples,
            )
        self._check_interval(spec)

    def _check_interval(self, spec: JobSpec) -> None:
        rows = min(max(self._max_samples, spec.samples), MAX_EPOCHS * spec.samples)
        if (spec.interval or 0) * spec.batch_size > rows:
            raise TooLargeError(
                f"interval must be at most {rows // spec.batch_size} steps of {spec.batch_size} samples, "
                f"got {spec.interval}",
                field="interval",
                value=spec.interval,
            )

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
        if live.table_read is not None:
            await asyncio.wait([live.table_read])  # planning changes the table
        started = time.monotonic()
        with self._metrics.plan_seconds.time():
            if live.job.spec.samples < THREADED_SAMPLES:
                plan = live.job.plan()
            else:
                plan = await asyncio.to_thread(live.job.plan)
        self._tell_failures(live.job)
        transaction = live.record("plan", {"first_step": plan.first_step, "checksum": plan.checksum()})
        transaction.plans.append(plan)
        live.bytes_since_snapshot += plan.indices.nbytes
        live.planning_since_snapshot += time.monotonic() - started

    def _tell_failures(self, job: Job) -> None:
        decision = job.history.decisions[-1]
        if decision.choice.failed:
            log.error("policy failed, shuffled uniformly", job=job.spec.name, error=decision.choice.detail["error"])
            self._metrics.policy_failures.inc()
        if decision.shadow is not None and decision.shadow.choice.failed:
            log.warning("shadow failed", job=job.spec.name, error=decision.shadow.choice.detail["error"])
            self._metrics.shadow_failures.inc()

    async def _serve(self, live: LiveJob, start: int, count: int) -> Batches:
        job = live.job
        count = min(count, max(1, ANSWER_ROWS // job.spec.batch_size))
        if not job.holds(start):
            stop = min(start + count, job.served)
            return plans.batches(await self._stored_plans(live, start, stop), job.calendar, start, stop)
        served = job.served
        answer = job.serve(start, count)
        if job.served > served:
            live.record("serve", {"until": job.served})
            self._metrics.batches.inc(job.served - served)
        return answer

    async def _stored_plans(self, live: LiveJob, start: int, stop: int) -> list[plans.Plan]:
        """The plans of steps that are not in memory any more, those that are damaged drawn once more."""
        name = live.job.spec.name
        redrawn = -1
        while True:
            try:
                return await asyncio.to_thread(self._store.plans, name, start, stop)
            except DamagedPlanError as error:
                if error.step <= redrawn:
                    raise
                redrawn = error.step
                await self._loader.redraw(name, live.lease, error.step)

    def _count(self, live: LiveJob, request: FeedbackRequest) -> list[FeedbackOutcome]:
        outcomes = live.job.feedback(request)
        if any(outcome != "repeated" for outcome in outcomes):
            live.record("feedback", request)
        for outcome in outcomes:
            self._metrics.feedback.labels(outcome).inc()
        return outcomes

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


def _unknown_artefact(sha256: str) -> NotFoundError:
    return NotFoundError(f"artefact {sha256!r} is not known", field="sha256", value=sha256)


def _new(spec: JobSpec, artefacts: Mapping[str, Artefact]) -> Job:
    make_policy(spec.policy, artefacts)  # a wrong one is refused here
    return Job(spec, artefacts)


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
