"""Who looks at a job and who waits for it: neither keeps a trainer waiting."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bss_service.core import sampling
from bss_service.core.signals import EVIDENCE
from bss_service.errors import BusyError, ConflictError, CutBodyError, InvalidValueError, StoreError, TooManyError
from bss_service.host import Host, looks, work
from bss_service.http import routes
from bss_service.job import job
from bss_service.job.checks import PLAN_ROWS
from bss_service.job.lock import JobLock
from bss_service.journal.store import Store
from bss_service.protocol.jobs import JobList
from bss_service.protocol.training import LocalBatchesRequest, StepsRequest
from bss_service.telemetry.metrics import Metrics
from tests.support.simulated import spec

SECONDS = 20
LARGE = work.LITTLE + 1  # samples of a job that is not planned on the loop


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/bss.sqlite")
    yield opened
    opened.close()


class Counted:
    """A function that counts its calls and waits, in the thread that calls it, until it is let go."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.calls = 0
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        self.reached.set()
        assert self.opened.wait(SECONDS)
        return self._function(*arguments, **options)


def test_scans_that_take_long_keep_no_step_waiting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=LARGE, batch_size=LARGE, patience=0))
        await host.steps("job", StepsRequest(start=0))
        slow = Counted(store.plans)
        monkeypatch.setattr(store, "plans", slow)
        scans = [asyncio.create_task(host.sample("job", 5, 100)) for _ in range(40)]
        assert await asyncio.to_thread(slow.reached.wait, SECONDS)
        async with asyncio.timeout(SECONDS / 2):
            assert (await host.steps("job", StepsRequest(start=1))).batches.start == 1
        slow.opened.set()
        assert [len(state.draws) for state in await asyncio.gather(*scans)] == [1] * 40

    asyncio.run(use())


@pytest.mark.parametrize("scope", ["read", "train"])
def test_batches_that_have_left_memory_keep_no_step_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=8, patience=0))
        first = (await host.steps("job", StepsRequest(start=0))).batches
        for step in range(1, 6):
            await host.steps("job", StepsRequest(start=step))
        slow = Counted(store.plans)
        monkeypatch.setattr(store, "plans", slow)
        again = asyncio.create_task(
            host.batches("job", 0, 1) if scope == "read" else host.steps("job", StepsRequest(start=0))
        )
        assert await asyncio.to_thread(slow.reached.wait, SECONDS)
        async with asyncio.timeout(SECONDS / 2):
            assert (await host.steps("job", StepsRequest(start=6))).batches.start == 6
        slow.opened.set()
        answer = await again
        assert (getattr(answer, "batches", answer).indices == first.indices).all()

    asyncio.run(use())


def test_batches_of_a_job_that_was_made_anew_while_they_were_read_are_not_answered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        old = await host.create(spec("job", samples=8, patience=0))
        for step in range(6):
            await host.steps("job", StepsRequest(start=step))
        slow = Counted(store.plans)
        monkeypatch.setattr(store, "plans", slow)
        again = asyncio.create_task(host.batches("job", 0, 1, old.incarnation))
        assert await asyncio.to_thread(slow.reached.wait, SECONDS)
        await host.delete("job")
        await host.create(spec("job", samples=8, patience=0, seed=1))
        for step in range(6):
            await host.steps("job", StepsRequest(start=step))
        slow.opened.set()
        with pytest.raises(ConflictError, match="is another than the one of that name"):
            await again

    asyncio.run(use())


def test_no_more_look_at_once_than_may(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job"))
        slow = Counted(store.plans_before)
        monkeypatch.setattr(store, "plans_before", slow)
        scans = [asyncio.create_task(host.sample("job", 5, 100)) for _ in range(looks.MOST + 1)]
        await asyncio.wait(scans, return_when=asyncio.FIRST_COMPLETED)
        slow.opened.set()
        outcomes = await asyncio.gather(*scans, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [BusyError]

    asyncio.run(use())


def test_a_scan_for_draws_ends_and_tells_where(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "SCANNED_ROWS", 24)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=8, batch_size=4, interval=2, patience=0))
        for step in range(10):
            await host.steps("job", StepsRequest(start=step))
        state = await host.sample("job", 5, 100)
        assert (len(state.draws), state.draws_since) == (3, 4)  # three plans of eight rows, of ten steps

    asyncio.run(use())


