"""The host does what requests ask for: it opens a job, lets it change, has that journaled and only then answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from bss_service.core.calendar import Calendar
from bss_service.core.samples.table import SampleTable
from bss_service.errors import (
    BssError,
    ConflictError,
    InvalidValueError,
    MovedError,
    NotFoundError,
    NotReproducibleError,
    TooEarlyError,
    TooLargeError,
    UnknownStepError,
    UnownedError,
)
from bss_service.host import comparing, work
from bss_service.host.looks import Looks
from bss_service.host.sharing import Sharing
from bss_service.host.work import Bench
from bss_service.job import plans
from bss_service.job.checks import check_drawable, check_interval, check_local_size, check_passes, rank_rows
from bss_service.job.events import (
    ActionSet,
    FeedbackReceived,
    GroupsSet,
    JobChanged,
    JobGrown,
    KeysRegistered,
    LocalBatchesAdopted,
    PlanDrawn,
    PolicySwapped,
    ScoresReceived,
    ShadowEnded,
    StepsServed,
    TrainerAttached,
    ValidationReported,
    WindowOpened,
)
from bss_service.job.job import Job, new_incarnation
from bss_service.job.lock import Leaving
from bss_service.job.places import check_holder, check_may_replace, check_place, has_place
from bss_service.job.room import usual_room
from bss_service.job.shown import views
from bss_service.job.shown.summaries import Summary
from bss_service.job.snapshot import Snapshot, artefacts_in, check_versions, check_whole, moved, policies_of, restore
from bss_service.journal.descriptions import Description, png
from bss_service.journal.store import DamagedPlanError, Store
from bss_service.journal.transaction import Transaction, parts_of
from bss_service.policies import artefact
from bss_service.policies.artefact import Artefacts
from bss_service.policies.versions import check_policy
from bss_service.protocol.actions import ActionAnswer, ActionRequest, ObservationAnswer
from bss_service.protocol.artefacts import ArtefactManifest, JudgeManifest, PolicyManifest
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import (
    GroupsAnswer,
    JobChange,
    JobList,
    JobSpec,
    JobState,
    SampleGroups,
    SeriesOf,
)
from bss_service.protocol.message import Message
from bss_service.protocol.policies import PolicyAnswer, PolicyList, SwapRequest
from bss_service.protocol.samples import (
    DescriptionList,
    KeysAnswer,
    Order,
    SampleDescriptions,
    SampleKeys,
    SampleList,
    SampleState,
)
from bss_service.protocol.training import (
    PLACE_SECONDS,
    AttachAnswer,
    AttachRequest,
    Batches,
    Feedback,
    FeedbackAnswer,
    FeedbackOutcome,
    FeedbackRequest,
    LocalBatches,
    LocalBatchesAnswer,
    LocalBatchesRequest,
    Ranked,
    Scores,
    ScoresAnswer,
    StepsAnswer,
    StepsRequest,
    Trainer,
    Window,
    WindowAnswer,
)
from bss_service.protocol.validation import Comparison, ValidationAnswer, ValidationLog, ValidationReport
from bss_service.registry import JobRegistry, LiveJob, planned
from bss_service.telemetry import tracing
from bss_service.telemetry.metrics import Metrics

log = structlog.get_logger()

MAX_HELD: Final = 4  # requests of one rank that wait for its turn: one, and those whose end it has not seen
USUAL_BYTES: Final = 40  # of a sample in the table, with the paper's signals of two modalities
ANSWER_ROWS: Final = 2**20  # samples in one answer; the client asks again for the rest
JSON_ROWS: Final = 2**15  # of one that is written as JSON
KEY: Final = 10  # rows that a key costs


class OldBatches(NamedTuple):
    """Steps that were handed out and whose plans have left memory."""

    calendar: Calendar
    start: int
    stop: int

    def of(self, stored: list[plans.Plan]) -> Batches:
        """Their batches, by the plans that hold them."""
        return plans.batches(stored, self.calendar, self.start, self.stop)


class Host:
    """All jobs of one service."""

    def __init__(
        self, store: Store, metrics: Metrics, max_samples: int, *, memory: int | None = None, stored: int | None = None
    ) -> None:
        """memory: bytes that all jobs in it may take; None: half of what there is. stored: that a job may store."""
        self._store = store
        self._metrics = metrics
        self._max_samples = max_samples
        self._jobs = JobRegistry(store, metrics, memory or usual_room(), stored)
        self._loader = self._jobs.loader
        self._bench = Bench()
        self._looks = Looks(self._jobs, store)
        self._sharing = None if store.membership is None else Sharing(self._jobs, store.membership)

    async def share(self) -> None:
        """Until cancelled, keep to this service's part of a store that several share; at once where none does."""
        if self._sharing is not None:
            await self._sharing.keep()

    async def release(self) -> None:
        """Before a stop: let go of the requests that are held, and end what takes long; who asked will ask again."""
        await self._jobs.release()

    async def close(self) -> None:
        """After a stop."""
        self._looks.close()
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
            await asyncio.sleep(0)  # there may be thousands
        silences = {live.job.spec.name: live.pace.silence() for live in self._jobs.all()}
        answer.heard = {name: round(seconds, 1) for name, seconds in silences.items() if seconds is not None}
        return answer

    async def state(self, name: str) -> JobState:
        """Where a job is."""
        async with self._jobs.open(name) as live:
            return await self._bench.do(live.job.spec.samples // 256, views.state, live.job)

    async def change(self, name: str, change: JobChange, incarnation: str | None = None) -> JobState:
        """Change what may be changed of a job."""
        async with self._jobs.open(name, incarnation) as live:
            if change.samples is not None:
                await self._grow(live, change.samples)
            live.apply(JobChanged(change))
            return await self._bench.do(live.job.spec.samples // 256, views.state, live.job)

    async def delete(self, name: str) -> None:
        """Forget a job and all that is stored of it."""
        async with self._jobs.loading(name):
            await self._jobs.delete(name)
        log.info("job deleted", job=name)

    async def register(self, name: str, told: SampleKeys, incarnation: str | None = None) -> KeysAnswer:
        """Give indices to keys that have none; the job grows where it has fewer samples than keys then."""
        async with self._jobs.open(name, incarnation) as live:
            job = live.job
            new = job.keys.new(told.keys)
            before, samples = job.spec.samples, max(job.spec.samples, len(job.keys) + len(new))
            if samples > before:
                self._check_size(job.spec.model_copy(update={"samples": samples}))
            rows = KEY * len(told.keys) + (samples if samples > before else 0)
            with self._jobs.room_to_grow(live, samples, new):
                indices = await self._bench.do(rows, live.apply, KeysRegistered(told.keys))
            return KeysAnswer(indices=indices, known=len(job.keys), **dict(job.spec.size))

    async def open_window(self, name: str, window: Window, incarnation: str | None = None) -> WindowAnswer:
        """Take in what a trainer has read ahead of a stream."""
        async with self._jobs.open(name, incarnation) as live:
            return await self._bench.do(len(window.samples), live.apply, WindowOpened(window))

    # The training loop.

    async def attach(self, name: str, request: AttachRequest, incarnation: str | None = None) -> AttachAnswer:
        """Give a trainer the place of its rank, or let it keep that."""
        async with self._jobs.open(name, incarnation) as live:
            rank_rows(live.job.spec, request.rank, request.world_size)
            is_first = check_place(live.job, request, live.silences(), PLACE_SECONDS)
            asking = request.model_dump(include=set(Trainer.model_fields)) | {"left": False}
            live.apply(TrainerAttached(Trainer(**asking)))
            live.hear(request.client)
            ledger = live.job.ledger
            if is_first or live.joined is None:
                live.joined = AttachAnswer(
                    next_step=live.job.served,
                    steps_fed_back=len(ledger.complete),
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

    async def steps(
        self,
        name: str,
        request: StepsRequest,
        incarnation: str | None = None,
        *,
        leaving: Leaving | None = None,
        rows: int = ANSWER_ROWS,
    ) -> StepsAnswer:
        """Count feedback and hand out batches; waits for the feedback that the next interval needs.

        rows: at most so many, but for those of one step. Raises PlanningError, with the feedback counted, where an
        interval takes long to be drawn, which goes on.
        """
        outcomes: list[FeedbackOutcome] | None = None
        while True:
            async with self._jobs.open(name, incarnation) as live:
                check_holder(live.job, request.rank, request.client)
                live.hear(request.client, held=live.job.spec.patience)
                live.job.check_start(request.start)
                if outcomes is None and request.feedback is not None:
                    outcomes = (await self._count(live, request, request.feedback)).feedback
                planning = await self._plan_until(live, request, leaving)
                if planning is None:
                    live.hear(request.client)
                    served = live.job.served
                    handed = await self._hand_out(live, request.start, request.count, rows)
                    live.pace.hand_out(max(0, live.job.served - served))
                    policy_error = live.job.history.policy_error()
                    size = live.job.spec.size if live.job.spec.earlier else None
            if planning is None:
                break
            await planned(live)
            planning.result()
        if isinstance(handed, OldBatches):
            beside = partial(self._bench.do, max(live.job.spec.samples, work.LITTLE + 1))
            handed = await self._read(live, handed, incarnation, beside)
        return StepsAnswer.model_construct(
            feedback=outcomes or [], batches=handed, policy_error=policy_error, size=size
        )

    async def batches(
        self, name: str, start: int, count: int, incarnation: str | None = None, *, rows: int = ANSWER_ROWS
    ) -> Batches:
        """Batches that were handed out before, of at most so many rows, but for those of one step."""
        async with self._jobs.open(name, incarnation) as live:
            live.job.check_kept(start)
            if start + count > live.job.served:
                raise UnknownStepError(
                    f"step {start + count - 1} has not been handed out: the next is step {live.job.served}",
                    field="count",
                    value=count,
                )
            handed = await self._hand_out(live, start, count, rows)
        if isinstance(handed, OldBatches):
            handed = await self._read(live, handed, incarnation, self._looks.run)
        return handed

    async def feedback(self, name: str, request: FeedbackRequest, incarnation: str | None = None) -> FeedbackAnswer:
        """Count feedback."""
        async with self._jobs.open(name, incarnation) as live:
            check_holder(live.job, request.rank, request.client)
            return await self._count(live, request, request.feedback)

    async def validate(self, name: str, report: ValidationReport, incarnation: str | None = None) -> ValidationAnswer:
        """Take in a validation report."""
        async with self._jobs.open(name, incarnation) as live:
            return await self._bench.do(work.of_history(live.job), live.apply, ValidationReported(report))

    async def measure(self, name: str, scores: Scores, incarnation: str | None = None) -> ScoresAnswer:
        """Take in a part of a measuring pass."""
        async with self._jobs.open(name, incarnation) as live:
            check_passes(live.job, len(scores.indices))
            rows = len(scores.indices) + live.job.rows_waiting // 8  # some of the calls fold what waits
            return await self._bench.do(rows, lambda: live.apply(ScoresReceived.of(live.job, scores)))

    async def set_groups(self, name: str, message: SampleGroups, incarnation: str | None = None) -> GroupsAnswer:
        """Take in the group of each sample."""
        async with self._jobs.open(name, incarnation) as live:
            return await self._bench.do(len(message.groups) // 8, live.apply, GroupsSet(message.groups))

    async def adopt(
        self, name: str, request: LocalBatchesRequest, incarnation: str | None = None
    ) -> LocalBatchesAnswer:
        """Put batches on record that a client drew by itself."""
        local = LocalBatches(start=request.start, indices=request.indices)
        async with self._jobs.open(name, incarnation) as live:
            check_local_size(live.job.spec, local)
            check_may_replace(live.job, local.start, request.client)
            rows = local.indices.size + live.job.spec.samples
            answer = await self._bench.do(rows, lambda: live.apply(LocalBatchesAdopted(local)))
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

    async def observation(
        self, name: str, wait: float, leaving: Leaving | None = None, *, may_act: bool = True
    ) -> ObservationAnswer:
        """What the policy sees that draws the next interval; waits at most so long for an action to be awaited."""
        return await self._looks.observation(name, wait, leaving, may_act=may_act)

    async def act(self, name: str, request: ActionRequest, incarnation: str | None = None) -> ActionAnswer:
        """Take in an action from outside."""
        async with self._jobs.open(name, incarnation) as live:
            return await self._bench.do(work.of_history(live.job) // 4, live.apply, ActionSet(request))

    async def decisions(self, name: str, start: int, count: int) -> DecisionLog:
        """A part of the decision log."""
        return await self._looks.decisions(name, start, count)

    async def validations(self, name: str, start: int, count: int) -> ValidationLog:
        """A part of the validation reports."""
        async with self._jobs.open(name) as live:
            return views.validations(live.job, start, count)

    async def compare(self, names: list[str]) -> Comparison:
        """Whether the policies of jobs help. The jobs need not be as of one moment: a report never changes."""
        if repeated := [name for k, name in enumerate(names) if name in names[:k]]:
            raise InvalidValueError(f"job must be named once, got {repeated[0]!r} twice", field="job", value=names)
        runs = []
        for name in names:
            try:
                async with self._jobs.open(name) as live:
                    runs.append(comparing.run_of(live.job))
            except (MovedError, UnownedError):
                runs.append(comparing.run_of(await self._jobs.read(name)))
        return await asyncio.to_thread(comparing.compare, runs)

    async def sample(self, name: str, index: int, draws: int) -> SampleState:
        """Why a sample is drawn as it is."""
        return await self._looks.sample(name, index, draws)

    async def samples(self, name: str, order: Order, limit: int, start: int = 0) -> SampleList:
        """Samples in an order, from number `start` on."""
        return await self._looks.samples(name, order, limit, start)

    async def series(self, name: str, of: SeriesOf, points: int) -> Summary:
        """Lines of a job."""
        return await self._looks.series(name, of, points)

    async def density(self, name: str) -> Summary:
        """The density of a job's samples over similarity × loss."""
        return await self._looks.density(name)

    async def histograms(self, name: str) -> Summary:
        """Histograms of a job's samples."""
        return await self._looks.histograms(name)

    # What samples show.

    async def describe(self, name: str, told: SampleDescriptions, incarnation: str | None = None) -> DescriptionList:
        """Keep what samples show."""
        rows = len(told.index) if told.pictures is None else told.pictures.size // 4
        described = await self._bench.do(rows, _described, told)
        async with self._jobs.open(name, incarnation) as live:
            if (last := int(told.index.max())) >= live.job.spec.samples:
                raise InvalidValueError(
                    f"index must be less than samples = {live.job.spec.samples}, got {last}", field="index", value=last
                )
            live.check_stored()
            stored = self._store.commit(Transaction(name, live.fence, descriptions=described))
        await self._jobs.committed(stored)
        return await self.descriptions(name)

    async def descriptions(self, name: str) -> DescriptionList:
        """Which samples are described."""
        async with self._jobs.open(name):
            pass
        return DescriptionList(descriptions=await self._looks.run(self._store.descriptions, name))

    async def description(self, name: str, index: int) -> Description:
        """What a sample shows."""
        found = await self._looks.run(self._store.description, name, index)
        if found is None:
            raise NotFoundError(f"sample {index} of job {name!r} is not described", field="i", value=index)
        return found

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
        return await self._looks.snapshot(name)

    async def put_snapshot(self, name: str, snapshot: Snapshot) -> JobState:
        """Create a job from a snapshot, under this name."""
        self._check_size(snapshot.spec)
        await self._jobs.fence(name)  # what follows is much work, which another service may have to do
        check_versions(snapshot)
        check_whole(snapshot)
        with self._jobs.room_for(snapshot.spec):
            await self._put_snapshot(name, snapshot)
        return await self.state(name)

    async def _put_snapshot(self, name: str, snapshot: Snapshot) -> None:
        carried = await asyncio.to_thread(artefacts_in, snapshot)
        renamed = moved(snapshot, name)
        stored = await self._loader.readable(policies_of(snapshot))
        try:
            job = await asyncio.to_thread(restore, renamed, {**stored, **carried})
        except NotReproducibleError as error:
            raise InvalidValueError(str(error), field="decisions") from None
        async with self._jobs.loading(name):
            if await self._jobs.find(name) is not None:
                raise ConflictError(f"job {name!r} exists already", field="job", value=name)
            fence = await self._jobs.fence(name)
            drawn = list(job.plans)
            transaction = Transaction(name, fence, created=renamed.spec, incarnation=job.incarnation, plans=drawn)
            transaction.snapshot = await asyncio.to_thread(lambda: list(parts_of(0, renamed.to_frame())))
            transaction.artefacts = list(carried.values())
            await self._jobs.put(job, transaction)

    # Inside.

    async def _create(self, spec: JobSpec) -> bool:
        """Create a job, unless somebody else has meanwhile."""
        with self._jobs.room_for(spec):
            job = await asyncio.to_thread(_new, spec, await self._loader.artefacts([spec.policy]))
            async with self._jobs.loading(spec.name):
                if await self._jobs.find(spec.name) is not None:
                    return False
                fence = await self._jobs.fence(spec.name)
                await self._jobs.put(job, Transaction(spec.name, fence, created=spec, incarnation=job.incarnation))
        return True

    async def _grow(self, live: LiveJob, samples: int) -> None:
        """Let a job have more samples, if there is room for them."""
        spec = live.job.spec
        if samples <= spec.samples:
            live.apply(JobGrown(samples))
            return
        self._check_size(spec.model_copy(update={"samples": samples}))
        with self._jobs.room_to_grow(live, samples):
            await self._bench.do(samples, live.apply, JobGrown(samples))
        log.info("job grown", job=spec.name, samples=samples, epoch=live.job.spec.earlier[-1].until)

    def _check_size(self, spec: JobSpec) -> None:
        most = self._max_samples * USUAL_BYTES // SampleTable.empty(1, spec.measurements()).nbytes
        if spec.samples > most:
            raise TooLargeError(
                f"samples must be at most {most} with {len(spec.modalities)} modalities and {len(spec.signals)} "
                f"signals (setting max_samples), got {spec.samples}",
                field="samples",
                value=spec.samples,
            )
        check_interval(spec)

    async def _count(self, live: LiveJob, sender: Ranked, feedback: Feedback) -> FeedbackAnswer:
        rows = len(feedback.step) * (live.job.spec.batch_size // sender.world_size + work.STEP)
        answer = await self._bench.do(rows, lambda: live.apply(FeedbackReceived.of(live.job, sender, feedback)))
        for outcome in answer.feedback:
            self._metrics.feedback.labels(outcome).inc()
        return answer

    async def _plan_until(
        self, live: LiveJob, request: StepsRequest, leaving: Leaving | None
    ) -> "asyncio.Task[None] | None":
        """See to it that the batch of a step is planned. Where that takes long, what does it without the request."""
        if request.start < live.job.planned_until:
            return None
        check_drawable(live.job)
        live.job.check_window()
        self._jobs.hand_over(live)  # others may change the job while this call waits
        await self._wait_for_turn(live, request, leaving)
        live.job.check_start(request.start)  # a client's own batches may have led back to before it
        if request.start >= live.job.planned_until:
            if request.rank != 0 or not live.job.is_ready(request.start):
                self._lose_patience(live.job, request)
            if live.planning is not None or work.of_plan(live.job) > work.LONG:
                return self._begin_planning(live)
            await self._plan(live)
        return None

    def _begin_planning(self, live: LiveJob) -> "asyncio.Task[None]":
        """Have the next interval drawn, whoever waits for it."""
        if live.planning is None:
            live.planning = asyncio.create_task(self._plan_beside(live, live.job.planned_until))
            live.planning.add_done_callback(lambda task: task.cancelled() or task.exception())  # somebody may ask again
        return live.planning

    async def _plan_beside(self, live: LiveJob, first: int) -> None:
        try:
            async with self._jobs.open(live.job.spec.name) as mine:
                if mine is live and live.job.planned_until == first:
                    await self._plan(live)
                for trainer in live.job.trainers.values():
                    live.hear(trainer.client)  # it was asked to come again
        finally:
            live.planning = None

    async def _wait_for_turn(self, live: LiveJob, request: StepsRequest, leaving: Leaving | None) -> None:
        """Wait until the interval can be planned with the feedback that belongs to it, at most `patience` seconds.

        Rank 0 leads: it alone validates, and asks for the next interval only after it has reported. Another rank's
        request never draws one, or a validation longer than `patience` would be left out of the plan.
        """
        job = live.job
        started = asyncio.get_running_loop().time()
        leads = request.rank == 0

        def is_its_turn() -> bool:
            planned = request.start < job.planned_until or (leads and job.is_ready(request.start))
            return planned or not has_place(job, request.rank, request.client)  # or one that was replaced would wait on

        live.asking += leads
        live.changed.notify_all()  # whoever waits to act on what the trainer has reported by now
        try:
            async with asyncio.timeout(job.spec.patience):
                while not is_its_turn():
                    await self._jobs.hold(live, request.rank, is_its_turn, leaving, MAX_HELD)
                    check_holder(job, request.rank, request.client)
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

    async def _plan(self, live: LiveJob) -> None:
        while live.copies:
            await asyncio.wait(live.copies)  # planning changes the table
        started = time.monotonic()
        traced = tracing.span("plan", job=live.job.spec.name, step=live.job.planned_until)
        with self._metrics.plan_seconds.time(), traced:
            await self._bench.do(work.of_plan(live.job), live.apply, PlanDrawn())
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

    async def _hand_out(self, live: LiveJob, start: int, count: int, rows: int) -> "Batches | OldBatches":
        job = live.job
        count = min(count, max(1, rows // job.spec.batch_size))
        if not job.holds(start):
            return OldBatches(job.calendar, start, min(start + count, job.served))
        stop = min(start + count, job.planned_until)
        self._metrics.batches.inc(max(0, stop - job.served))
        if stop > job.served:
            live.apply(StepsServed(stop))
        return await self._bench.do((stop - start) * job.spec.batch_size // 4, job.batches, start, stop)

    async def _read(
        self, live: LiveJob, old: "OldBatches", incarnation: str | None, beside: Callable[..., Awaitable[Batches]]
    ) -> Batches:
        """Batches that are not in memory any more, read without the job's lock, so that no step waits for that.

        beside: calls a function in a thread. Damaged plans are drawn once more, under the lock.
        """
        name = live.job.spec.name
        with suppress(DamagedPlanError):  # or it was released meanwhile, which is told below
            batches = await beside(lambda: old.of(self._store.plans(name, old.start, old.stop)))
            if not live.fence.closed:  # else the job of that name may be another by now
                return batches
        async with self._jobs.open(name, incarnation) as live:
            live.job.check_kept(old.start)
            return await asyncio.to_thread(old.of, await self._stored_plans(live, old.start, old.stop))

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
    job = Job(spec, artefacts)
    job.incarnation = new_incarnation()
    return job


def _check_same(known: JobSpec, asked: JobSpec) -> None:
    if (name := known.differing(asked)) is not None:
        grows = ": a job has more by a change of it (PATCH)" if name == "samples" else ""
        raise ConflictError(
            f"{name} of job {known.name!r} is {_shown(getattr(known, name))}, got {_shown(getattr(asked, name))}"
            + grows,
            field=name,
            value=_shown(getattr(asked, name)),
        )


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return value.model_dump() if isinstance(value, Message) else value
