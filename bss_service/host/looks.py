"""Looking at jobs: in threads of its own and at most so much at once, so that no trainer waits for who looks."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from bss_service.core.evidence.posterior import Evidence
from bss_service.errors import BusyError, NotFoundError
from bss_service.host import work
from bss_service.job.job import Job
from bss_service.job.lock import Leaving
from bss_service.job.shown import summaries, views
from bss_service.job.shown.summaries import Summary
from bss_service.job.snapshot import frozen, portable, with_artefacts
from bss_service.journal.store import DamagedPlanError, Store
from bss_service.protocol.actions import ObservationAnswer
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import SeriesOf
from bss_service.protocol.message import Message
from bss_service.protocol.samples import DrawRow, Order, SampleList, SampleState
from bss_service.registry import JobRegistry, LiveJob

THREADS: Final = 2
MOST: Final = 64  # looks at once, those that wait for a thread among them
SCANNED_PLANS: Final = 1000  # that are looked through for a sample's draws
SCANNED_ROWS: Final = 2**22  # of them, but for those of the latest plan
MAX_HELD: Final = 32  # requests for an observation that a job holds, of who may act, and as many of who may not
T = TypeVar("T")


class Looks:
    """What `read` tokens ask for and takes time. What many ask of one state of a job is computed once."""

    def __init__(self, jobs: JobRegistry, store: Store) -> None:
        self._jobs = jobs
        self._store = store
        self._pool = ThreadPoolExecutor(THREADS, "bss-looks")
        self._under_way = 0

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function returns, in a thread. Raises BusyError where too many look already."""
        if self._under_way >= MOST:
            raise BusyError(f"{MOST} requests look at jobs already, which is as many as may: try again")
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *arguments))
        finally:
            self._under_way -= 1

    async def observation(
        self, name: str, wait: float, leaving: Leaving | None = None, *, may_act: bool = True
    ) -> ObservationAnswer:
        """What the policy sees that draws the next interval; waits at most so long for an action to be awaited.

        may_act: whoever only looks keeps nobody out who acts.
        """
        async with self._jobs.open(name) as live:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    who = "acting" if may_act else "watching"
                    await self._jobs.hold(live, who, lambda: _wants_action(live), leaving, MAX_HELD)
            look = partial(views.observation, trainer_waiting=live.asking > 0)
            if work.of_table(live.job) <= work.LITTLE:
                return look(live.job)
            # Whoever acts for the policy is a part of the training, and waits for nobody who only looks.
            run = asyncio.to_thread if _wants_action(live) else self.run
            seeing = self._shared(
                live, ("observation", live.seq, live.asking > 0), lambda: self._seeing(live, look, run)
            )
        return await seeing

    def _seeing(self, live: LiveJob, look: Callable[[Job], T], run: Callable[..., Any]) -> Coroutine[Any, Any, T]:
        copied = self._copied(live)

        async def seen() -> T:
            answer: T = await run(look, await copied)
            return answer

        return seen()

    async def snapshot(self, name: str) -> bytes:
        """The portable state of a job, as a frame."""
        async with self._jobs.open(name) as live:
            copied, artefacts = self._copied(live), dict(live.job.artefacts)
        job = await copied
        return await self.run(lambda: with_artefacts(portable(job), artefacts).to_frame())

    async def decisions(self, name: str, start: int, count: int) -> DecisionLog:
        """A part of the decision log."""
        async with self._jobs.open(name) as live:
            if start >= live.job.history.past.total:
                return views.decisions(live.job, start, count)
            job = frozen(live.job)
        return await self.run(views.decisions, job, start, count)

    async def sample(self, name: str, index: int, draws: int) -> SampleState:
        """Why a sample is drawn as it is."""
        async with self._jobs.open(name) as live:
            if index >= live.job.spec.samples:
                raise NotFoundError(
                    f"sample must be less than samples = {live.job.spec.samples}, got {index}", field="i", value=index
                )
            judging = self._judging(live)
        evidence = None if judging is None else await judging
        async with self._jobs.open(name) as live:
            state, served = views.sample(live.job, evidence, index), live.job.served
        latest, since = await self.run(self._draws, name, served, index, draws)
        return state.model_copy(update={"draws": latest, "draws_since": since})

    async def samples(self, name: str, order: Order, limit: int, start: int) -> SampleList:
        """Samples in an order, from number `start` on; only those by evidence are told with it."""
        async with self._jobs.open(name) as live:
            views.check_order(live.job, order)
            what = ("list", order, limit, start)
            listing = self._shared(live, what, lambda: self._listing(live, order, limit, start))
        return await listing

    def _listing(self, live: LiveJob, order: Order, limit: int, start: int) -> Coroutine[Any, Any, SampleList]:
        judging = self._judging(live) if order in views.BY_EVIDENCE else None
        held = self._held(live)

        async def listed() -> SampleList:
            evidence = None if judging is None else await judging
            return await self.run(views.samples, await held, evidence, order, limit, start)

        return listed()

    async def series(self, name: str, of: SeriesOf, points: int) -> Summary:
        """Lines of a job."""
        async with self._jobs.open(name) as live:
            summing = self._summing(live, (of, points), lambda: self._lines(live, of, points))
        return await summing

    def _lines(self, live: LiveJob, of: SeriesOf, points: int) -> Coroutine[Any, Any, Message]:
        job, paced = frozen(live.job), live.pace.rows() if of == "pace" else None
        return self.run(summaries.series, job, of, points, paced, live.summaries.decisions)

    async def density(self, name: str) -> Summary:
        """How the samples of a job are spread over similarity × loss."""
        async with self._jobs.open(name) as live:
            summing = self._summing(live, ("density",), lambda: self._counting(live))
        return await summing

    def _counting(self, live: LiveJob) -> Coroutine[Any, Any, Message]:
        held = self._held(live)

        async def counted() -> Message:
            return await self.run(summaries.density, await held)

        return counted()

    async def histograms(self, name: str) -> Summary:
        """Histograms of a job's samples."""
        async with self._jobs.open(name) as live:
            summing = self._summing(live, ("histograms",), lambda: self._binning(live))
        return await summing

    def _binning(self, live: LiveJob) -> Coroutine[Any, Any, Message]:
        judging, held = self._judging(live), self._held(live)

        async def binned() -> Message:
            evidence = None if judging is None else await judging
            return await self.run(summaries.histograms, await held, evidence)

        return binned()

    def _summing(
        self, live: LiveJob, what: tuple[Hashable, ...], begin: Callable[[], Coroutine[Any, Any, Message]]
    ) -> Awaitable[Summary]:
        """What tells of all of a job at once, kept until the job is another. The caller holds the job's lock."""
        state = summaries.state_for(what[0], live.job, live.pace)
        known = live.summaries.find(what, state)
        if known is not None:
            return _known(known)

        async def summed(computing: Coroutine[Any, Any, Message]) -> Summary:
            summary = await self.run(live.summaries.written, what, state, await computing)
            live.summaries.keep(what, state, summary)
            return summary

        return self._shared(live, (*what, state), lambda: summed(begin()))

    def _judging(self, live: LiveJob) -> Awaitable[Evidence | None] | None:
        """The evidence of all samples, kept until the job's state is another; None where there is none."""
        if live.job.table.dynamics is None:
            return None
        state = _state(live.job)
        if live.evidence is not None and live.evidence[0] == state:
            return _known(live.evidence[1])
        held = self._held(live)

        async def judged() -> Evidence | None:
            evidence = await self.run((await held).judging())
            live.evidence = (state, evidence)
            return evidence

        return self._shared(live, ("evidence",), judged)

    def _held(self, live: LiveJob) -> Awaitable[Job]:
        """The job as it is, with a table of its own: planning waits until that is copied, and not longer."""

        return self._shared(live, ("job",), lambda: self._copied(live))

    def _copied(self, live: LiveJob) -> Coroutine[Any, Any, Job]:
        job, copying = frozen(live.job), live.copy_table()

        async def copied() -> Job:
            job.table = await copying
            return job

        return copied()

    def _shared(
        self, live: LiveJob, what: tuple[Hashable, ...], begin: Callable[[], Coroutine[Any, Any, T]]
    ) -> Awaitable[T]:
        """What comes of a job's state, computed once for all who ask meanwhile; it goes on when one of them leaves.

        The caller holds the job's lock.
        """
        key = (*what, _state(live.job))
        task: asyncio.Task[T] | None = live.looks.get(key)
        if task is None:
            task = live.looks[key] = asyncio.create_task(begin())
        return asyncio.shield(task)

    def _draws(self, name: str, served: int, index: int, limit: int) -> tuple[list[DrawRow], int]:
        """The latest draws of a sample before a step, newest first, and the first step that was looked through."""
        draws: list[DrawRow] = []
        since, scanned = served, 0
        for first in self._store.plans_before(name, served, SCANNED_PLANS):
            if len(draws) >= limit or scanned >= SCANNED_ROWS:
                break
            try:
                plans = self._store.plans(name, first, first + 1)
            except DamagedPlanError:
                break  # it was released meanwhile; or damaged, which who asks for its batches is told
            for plan in plans:
                draws += plan.cut(min(since, plan.end_step)).draws_of(index)
                scanned += plan.indices.size
            since = first
        return draws[:limit], since


def _state(job: Job) -> Hashable:
    """What changes whenever the table or its evidence may: another plan, report or policy, more samples."""
    history, versions = job.history, job.versions.versions
    return history.total, job.planned_until, len(history.reports), len(versions), job.spec.samples


def _wants_action(live: LiveJob) -> bool:
    return live.asking > 0 and live.job.awaits_action()


async def _known(found: T) -> T:
    return found
