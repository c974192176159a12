"""A job that keeps so many epochs: batches of earlier ones are gone, its store does not grow, all else is the same."""

import asyncio
import sqlite3
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bss_service.errors import GoneError, StoreError
from bss_service.host import Host
from bss_service.journal.store import Store
from bss_service.journal.transaction import Transaction
from bss_service.protocol.jobs import JobChange
from bss_service.protocol.training import FeedbackRequest, StepsRequest
from tests.bss_service.host.test_long_jobs import opened, run, train
from tests.support.simulated import measured, spec

KEPT = spec("job", samples=16, batch_size=4, policy="balance", keep_epochs=2)  # 4 steps an epoch
FOREVER = KEPT.model_copy(update={"name": "forever", "keep_epochs": None})


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots, after which what is kept no longer is removed."""
    monkeypatch.setattr("bss_service.registry.SNAPSHOT_ENTRIES", 6)
    monkeypatch.setattr("bss_service.job.history.BLOCK", 4)


async def settled(host: Host, name: str) -> int:
    """The first step that is kept, once nothing more is being removed."""
    live = next(live for live in host._jobs.all() if live.job.spec.name == name)
    while live.snapshot is not None:
        await asyncio.wait({live.snapshot})
    return live.job.kept_from


def stored(folder: Path, job: str) -> tuple[int, int, int]:
    """The first step of a job's first plan, the number of its first journal entry, and how many snapshots there are."""
    with closing(sqlite3.connect(folder / "bss.sqlite")) as connection:
        [plan] = connection.execute("SELECT min(first_step) FROM plans WHERE job = ?", (job,)).fetchone()
        [entry] = connection.execute("SELECT min(seq) FROM journal WHERE job = ?", (job,)).fetchone()
        [count] = connection.execute("SELECT count(DISTINCT seq) FROM snapshots WHERE job = ?", (job,)).fetchone()
    return plan, entry, count


def test_batches_of_epochs_that_are_not_kept_are_gone_and_all_others_as_they_were(tmp_path: Path) -> None:
    async def use() -> None:
        async with opened(tmp_path) as host:
            for job in (KEPT, FOREVER):
                await host.create(job)
            came, expected = await train(host, "job", range(40)), await train(host, "forever", range(40))
            assert (came == expected).all()
            first = await settled(host, "job")
            assert 24 <= first <= 32  # epoch 10 is reached; the latest snapshot may be of a moment before
            assert (await host.state("job")).kept_from == first
            sentence = f"job 'job' is kept no longer, by its keep_epochs of 2: the first that is kept is step {first}, "
            with pytest.raises(GoneError, match=sentence):
                await host.batches("job", first - 1, 1)
            with pytest.raises(GoneError, match=sentence):
                await host.steps("job", StepsRequest(start=first - 1))
            assert (await host.batches("job", first, 40 - first)).indices.tolist() == expected[first:].tolist()
            again = await host.feedback("job", FeedbackRequest(feedback=measured(2, came[2])))
            assert again.feedback == ["repeated"]
            assert (await host.batches("forever", 0, 40)).indices.tolist() == expected.tolist()
        plan, entry, snapshots = stored(tmp_path, "job")
        assert plan == first
        assert entry > 20
        assert snapshots <= 3
        async with opened(tmp_path) as host:
            with pytest.raises(GoneError, match=sentence):
                await host.batches("job", 0, 1)
            assert (await train(host, "job", range(40, 60)) == await train(host, "forever", range(40, 60))).all()

    run(use)


@pytest.mark.parametrize("lost", ["the latest snapshot", "a plan"])
def test_what_is_kept_is_enough_to_repair_damage(tmp_path: Path, lost: str) -> None:
    async def use() -> None:
        async with opened(tmp_path) as host:
            await host.create(KEPT)
            came = await train(host, "job", range(40))
            first = await settled(host, "job")
        with closing(sqlite3.connect(tmp_path / "bss.sqlite")) as connection, connection:
            if lost == "a plan":
                connection.execute("UPDATE plans SET body = x'00' WHERE first_step = ?", (first,))
            else:
                connection.execute(
                    "UPDATE snapshots SET checksum = checksum + 1 WHERE seq = (SELECT max(seq) FROM snapshots)"
                )
        async with opened(tmp_path) as host:
            assert (await host.batches("job", first, 40 - first)).indices.tolist() == came[first:].tolist()
            await train(host, "job", range(40, 44))

    run(use)


def test_the_file_does_not_grow_once_as_many_epochs_are_stored_as_are_kept(tmp_path: Path) -> None:
    async def use() -> None:
        pages = []
        async with opened(tmp_path) as host:
            await host.create(KEPT)
            for epochs in (range(80), range(80, 240)):
                await train(host, "job", epochs, every=40)
                await settled(host, "job")
                with closing(sqlite3.connect(tmp_path / "bss.sqlite")) as connection:
                    pages.append(connection.execute("PRAGMA page_count").fetchone()[0])
        assert pages[1] <= 1.25 * pages[0]

    run(use)


def test_a_job_may_be_told_later_to_keep_less_and_a_removal_that_breaks_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use() -> None:
        async with opened(tmp_path) as host:
            await host.create(FOREVER)
            expected = await train(host, "forever", range(40))
            assert await settled(host, "forever") == 0
            assert stored(tmp_path, "forever")[:2] == (0, 1)
            monkeypatch.setattr("bss_service.journal.store.SOME_ROWS", 2)
            await host.change("forever", JobChange(keep_epochs=1))
            committed, removals = Store.commit, []

            def die(store: Store, transaction: Transaction) -> Future[None]:
                removals.append(transaction.removal is not None)
                if removals[-1] and sum(removals) > 2:
                    raise StoreError("no room")
                return committed(store, transaction)

            with monkeypatch.context() as breaking:
                breaking.setattr(Store, "commit", die)
                for step in range(40, 48):
                    expected = np.concatenate([expected, await train(host, "forever", range(step, step + 1))])
                first = await settled(host, "forever")
            assert first >= 28
            assert 0 < stored(tmp_path, "forever")[0] < first
        async with opened(tmp_path) as host:
            assert (await host.batches("forever", first, 48 - first)).indices.tolist() == expected[first:].tolist()
            with pytest.raises(GoneError):
                await host.batches("forever", first - 1, 1)
            await train(host, "forever", range(48, 56))
            first = await settled(host, "forever")
            assert stored(tmp_path, "forever")[0] == first

    run(use)