def test_many_who_list_the_same_state_share_one_computation(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    judged, copied = Counted(job.judge_interval), 0
    monkeypatch.setattr(job, "judge_interval", judged)
    copy = looks.frozen

    def counted(*arguments: Any) -> Any:
        nonlocal copied
        copied += 1
        return copy(*arguments)

    monkeypatch.setattr(looks, "frozen", counted)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", signals=list(EVIDENCE)))
        lists = [asyncio.create_task(host.samples("job", order, 10)) for order in ("label", "pair", "label") * 4]
        assert await asyncio.to_thread(judged.reached.wait, SECONDS)
        judged.opened.set()
        await asyncio.gather(*lists)

    asyncio.run(use())
    assert (judged.calls, copied) == (1, 1)


def test_an_order_that_needs_no_evidence_reads_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "judge_interval", None)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", signals=list(EVIDENCE)))
        assert (await host.samples("job", "draws", 10)).known == 0
        assert (await host.samples("job", "loss", 10)).known == 0

    asyncio.run(use())


def test_one_who_leaves_does_not_end_what_others_wait_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = Counted(job.judge_interval)
    monkeypatch.setattr(job, "judge_interval", judged)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", signals=list(EVIDENCE)))
        leaves, stays = (asyncio.create_task(host.samples("job", "label", 10)) for _ in range(2))
        assert await asyncio.to_thread(judged.reached.wait, SECONDS)
        leaves.cancel()
        judged.opened.set()
        assert (await stays).known == 0

    asyncio.run(use())


