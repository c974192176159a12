"""Requests of a job beside each other: one that takes long, fails or goes away leaves the others as they should be."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bss_service import registry
from bss_service.core.signals import EVIDENCE
from bss_service.errors import ConflictError, PlanningError, StoreError, TooEarlyError, UnknownStepError
from bss_service.host import Host, work
from bss_service.job import job
from bss_service.journal import engine as database
from bss_service.journal.store import Store
from bss_service.journal.transaction import Transaction
from bss_service.protocol.policies import PolicySpec, SwapRequest
from bss_service.protocol.training import AttachRequest, FeedbackRequest, LocalBatchesRequest, StepsRequest
from bss_service.registry import LiveJob
from bss_service.telemetry.metrics import Metrics
from tests.support.simulated import measured, spec
from tests.support.trained import made_up

SECONDS = 20


class Gate:
    """Makes a function wait, in the thread that calls it, until it is opened."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.reached.set()
        assert self.opened.wait(SECONDS)
        return self._function(*arguments, **options)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/bss.sqlite")
    yield opened
    opened.close()


async def answered_meanwhile(gate: Gate, slow: Coroutine[Any, Any, Any], other: Callable[[], Any]) -> Any:
    """The slow call's answer; another call is answered while it waits at the gate."""
    waiting = asyncio.create_task(slow)
    try:
        assert await asyncio.to_thread(gate.reached.wait, SECONDS)
        async with asyncio.timeout(SECONDS / 2):
            await other()
    finally:
        gate.opened.set()
    return await waiting


