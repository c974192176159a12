"""The host does what requests ask for: it opens a job, lets it change, has that journaled and only then answers."""

import asyncio
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog

from bss_service.core.evidence.posterior import Evidence
from bss_service.core.samples.table import SampleTable
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
from bss_service.job import plans, summaries, views
from bss_service.job.checks import rank_rows
from bss_service.job.events import (
    ActionSet,
    FeedbackReceived,
    JobChanged,
    LocalBatchesAdopted,
    PlanDrawn,
    PolicySwapped,
    ScoresReceived,
    ShadowEnded,
    StepsServed,
    TrainerAttached,
    ValidationReported,
)
from bss_service.job.job import Job
from bss_service.job.places import check_holder, check_place
from bss_service.job.snapshot import Snapshot, artefacts_in, policies_of, restore, take_snapshot, with_artefacts
from bss_service.job.summaries import Summary
from bss_service.journal.descriptions import Description, png
from bss_service.journal.store import DamagedPlanError, Store
from bss_service.journal.transaction import Transaction, parts_of
from bss_service.metrics import Metrics
from bss_service.policies import artefact
from bss_service.policies.artefact import Artefacts
from bss_service.policies.versions import check_policy
from bss_service.protocol.actions import ActionAnswer, ActionRequest, ObservationAnswer
from bss_service.protocol.artefacts import ArtefactManifest, JudgeManifest, PolicyManifest
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import JobChange, JobList, JobSpec, JobState, SeriesOf
from bss_service.protocol.message import Message
from bss_service.protocol.policies import PolicyAnswer, PolicyList, SwapRequest
from bss_service.protocol.samples import DescriptionList, DrawRow, Order, SampleDescriptions, SampleList, SampleState
from bss_service.protocol.training import (
    PLACE_SECONDS,
    AttachAnswer,
    AttachRequest,
    Batches,
    Feedback,
    FeedbackAnswer,
    FeedbackRequest,
    LocalBatches,
    LocalBatchesAnswer,
    Ranked,
    Scores,
    ScoresAnswer,
    StepsAnswer,
    StepsRequest,
    Trainer,
)
from bss_service.protocol.validation import ValidationAnswer, ValidationReport
from bss_service.registry import JobRegistry, LiveJob

log = structlog.get_logger()

THREADED_SAMPLES: Final = 50_000  # from this size on a job is planned in a thread, so that other jobs go on meanwhile
THREADED_EVIDENCE: Final = 2_000  # of jobs whose evidence is read then: about 2 µs a sample
MAX_EPOCHS: Final = 1000  # in one interval
USUAL_BYTES: Final = 40  # of a sample in the table, with the paper's signals of two modalities
ANSWER_ROWS: Final = 2**20  # samples in one answer; the client asks again for the rest