def test_a_list_of_all_jobs_lets_others_go_on_between_two(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use() -> None:
        host, turns, seen = Host(store, Metrics(), 10**6), 0, []
        for number in range(3):
            await host.create(spec(f"job-{number}", groups=["dog", "cat"]))
        state = host._jobs.state

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def looked(name: str) -> Any:
            seen.append(turns)
            return await state(name)

        monkeypatch.setattr(host._jobs, "state", looked)
        other = asyncio.create_task(others())
        answer = await host.jobs()
        other.cancel()
        assert seen == sorted(set(seen))  # others had a turn between any two
        answer.unreadable, answer.heard = {"bad": "why"}, {"job-1": 0.5}
        assert JobList.from_answer(answer.to_json(), "application/json") == answer
        assert JobList.from_answer(JobList(jobs=[]).to_json(), "application/json") == JobList(jobs=[])

        def written(jobs: JobList) -> bytes:
            assert threading.current_thread() is not threading.main_thread()
            return b"{}"

        monkeypatch.setattr(JobList, "to_json", written)
        await routes.list_jobs(host)

    asyncio.run(use())


# Who waits.


def test_a_change_wakes_only_those_for_whom_it_came_true() -> None:
    async def use() -> None:
        lock, state, asked = JobLock(), 0, [0, 0, 0]

        async def wait(until: int) -> None:
            def is_true() -> bool:
                asked[until - 1] += 1
                return state >= until

            async with lock:
                await lock.wait_for(is_true)

        waiting = [asyncio.create_task(wait(until)) for until in (1, 2, 3)]
        await asyncio.sleep(0)
        async with lock:
            state = 1
            lock.notify_all()
        await waiting[0]
        assert [task.done() for task in waiting] == [True, False, False]
        assert asked == [3, 2, 2]  # at the begin, at the change, and the one that was woken once more
        async with lock:
            state = 3
            lock.notify_all()
        await asyncio.gather(*waiting)

    asyncio.run(use())


def test_whoever_waits_has_the_lock_again_whatever_ends_it() -> None:
    async def use() -> None:
        lock = JobLock()

        async def wait() -> None:
            async with lock:
                try:
                    await lock.wait_for(lambda: False)
                finally:
                    assert lock.locked()

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        async with lock:
            waiting.cancel()
            await asyncio.sleep(0)
            assert not waiting.done()  # not while another has it
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not lock.locked()

    asyncio.run(use())


def test_a_request_is_held_no_longer_than_its_client_is_there(store: Store) -> None:
    async def use() -> None:
        host, gone = Host(store, Metrics(), 10**6), asyncio.Event()
        await host.create(spec("job", policy="external"))
        held = [asyncio.create_task(host.observation("job", 600, gone.wait)) for _ in range(3)]
        while not host._jobs._live["job"].held:
            await asyncio.sleep(0)
        gone.set()
        for one in held:
            with pytest.raises(CutBodyError):
                await asyncio.wait_for(one, SECONDS)
        assert not host._jobs._live["job"].held

    asyncio.run(use())


def test_no_more_are_held_for_a_job_than_may(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "MAX_HELD", 2)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", policy="external"))
        held = [asyncio.create_task(host.observation("job", 600)) for _ in range(3)]
        done, waiting = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(TooManyError, match="2 requests are held for the same already"):
            await done.pop()
        assert len(waiting) == 2
        await host.release()
        for one in waiting:
            with pytest.raises(StoreError, match="ask again"):
                await one

    asyncio.run(use())


def test_who_only_looks_keeps_nobody_out_who_acts(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", policy="external"))
        held = [asyncio.create_task(host.observation("job", 600, may_act=False)) for _ in range(looks.MAX_HELD + 1)]
        done, _ = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(TooManyError, match="requests are held for the same already"):
            await done.pop()
        assert not (await host.observation("job", 0.1)).trainer_waiting  # it was held, and its time came to an end
        await host.release()
        await asyncio.gather(*held, return_exceptions=True)

    asyncio.run(use())


# What takes long.


def test_a_stop_ends_a_plan_that_is_being_drawn_and_the_next_start_draws_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, stopped = threading.Event(), threading.Event()
    rows = sampling.uniform_rows

    def held(*arguments: int) -> np.ndarray:
        reached.set()
        assert stopped.wait(SECONDS)
        return rows(*arguments)

    asked = spec("job", samples=LARGE, batch_size=LARGE, interval=2, tail="drop")

    async def use() -> None:
        monkeypatch.setattr(sampling, "uniform_rows", held)
        host = Host(store, Metrics(), 10**6)
        await host.create(asked)
        drawing = asyncio.create_task(host.steps("job", StepsRequest(start=0)))
        assert await asyncio.to_thread(reached.wait, SECONDS)
        await host.release()
        stopped.set()
        with pytest.raises(StoreError, match="the service stops: ask again"):
            await drawing
        monkeypatch.setattr(sampling, "uniform_rows", rows)
        again = Host(store, Metrics(), 10**6)
        assert (await again.state("job")).next_step == 0
        assert len((await again.steps("job", StepsRequest(start=0, count=2))).batches.indices) == 2

    asyncio.run(use())


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"samples": 1000, "batch_size": 1000}, 1000),  # epochs
        ({"samples": 49_999, "batch_size": 49_999}, PLAN_ROWS // 49_999),
        ({"samples": 3 * PLAN_ROWS, "batch_size": PLAN_ROWS}, 3),  # one epoch may always be an interval
    ],
)
def test_an_interval_is_bounded_by_the_rows_of_its_plan(store: Store, fields: dict[str, int], most: int) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**8)
        with pytest.raises(InvalidValueError, match=f"interval must be at most {most} steps .* got {most + 1}") as told:
            await host.create(spec("job", interval=most + 1, **fields))
        assert (told.value.status, told.value.field, told.value.value) == (422, "interval", most + 1)

    asyncio.run(use())


def test_batches_that_a_client_drew_are_bounded_by_their_number(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=1, batch_size=1))
        with pytest.raises(InvalidValueError, match="indices must have at most 4096 batches of 1 samples, got 5000"):
            await host.adopt("job", LocalBatchesRequest(start=0, indices=np.zeros((5000, 1), dtype=np.int64)))

    asyncio.run(use())