def test_a_refusal_tells_of_nothing_that_is_not_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would name the holder of a place that nobody has any more once the service was killed."""
    gate = Gate(store._commit)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job"))
        monkeypatch.setattr(store, "_commit", gate)
        first = asyncio.create_task(host.attach("job", AttachRequest(client="first", host="gpu-1", process=1)))
        assert await asyncio.to_thread(gate.reached.wait, SECONDS)
        second = asyncio.create_task(host.attach("job", AttachRequest(client="second", host="gpu-2", process=2)))
        for _ in range(100):  # turns of the loop, of which an answer takes a few
            await asyncio.sleep(0)
        assert not second.done()
        gate.opened.set()
        await first
        with pytest.raises(ConflictError, match="is held by"):
            await second

    asyncio.run(use())


def test_an_observation_is_computed_without_the_jobs_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(job.observe_interval)
    monkeypatch.setattr(job, "observe_interval", gate)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=work.LITTLE + 1))
        seen = await answered_meanwhile(gate, host.observation("job", 0), lambda: host.state("job"))
        assert seen.first_step == 0

    asyncio.run(use())


def test_evidence_of_a_list_is_computed_without_the_jobs_lock_and_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(job.judge_interval)
    monkeypatch.setattr(job, "judge_interval", gate)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", signals=list(EVIDENCE)))
        listing = host.samples("job", "label", 10)
        assert (await answered_meanwhile(gate, listing, lambda: host.state("job"))).samples == []
        monkeypatch.setattr(job, "judge_interval", None)
        assert (await host.samples("job", "label", 10)).known == 0

    asyncio.run(use())


def test_evidence_of_a_plan_is_computed_beside_the_loop(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(job.judge_interval)
    monkeypatch.setattr(job, "judge_interval", gate)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("other"))
        await host.create(spec("job", samples=work.LITTLE // work.EVIDENCE + 1, signals=list(EVIDENCE)))
        steps = host.steps("job", StepsRequest(start=0))
        assert len((await answered_meanwhile(gate, steps, lambda: host.state("other"))).batches.indices) == 1

    asyncio.run(use())


def test_an_artefact_is_read_without_a_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = [Gate(store.artefact), Gate(store.artefact)]

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job"))
        manifest, _ = await host.upload(made_up())
        policy = PolicySpec(name="artefact", parameters={"sha256": manifest.sha256})
        monkeypatch.setattr(store, "artefact", gates[0])
        swapped = host.swap("job", SwapRequest(policy=policy))
        assert (await answered_meanwhile(gates[0], swapped, lambda: host.state("job"))).changed
        monkeypatch.setattr(store, "artefact", gates[1])
        created = host.create(spec("acts").model_copy(update={"policy": policy}))
        assert (await answered_meanwhile(gates[1], created, lambda: host.create(spec("other")))).created

    asyncio.run(use())


def test_a_held_request_is_refused_where_a_clients_batches_lead_back_to_before_its_step(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=8, batch_size=2, patience=0.2))
        came = (await host.steps("job", StepsRequest(start=0, count=4))).batches.indices
        held = asyncio.create_task(host.steps("job", StepsRequest(start=4)))
        while not host._jobs._live["job"].asking:
            await asyncio.sleep(0)
        await host.adopt("job", LocalBatchesRequest(start=2, indices=np.array([came[3]])))
        with pytest.raises(UnknownStepError, match="the next is step 3"):
            await held
        assert (await host.decisions("job", 0, 10)).total == 1

    asyncio.run(use())


def test_a_plan_made_at_once_is_not_in_the_snapshot_before_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveJob, "snapshot_is_due", property(lambda live: live.snapshot is None))
    last: dict[str, Any] = {}

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=16, interval=1))
        for step in range(9):
            answer = await host.steps("job", StepsRequest(start=step, **last))
            last["feedback"] = measured(step, answer.batches.indices[0])
            if (snapshot := host._jobs._live["job"].snapshot) is not None:
                await snapshot
            assert (await Host(store, Metrics(), 10**6).state("job")).next_step == step + 1  # a restart draws the same

    asyncio.run(use())


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """The file as long as another process writes to it."""
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that waits for no other process."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0)
    opened = Store(f"sqlite:///{tmp_path}/bss.sqlite")
    yield opened
    opened.close()


async def begun(store: Store) -> tuple[Host, np.ndarray]:
    """A host with a job, and the batch that the job has handed out."""
    host = Host(store, Metrics(), 10**6)
    await host.create(spec("job", interval=1, patience=0.1))
    return host, (await host.steps("job", StepsRequest(start=0))).batches.indices[0]


def test_a_change_that_is_not_stored_after_its_request_has_gone_is_forgotten(
    impatient: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use() -> None:
        host, drawn = await begun(impatient)
        fence = host._jobs._live["job"].fence
        told = FeedbackRequest(rank=1, world_size=2, feedback=measured(0, drawn[4:]))
        gate = Gate(impatient._commit)
        with locked(tmp_path / "bss.sqlite"), monkeypatch.context() as patched:
            patched.setattr(impatient, "_commit", gate)
            request = asyncio.create_task(host.feedback("job", told))
            assert await asyncio.to_thread(gate.reached.wait, SECONDS)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            gate.opened.set()
            while not fence.closed:
                await asyncio.sleep(0.01)
        with pytest.raises(StoreError, match="ask once more"):
            await host.state("job")
        assert (await host.feedback("job", told)).feedback == ["applied"]

    asyncio.run(use())


def test_who_waits_for_an_interval_that_takes_long_is_told_so_and_it_is_drawn(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(job.draw_interval)
    expected = job.Job(spec("job"), {}).plan().indices[:2]
    monkeypatch.setattr(job, "draw_interval", gate)
    monkeypatch.setattr(work, "LITTLE", 0)
    monkeypatch.setattr(work, "LONG", 0)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job"))
        monkeypatch.setattr(registry, "SOON", 0.01)
        for asked in (lambda: host.steps("job", StepsRequest(start=0)), lambda: host.state("job")):
            with pytest.raises(PlanningError, match="the next interval of job 'job' is being drawn: ask again"):
                await asked()
        monkeypatch.setattr(registry, "SOON", SECONDS)
        waiting = asyncio.create_task(host.steps("job", StepsRequest(start=0, count=2)))
        gate.opened.set()
        assert (await waiting).batches.indices.tolist() == expected.tolist()
        assert (await host.state("job")).spec == spec("job")

    asyncio.run(use())


def test_what_keeps_an_interval_that_takes_long_from_being_drawn_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(job, "draw_interval", fails)
    monkeypatch.setattr(work, "LITTLE", 0)
    monkeypatch.setattr(work, "LONG", 0)

    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job"))
        with pytest.raises(StoreError, match="no room"):
            await host.steps("job", StepsRequest(start=0))

    asyncio.run(use())


def test_feedback_that_is_not_stored_is_told_also_where_its_request_is_refused(
    impatient: Store, tmp_path: Path
) -> None:
    async def use() -> None:
        host, drawn = await begun(impatient)
        request = StepsRequest(start=1, rank=1, world_size=2, feedback=measured(0, drawn[4:]))
        with locked(tmp_path / "bss.sqlite"), pytest.raises(StoreError, match="was not stored"):
            await host.steps("job", request)  # which comes too early besides
        with pytest.raises(TooEarlyError):
            await host.steps("job", request)
        again = FeedbackRequest(rank=1, world_size=2, feedback=measured(0, drawn[4:]))
        assert (await host.feedback("job", again)).feedback == ["repeated"]

    asyncio.run(use())


def test_a_commit_goes_on_when_nobody_waits_for_it_any_more(store: Store, tmp_path: Path) -> None:
    with locked(tmp_path / "bss.sqlite"):
        given_up = store.commit(Transaction("job", created=spec("job")))
        given_up.cancel()
    given_up.result(SECONDS)
    assert store.job_names() == ["job"]
    store.commit(Transaction("job", deleted=True)).result(SECONDS)


def test_a_job_created_while_its_predecessor_is_being_deleted_is_another(store: Store, tmp_path: Path) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job"))
        with locked(tmp_path / "bss.sqlite"):
            deleting = asyncio.create_task(host.delete("job"))
            while "job" in host._jobs._live:
                await asyncio.sleep(0)
            deleting.cancel()  # as when the service stops; the store deletes it nevertheless
            creating = asyncio.create_task(host.create(spec("job", samples=60)))
            await asyncio.wait([creating], timeout=0.5)
        assert (await creating).created
        assert (await Host(store, Metrics(), 10**6).state("job")).spec.samples == 60

    asyncio.run(use())


def test_a_deleted_job_is_not_counted_as_one_in_memory(store: Store) -> None:
    metrics = Metrics()

    async def use() -> None:
        host = Host(store, metrics, 10**6)
        for name in ("stays", "goes"):
            await host.create(spec(name))
        await host.delete("goes")

    asyncio.run(use())
    assert b"bss_live_jobs 1.0" in metrics.text()


def asking(client: str, rank: int = 0, world_size: int = 1, **options: Any) -> AttachRequest:
    return AttachRequest(client=client, host="gpu-1", process=7, rank=rank, world_size=world_size, **options)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_waits_is_refused_as_soon_as_its_place_is_taken(store: Store, rank: int) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", patience=600.0, lag=0))
        await host.attach("job", asking("first", rank, 2))
        batches = (await host.steps("job", StepsRequest(start=0, count=100))).batches
        request = StepsRequest(start=len(batches.indices), rank=rank, world_size=2, client="first")
        waiting = asyncio.create_task(host.steps("job", request))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await host.attach("job", asking("second", rank, 2, resume=True, instead_of=["first"]))
        with pytest.raises(
            ConflictError, match=f"rank {rank} of job 'job' was taken over by process 7 on gpu-1"
        ) as told:
            await asyncio.wait_for(waiting, SECONDS)
        assert (told.value.field, told.value.value) == ("client", "second")
        assert (await host.state("job")).next_step == len(batches.indices)

    asyncio.run(use())


def test_a_rank_of_a_run_that_another_run_has_replaced_is_refused(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job"))
        for rank in (0, 1):
            await host.attach("job", asking(f"old-{rank}", rank, 2))
        late = StepsRequest(start=0, rank=1, world_size=2, client="old-1")
        await host.steps("job", StepsRequest(start=0, world_size=2, client="old-0"))
        assert len((await host.steps("job", late)).batches.indices) == 1
        await host.attach("job", asking("new", resume=True, instead_of=["old-0", "old-1"]))
        with pytest.raises(ConflictError, match=r"rank 1 .* whose run of 1 ranks has nobody at that rank") as told:
            await host.steps("job", late)
        assert (told.value.field, told.value.value) == ("client", "new")

    asyncio.run(use())


def test_what_was_handed_out_to_who_trains_is_replaced_by_nobody_else(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=40, batch_size=8, policy="uniform"))
        await host.attach("job", asking("first"))
        came = (await host.steps("job", StepsRequest(start=0, count=3, client="first"))).batches.indices
        rest = np.setdiff1d(np.arange(40), came[:2])[:8][None]
        for stranger in (None, "second"):
            with pytest.raises(
                ConflictError, match="step 2 of job 'job' was handed out, and rank 0 is trained"
            ) as told:
                await host.adopt("job", LocalBatchesRequest(start=2, indices=rest, client=stranger))
            assert (told.value.field, told.value.value) == ("start", 2)
        assert ((await host.batches("job", 0, 3)).indices == came).all()
        own = LocalBatchesRequest(start=2, indices=rest, client="first")  # its answer with step 2 was lost
        assert (await host.adopt("job", own)).outcome == "applied"
        assert (await host.adopt("job", own)).outcome == "repeated"

    asyncio.run(use())


def test_another_ranks_batches_are_replaced_by_no_rank(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", samples=40, batch_size=8, policy="uniform"))
        for rank in (0, 1):
            await host.attach("job", asking(f"rank-{rank}", rank, 2))
        came = (await host.steps("job", StepsRequest(start=0, count=2, world_size=2, client="rank-0"))).batches.indices
        rest = np.setdiff1d(np.arange(40), came[0])[:8][None]
        with pytest.raises(ConflictError, match=r"step 1 of job 'job' was handed out, .*client rank-1"):
            await host.adopt("job", LocalBatchesRequest(start=1, indices=rest, client="rank-0"))

    asyncio.run(use())
