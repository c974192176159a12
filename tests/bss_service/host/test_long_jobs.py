"""What a job keeps in memory and in its snapshots does not grow with its decisions; all of them can be read."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bss_service.errors import InvalidValueError
from bss_service.host import Host
from bss_service.job import history
from bss_service.job.snapshot import Snapshot
from bss_service.journal.store import Store
from bss_service.protocol import frames
from bss_service.protocol.training import FeedbackRequest, StepsRequest
from bss_service.telemetry.metrics import Metrics
from tests.support.simulated import measured, report, spec

BLOCK = 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "BLOCK", BLOCK)
    monkeypatch.setattr("bss_service.job.shown.summaries.BLOCK", BLOCK)
    monkeypatch.setattr("bss_service.registry.SNAPSHOT_ENTRIES", 6)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Host]:
    """A service of which nothing but the store is left afterwards."""
    store = Store(f"sqlite:///{folder}/bss.sqlite")
    host = Host(store, Metrics(), 10**6)
    yield host
    await host.close()
    store.close()


async def train(host: Host, name: str, steps: range, every: int = 8) -> np.ndarray:
    """Steps with feedback, and a report now and then; their batches."""
    came = []
    for step in steps:
        came.append((await host.steps(name, StepsRequest(start=step))).batches.indices[0])
        await host.feedback(name, FeedbackRequest(feedback=measured(step, came[-1])))
        if step % every == 0:
            await host.validate(name, report(step))
    return np.array(came)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


JOB = spec("job", interval=1, policy="bandit")


def test_a_job_with_many_decisions_goes_on_after_restarts_and_tells_all_of_them(tmp_path: Path) -> None:
    async def use() -> None:
        async with opened(tmp_path) as host:
            await host.create(JOB)
            await host.create(JOB.model_copy(update={"name": "undisturbed"}))
            expected = await train(host, "undisturbed", range(40))
            came = [await train(host, "job", range(30))]
            held = next(live.job.history for live in host._jobs.all() if live.job.spec.name == "job")
            assert len(held.decisions) < 6 * BLOCK < held.total == 30
        async with opened(tmp_path) as host:
            came.append(await train(host, "job", range(30, 40)))
        async with opened(tmp_path) as host:
            assert (np.concatenate(came) == expected).all()
            whole = await host.decisions("job", 0, 1000)
            assert [d.first_step for d in whole.decisions] == [*range(40)]
            assert (whole.total, len([d for d in whole.decisions if d.rewarded_at is not None])) == (40, 32)
            for start in (0, 3, 17, 33, 39, 40):
                page = await host.decisions("job", start, 7)
                assert page.decisions == whole.decisions[start : start + 7]
            lines = (await host.series("job", "decisions", 2000)).message
            assert lines.rows == 40
            other = await host.decisions("undisturbed", 0, 1000)
            assert [d.reward for d in whole.decisions] == [d.reward for d in other.decisions]

    run(use)


def test_a_restart_reads_none_of_the_decisions_that_have_left_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[Any, ...]] = []

    async def use() -> None:
        async with opened(tmp_path) as host:
            await host.create(JOB)
            await train(host, "job", range(30))
        monkeypatch.setattr(Store, "decisions", lambda _, *asked: read.append(asked) or [])
        async with opened(tmp_path) as host:
            await train(host, "job", range(30, 34))
            assert read == []
            await host.decisions("job", 0, 1)
            assert read == [("job", 0, 1)]

    run(use)


def test_a_portable_snapshot_has_all_decisions_in_it_and_one_of_a_store_is_refused(tmp_path: Path) -> None:
    async def use() -> None:
        async with opened(tmp_path) as host:
            await host.create(JOB)
            await train(host, "job", range(30))
            portable = Snapshot.from_frame(await host.snapshot("job"))
            await host.put_snapshot("copy", portable)
            copied, known = await host.decisions("copy", 0, 100), await host.decisions("job", 0, 100)
            assert copied == known
            assert (await train(host, "copy", range(30, 40)) == await train(host, "job", range(30, 40))).all()
            copied, known = await host.decisions("copy", 0, 100), await host.decisions("job", 0, 100)
            assert (copied, copied.total) == (known, 40)
            stored = await asyncio.to_thread(host._store.load, "job")
            kept = Snapshot.from_frame(stored.snapshot)
            assert (len(kept.decisions) + kept.past.total) > len(kept.decisions)
            with pytest.raises(
                InvalidValueError, match=r"past must be null: the first .* decisions stand in the store"
            ):
                await host.put_snapshot("other", kept)

    run(use)


def test_a_store_of_version_5_lets_go_of_its_decisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its snapshots hold all of them, in format 3."""

    async def use() -> None:
        with monkeypatch.context() as before:
            before.setattr(history, "BLOCK", 1000)
            async with opened(tmp_path) as host:
                await host.create(JOB)
                await host.create(JOB.model_copy(update={"name": "undisturbed"}))
                expected = await train(host, "undisturbed", range(40))
                await train(host, "job", range(30))
        as_version_5(tmp_path / "bss.sqlite")
        async with opened(tmp_path) as host:
            assert (await train(host, "job", range(30, 40)) == expected[30:]).all()
        async with opened(tmp_path) as host:
            assert (await host.decisions("job", 0, 1000)).total == 40
            assert len((await host.decisions("job", 0, 1000)).decisions) == 40
            assert (await host.batches("job", 0, 1)).indices.tolist() == expected[:1].tolist()

    run(use)


def as_version_5(path: Path) -> None:
    """Write the snapshots of a store as that version did, and nothing that it did not have."""
    import sqlite3
    from contextlib import closing

    from bss_service.journal.schema import checksum

    with closing(sqlite3.connect(path)) as connection, connection:
        rows = connection.execute("SELECT job, seq, part, parts, body FROM snapshots").fetchall()
        assert rows
        for job, seq, part, parts, body in rows:
            assert parts == 1
            message = frames.decode(body)
            flags = np.zeros(1024, np.bool_)
            for start, stop in message["ledger"]["complete"]:
                flags[start:stop] = True
            message["ledger"]["complete"], message["format"] = flags, 3
            old = frames.encode(message)
            changed = (old, checksum(old, job, seq, part, parts), job, seq)
            connection.execute("UPDATE snapshots SET body = ?, checksum = ? WHERE job = ? AND seq = ?", changed)
        connection.execute("DROP TABLE decisions")
        for column in ("first_step", "base"):
            connection.execute(f"ALTER TABLE snapshots DROP COLUMN {column}")
        connection.execute("UPDATE meta SET schema_version = 5")