class Host:
    """All jobs of one service. One process only may have a store open."""

    def __init__(self, store: Store, metrics: Metrics, max_samples: int) -> None:
        self._store = store
        self._metrics = metrics
        self._max_samples = max_samples
        self._jobs = JobRegistry(store, metrics)
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
        """Create the job, or attach to it if it has the same spec, but for what may change."""
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
        silences = {live.job.spec.name: live.pace.silence() for live in self._jobs.all()}
        answer.heard = {name: round(seconds, 1) for name, seconds in silences.items() if seconds is not None}
        return answer

    async def state(self, name: str) -> JobState:
        """Where a job is."""
        async with self._jobs.open(name) as live:
            return views.state(live.job)

    async def change(self, name: str, change: JobChange) -> JobState:
        """Change what may be changed of a job."""
        async with self._jobs.open(name) as live:
            live.apply(JobChanged(change))
            return views.state(live.job)

    async def delete(self, name: str) -> None:
        """Forget a job and all that is stored of it."""
        async with self._jobs.loading(name):
            await self._jobs.delete(name)
        log.info("job deleted", job=name)

    # The training loop.

    async def attach(self, name: str, request: AttachRequest) -> AttachAnswer:
        """Give a trainer the place of its rank, or let it keep that."""
        async with self._jobs.open(name) as live:
            rank_rows(live.job.spec, request.rank, request.world_size)
            is_first = check_place(live.job, request, live.silences(), PLACE_SECONDS)
            asking = request.model_dump(include=set(Trainer.model_fields)) | {"left": False}
            live.apply(TrainerAttached(Trainer(**asking)))
            live.hear(request.client)
            ledger = live.job.ledger
            if is_first or live.joined is None:
                live.joined = AttachAnswer(
                    next_step=live.job.served,
                    steps_fed_back=int(ledger.complete.sum()),
                    fed_back_until=ledger.first_missing,
                )
            return live.joined

    async def detach(self, name: str, client: str) -> None:
        """A trainer gives up its place: whoever comes next need not wait for it."""
        async with self._jobs.open(name) as live:
            for held in live.job.trainers.values():
                if held.client == client:
                    live.apply(TrainerAttached(held.model_copy(update={"left": True})))
                    break

    async def steps(self, name: str, request: StepsRequest) -> StepsAnswer:
        """Count feedback and hand out batches; waits for the feedback that the next interval needs."""
        async with self._jobs.open(name) as live:
            check_holder(live.job, request.rank, request.client)
            live.hear(request.client, held=live.job.spec.patience)
            live.job.check_start(request.start)
            outcomes = [] if request.feedback is None else self._count(live, request, request.feedback).feedback
            await self._plan_until(live, request)
            live.hear(request.client)
            served = live.job.served
            batches = await self._hand_out(live, request.start, request.count)
            live.pace.hand_out(max(0, live.job.served - served))
            return StepsAnswer(feedback=outcomes, batches=batches, policy_error=live.job.history.policy_error())

    async def batches(self, name: str, start: int, count: int) -> Batches:
        """Batches that were handed out before."""
        async with self._jobs.open(name) as live:
            if start + count > live.job.served:
                raise UnknownStepError(
                    f"step {start + count - 1} has not been handed out: the next is step {live.job.served}",
                    field="count",
                    value=count,
                )
            return await self._hand_out(live, start, count)

    async def feedback(self, name: str, request: FeedbackRequest) -> FeedbackAnswer:
        """Count feedback."""
        async with self._jobs.open(name) as live:
            check_holder(live.job, request.rank, request.client)
            return self._count(live, request, request.feedback)

    async def validate(self, name: str, report: ValidationReport) -> ValidationAnswer:
        """Take in a validation report."""
        async with self._jobs.open(name) as live:
            return live.apply(ValidationReported(report))

    async def measure(self, name: str, scores: Scores) -> ScoresAnswer:
        """Take in a part of a measuring pass."""
        async with self._jobs.open(name) as live:
            return live.apply(ScoresReceived.of(live.job, scores))

    async def adopt(self, name: str, local: LocalBatches) -> LocalBatchesAnswer:
        """Put batches on record that a client drew by itself."""
        async with self._jobs.open(name) as live:
            answer = live.apply(LocalBatchesAdopted(local))
        if answer.outcome == "applied":
            log.warning("batches drawn by a client", job=name, start=local.start, steps=len(local.indices))
        return answer

    # The policy.

    async def policy(self, name: str) -> PolicyAnswer:
        """The policy that draws the next step to be handed out."""
        async with self._jobs.open(name) as live:
            return live.job.versions.in_force(live.job.served).answer()

    async def swap(self, name: str, request: SwapRequest) -> PolicyAnswer:
        """Change the policy."""
        artefacts = await self._loader.artefacts([request.policy])  # slow: not under the job's lock
        async with self._jobs.open(name) as live:
            live.job.check_swap(request, artefacts)
            answer = live.apply(PolicySwapped(request))
        if answer.changed:
            event = "shadow put" if request.shadow else "policy swapped"
            log.info(event, job=name, policy=request.policy.name, version=answer.policy_version)
        return answer

    async def end_shadow(self, name: str) -> None:
        """Let no policy watch a job any more."""
        async with self._jobs.open(name) as live:
            live.apply(ShadowEnded())
        log.info("shadow ended", job=name)

    async def observation(self, name: str, wait: float) -> ObservationAnswer:
        """What the policy sees that draws the next interval; waits at most so long for an action to be awaited."""
        async with self._jobs.open(name) as live:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    while not (live.asking and live.job.awaits_action()):
                        await self._change(live)
            threaded = _takes_time(live.job)
            look = partial(views.observation, live.job, trainer_waiting=live.asking > 0)
            answer = await asyncio.to_thread(look) if threaded else look()
        return await asyncio.to_thread(answer) if threaded else answer()

    async def act(self, name: str, request: ActionRequest) -> ActionAnswer:
        """Take in an action from outside."""
        async with self._jobs.open(name) as live:
            return live.apply(ActionSet(request))

    async def decisions(self, name: str, start: int, count: int) -> DecisionLog:
        """A part of the decision log."""
        async with self._jobs.open(name) as live:
            return views.decisions(live.job, start, count)

    async def sample(self, name: str, index: int, draws: int) -> SampleState:
        """Why a sample is drawn as it is."""
        evidence = await self._evidence(name)
        async with self._jobs.open(name) as live:
            if index >= live.job.spec.samples:
                raise NotFoundError(
                    f"sample must be less than samples = {live.job.spec.samples}, got {index}", field="i", value=index
                )
            state, served = views.sample(live.job, evidence, index), live.job.served
        latest = await asyncio.to_thread(self._draws, name, served, index, draws)
        return state.model_copy(update={"draws": latest})

    async def samples(self, name: str, order: Order, limit: int, start: int = 0) -> SampleList:
        """Samples in an order, from number `start` on."""
        evidence = await self._evidence(name)
        async with self._jobs.open(name) as live:
            look = partial(views.samples, live.job, evidence, order, limit, start, live.summaries.rankings)
            return await asyncio.to_thread(look) if _takes_time(live.job) else look()

    async def describe(self, name: str, told: SampleDescriptions) -> DescriptionList:
        """Keep what samples show."""
        described = await asyncio.to_thread(_described, told)
        async with self._jobs.open(name) as live:
            if (last := int(told.index.max())) >= live.job.spec.samples:
                raise InvalidValueError(
                    f"index must be less than samples = {live.job.spec.samples}, got {last}", field="index", value=last
                )
            stored = self._store.commit(Transaction(name, live.fence, descriptions=described))
        await self._jobs.committed(stored)
        return await self.descriptions(name)

    async def descriptions(self, name: str) -> DescriptionList:
        """Which samples are described."""
        async with self._jobs.open(name):
            pass
        return DescriptionList(descriptions=await asyncio.to_thread(self._store.descriptions, name))

    async def description(self, name: str, index: int) -> Description:
        """What a sample shows."""
        found = await asyncio.to_thread(self._store.description, name, index)
        if found is None:
            raise NotFoundError(f"sample {index} of job {name!r} is not described", field="i", value=index)
        return found

    # All of a job at once.

    async def series(self, name: str, of: SeriesOf, points: int) -> Summary:
        """Lines of a job."""
        return await self._summary(
            name, (of, points), lambda live: summaries.series(live.job, of, points, live.pace, live.summaries.decisions)
        )

    async def density(self, name: str) -> Summary:
        """The density of a job's samples over similarity × loss."""
        return await self._summary(name, ("density",), lambda live: summaries.density(live.job))

    async def histograms(self, name: str) -> Summary:
        """Histograms of a job's samples."""
        evidence = await self._evidence(name)
        return await self._summary(name, ("histograms",), lambda live: summaries.histograms(live.job, evidence))

    async def _summary(
        self, name: str, what: tuple[Hashable, ...], gather: Callable[[LiveJob], Callable[[], Message]]
    ) -> Summary:
        """What is gathered under the job's lock and computed without it, kept until the job plans or is reported to."""
        async with self._jobs.open(name) as live:
            own = live.summaries
        async with own.lock:
            async with self._jobs.open(name) as live:
                state = summaries.state_for(what[0], live.job, live.pace)
                known = own.find(what, state)
                if known is not None:
                    return known
                gathered = partial(gather, live)
                compute = await asyncio.to_thread(gathered) if _takes_time(live.job) else gathered()
            return await asyncio.to_thread(lambda: own.keep(what, state, compute()))

    async def _evidence(self, name: str) -> Evidence | None:
        """That of a job's samples, computed while the job goes on, and kept until it plans or is reported to again."""
        async with self._jobs.open(name) as live:
            state = (live.job.planned_until, len(live.job.history.reports), len(live.job.versions.versions))
            if live.evidence is not None and live.evidence[0] == state:
                return live.evidence[1]
            judge = live.job.judging()
        evidence = await asyncio.to_thread(judge)
        live.evidence = (state, evidence)
        return evidence

    # Artefacts.

    async def policies(self) -> PolicyList:
        """Installed policies and artefacts."""
        installed = await asyncio.to_thread(views.policies)
        manifests = await asyncio.to_thread(self._store.manifests)
        return PolicyList(
            policies=installed,
            artefacts=[manifest for manifest in manifests if isinstance(manifest, PolicyManifest)],
            judges=[manifest for manifest in manifests if isinstance(manifest, JudgeManifest)],
        )

    async def upload(self, data: bytes) -> tuple[ArtefactManifest, bool]:
        """Store an artefact; what it is, and whether it is new."""
        uploaded = await asyncio.to_thread(artefact.read_any, data)
        new = await asyncio.to_thread(self._store.manifest, uploaded.sha256) is None
        if new:
            await self._jobs.committed(self._store.commit(Transaction("", artefacts=[uploaded])))
            log.info("artefact stored", name=uploaded.manifest.name, sha256=uploaded.sha256)
        return uploaded.manifest, new

    async def manifest(self, sha256: str) -> ArtefactManifest:
        """What an artefact is."""
        manifest = await asyncio.to_thread(self._store.manifest, sha256)
        if manifest is None:
            raise _unknown_artefact(sha256)
        return manifest

    async def artefact_bytes(self, sha256: str) -> bytes:
        """An artefact as it was uploaded."""
        data = await asyncio.to_thread(self._store.artefact_bytes, sha256)
        if data is None:
            raise _unknown_artefact(sha256)
        return data

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
        stored = await self._loader.readable(policies_of(snapshot))
        try:
            job = await asyncio.to_thread(restore, renamed, {**stored, **carried})
        except NotReproducibleError as error:
            raise InvalidValueError(str(error), field="decisions") from None
        async with self._jobs.loading(name):
            if await self._jobs.find(name) is not None:
                raise ConflictError(f"job {name!r} exists already", field="job", value=name)
            transaction = Transaction(name, created=renamed.spec, plans=list(job.plans))
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
            await self._jobs.put(job, Transaction(spec.name, created=spec))
        return True

    def _check_size(self, spec: JobSpec) -> None:
        most = self._max_samples * USUAL_BYTES // SampleTable.empty(1, spec.measurements()).nbytes
        if spec.samples > most:
            raise TooLargeError(
                f"samples must be at most {most} with {len(spec.modalities)} modalities and {len(spec.signals)} "
                f"signals (setting max_samples), got {spec.samples}",
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

    def _count(self, live: LiveJob, sender: Ranked, feedback: Feedback) -> FeedbackAnswer:
        answer = live.apply(FeedbackReceived.of(live.job, sender, feedback))
        for outcome in answer.feedback:
            self._metrics.feedback.labels(outcome).inc()
        return answer

    async def _plan_until(self, live: LiveJob, request: StepsRequest) -> None:
        """See to it that the batch of a step is planned."""
        if request.start < live.job.planned_until:
            return
        self._jobs.hand_over(live)  # others may change the job while this call waits
        await self._wait_for_turn(live, request)
        live.job.check_start(request.start)  # a client's own batches may have led back to before it
        if request.start >= live.job.planned_until:
            if request.rank != 0 or not live.job.is_ready(request.start):
                self._lose_patience(live.job, request)
            await self._plan(live)

    async def _wait_for_turn(self, live: LiveJob, request: StepsRequest) -> None:
        """Wait until the interval can be planned with the feedback that belongs to it, at most `patience` seconds.

        Rank 0 leads: it alone validates, and asks for the next interval only after it has reported. Another rank's
        request never draws one, or a validation longer than `patience` would be left out of the plan.
        """
        job = live.job
        started = asyncio.get_running_loop().time()
        leads = request.rank == 0
        live.asking += leads
        live.changed.notify_all()  # whoever waits to act on what the trainer has reported by now
        try:
            async with asyncio.timeout(job.spec.patience):
                while request.start >= job.planned_until and not (leads and job.is_ready(request.start)):
                    await self._change(live)
                    check_holder(job, request.rank, request.client)  # or one that was replaced would go on waiting
        except TimeoutError:
            check_holder(job, request.rank, request.client)  # it may have lost its place at this very moment
        finally:
            live.asking -= leads
        held = asyncio.get_running_loop().time() - started
        self._metrics.hold_seconds.observe(held)
        live.pace.hold(held if leads else 0.0)

    def _lose_patience(self, job: Job, request: StepsRequest) -> None:
        """Rank 0 plans without what is missing; the others ask again."""
        if request.rank != 0:
            raise TooEarlyError(
                f"step {request.start} begins an interval that rank 0 has not asked for yet",
                field="start",
                value=request.start,
            )
        log.warning(
            "patience ran out: planned without all that belongs to it",
            job=job.spec.name,
            step=request.start,
            rank=request.rank,
            missing_from=job.ledger.first_missing,
            awaits_action=job.awaits_action(),
        )
        self._metrics.impatient_plans.inc()

    async def _change(self, live: LiveJob) -> None:
        """Wait until something of the job has changed."""
        if not self._stopping:
            await live.changed.wait()
        if live.fence.closed or self._stopping:
            raise StoreError(f"job {live.job.spec.name!r} is not held by this process any more, ask again")

    async def _plan(self, live: LiveJob) -> None:
        if live.table_read is not None:
            await asyncio.wait([live.table_read])  # planning changes the table
        started = time.monotonic()
        with self._metrics.plan_seconds.time():
            if _takes_time(live.job):
                await asyncio.to_thread(live.apply, PlanDrawn())
            else:
                live.apply(PlanDrawn())
        self._report_failures(live.job)
        seconds = time.monotonic() - started
        live.planning_since_snapshot += seconds
        live.pace.plan(seconds)

    def _report_failures(self, job: Job) -> None:
        decision = job.history.decisions[-1]
        if decision.failed:
            log.error("policy failed, shuffled uniformly", job=job.spec.name, error=decision.detail["error"])
            self._metrics.policy_failures.inc()
        if decision.shadow is not None and decision.shadow.failed:
            log.warning("shadow failed", job=job.spec.name, error=decision.shadow.detail["error"])
            self._metrics.shadow_failures.inc()

    async def _hand_out(self, live: LiveJob, start: int, count: int) -> Batches:
        job = live.job
        count = min(count, max(1, ANSWER_ROWS // job.spec.batch_size))
        if not job.holds(start):
            stop = min(start + count, job.served)
            return plans.batches(await self._stored_plans(live, start, stop), job.calendar, start, stop)
        stop = min(start + count, job.planned_until)
        self._metrics.batches.inc(max(0, stop - job.served))
        live.apply(StepsServed(stop))
        return job.batches(start, stop)

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
                await self._loader.redraw(name, live.fence, error.step)

    def _draws(self, name: str, served: int, index: int, limit: int) -> list[DrawRow]:
        """The latest draws of a sample before a step, newest first."""
        draws: list[DrawRow] = []
        end = served
        for first in self._store.plans_before(name, served):
            for plan in self._store.plans(name, first, first + 1):
                draws += plan.cut(min(end, plan.end_step)).draws_of(index)
            if len(draws) >= limit:
                break
            end = first
        return draws[:limit]


def _takes_time(job: Job) -> bool:
    """Whether to look at all samples of a job takes so long that other jobs would wait for it."""
    return job.spec.samples >= (THREADED_SAMPLES if job.table.dynamics is None else THREADED_EVIDENCE)


def _described(told: SampleDescriptions) -> list[Description]:
    samples = told.index.tolist()
    if told.pictures is not None:
        return [Description(i, "picture", png(pixels)) for i, pixels in zip(samples, told.pictures, strict=True)]
    texts = told.texts or []
    return [Description(i, "text", text.encode(errors="replace")) for i, text in zip(samples, texts, strict=True)]


def _unknown_artefact(sha256: str) -> NotFoundError:
    return NotFoundError(f"artefact {sha256!r} is not known", field="sha256", value=sha256)


def _new(spec: JobSpec, artefacts: Artefacts) -> Job:
    check_policy(spec.policy, spec, artefacts)
    return Job(spec, artefacts)


def _check_same(known: JobSpec, asked: JobSpec) -> None:
    for name in JobSpec.model_fields.keys() - JobChange.model_fields.keys():
        if getattr(known, name) != getattr(asked, name):
            raise ConflictError(
                f"{name} of job {known.name!r} is {_shown(getattr(known, name))}, got {_shown(getattr(asked, name))}",
                field=name,
                value=_shown(getattr(asked, name)),
            )


def _shown(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Message) else value
