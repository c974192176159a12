"""Memory and disk that jobs may take together: what does not fit is refused, and what nobody uses makes room."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bss_service import registry
from bss_service.core.samples.keys import KEY_BYTES
from bss_service.core.signals import EVIDENCE
from bss_service.errors import BusyError, ConflictError, NoRoomError, TooLargeError
from bss_service.host import Host
from bss_service.job.room import bytes_of
from bss_service.journal.store import Store
from bss_service.protocol.jobs import JobChange
from bss_service.protocol.samples import SampleDescriptions, SampleKeys
from bss_service.protocol.training import FeedbackRequest, Scores, StepsRequest
from bss_service.telemetry.metrics import Metrics
from tests.support.simulated import measured, spec

ONE = bytes_of(spec("job"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/bss.sqlite")
    yield opened
    opened.close()


def figure(metrics: Metrics, name: str) -> float:
    [value] = re.findall(rf"^{name} (\S+)$", metrics.text().decode(), re.MULTILINE)
    return float(value)


def test_a_job_for_which_there_is_no_memory_is_refused_and_told_what_would_fit(store: Store) -> None:
    metrics = Metrics()

    async def use() -> None:
        host = Host(store, metrics, 10**6, memory=3 * ONE)
        await host.create(spec("first"))
        with pytest.raises(
            NoRoomError, match=r"samples must be at most 100 now, got 500: .* \(setting max_memory\)"
        ) as told:
            await host.create(spec("large", samples=500))
        assert (told.value.status, told.value.field, told.value.value) == (507, "samples", 500)
        assert [job.spec.name for job in (await host.jobs()).jobs] == ["first"]
        await host.create(spec("fits", samples=100))
        await host.delete("fits")
        await host.create(spec("again", samples=100))

    asyncio.run(use())
    assert figure(metrics, "bss_jobs_bytes") == 3 * ONE == figure(metrics, "bss_jobs_bytes_limit")


def test_a_job_grows_as_far_as_there_is_memory_and_is_told_how_far(store: Store) -> None:
    metrics = Metrics()

    async def use() -> None:
        host = Host(store, metrics, 10**6, memory=3 * ONE)
        for name in ("first", "second"):
            await host.create(spec(name))
        with pytest.raises(NoRoomError, match="samples must be at most 100 now, got 101") as told:
            await host.change("first", JobChange(samples=101))
        assert (told.value.status, told.value.field, told.value.value) == (507, "samples", 101)
        with pytest.raises(TooLargeError, match="max_samples") as large:
            await Host(store, Metrics(), 99).change("first", JobChange(samples=100))
        assert (large.value.status, large.value.field) == (413, "samples")
        assert (await host.state("first")).spec.samples == 50
        assert (await host.change("first", JobChange(samples=100))).spec.samples == 100
        assert figure(metrics, "bss_jobs_bytes") == 3 * ONE
        with pytest.raises(NoRoomError, match=r"keys must wait, which need \d+ bytes more: jobs take \d+ bytes"):
            await host.register("second", SampleKeys(keys=["a"]))
        await host.delete("second")
        await host.register("first", SampleKeys(keys=["a", "b"]))
        assert figure(metrics, "bss_jobs_bytes") == 2 * ONE + 2 * (KEY_BYTES + 1)
        with pytest.raises(BusyError, match="samples must be at most 50 now, got 100"):
            await Host(store, Metrics(), 10**6, memory=ONE).state("first")  # larger than it was made

    asyncio.run(use())


def test_jobs_made_at_once_share_the_room(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6, memory=2 * ONE)
        made = await asyncio.gather(*(host.create(spec(f"job-{k}")) for k in range(4)), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in made) == ["JobState"] * 2 + ["NoRoomError"] * 2

    asyncio.run(use())


def test_a_job_that_nobody_has_asked_for_lately_makes_room_and_comes_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6, memory=2 * ONE)
        await host.create(spec("cold"))
        drawn = (await host.steps("cold", StepsRequest(start=0))).batches
        await host.create(spec("warm"))
        with pytest.raises(NoRoomError):
            await host.create(spec("third"))
        monkeypatch.setattr(registry, "COLD_SECONDS", 0.0)
        await host.state("warm")
        await host.create(spec("third"))
        assert sorted(host._jobs._live) == ["third", "warm"]
        again = (await host.steps("cold", StepsRequest(start=0))).batches
        assert again.indices.tolist() == drawn.indices.tolist()

    asyncio.run(use())


def test_a_known_job_for_which_there_is_no_room_yet_is_asked_for_again(store: Store) -> None:
    async def use() -> None:
        await Host(store, Metrics(), 10**6).create(spec("large", samples=500))
        host = Host(store, Metrics(), 10**6, memory=2 * ONE)
        with pytest.raises(BusyError, match="samples must be at most 100 now, got 500") as told:
            await host.state("large")
        assert told.value.status == 503  # the client comes again
        assert list((await host.jobs()).unreadable) == ["large"]

    asyncio.run(use())


def test_a_job_that_has_stored_all_that_it_may_changes_no_more(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6, stored=2000)
        await host.create(spec("job"))
        drawn = (await host.steps("job", StepsRequest(start=0, count=6))).batches.indices
        for step, batch in enumerate(drawn):
            last = FeedbackRequest(feedback=measured(step, batch))
            try:
                await host.feedback("job", last)
            except NoRoomError as error:
                assert (error.status, error.field) == (507, "job")
                break
        else:
            pytest.fail("all was stored")
        assert (await host.batches("job", 0, 6)).indices.tolist() == drawn.tolist()
        with pytest.raises(NoRoomError, match="max_stored_bytes"):
            await host.describe("job", SampleDescriptions(index=[0], texts=["a dog"]))
        again = Host(store, Metrics(), 10**6, stored=2000)  # it knows what is there
        with pytest.raises(NoRoomError, match="max_stored_bytes"):
            await again.feedback("job", last)
        assert (await Host(store, Metrics(), 10**6).feedback("job", last)).feedback == ["applied"]

    asyncio.run(use())


def measuring(rows: int) -> Scores:
    values = np.linspace(0, 1, rows, dtype=np.float32)
    return Scores(indices=np.arange(rows), similarity=values, loss=values)


def test_passes_that_wait_for_a_plan_take_no_more_memory_the_more_there_are(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job"))
        for _ in range(40):
            await host.measure("job", measuring(50))
        assert host._jobs._live["job"].job.rows_waiting <= 2 * 50
        assert (await Host(store, Metrics(), 10**6).state("job")).spec.samples == 50

    asyncio.run(use())


def test_where_each_pass_counts_as_a_visit_only_a_few_may_wait(store: Store) -> None:
    async def use() -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("job", signals=list(EVIDENCE), patience=0))
        for _ in range(4):
            await host.measure("job", measuring(50))
        with pytest.raises(ConflictError, match="at most 0 more until the next interval is drawn") as told:
            await host.measure("job", measuring(1))
        assert (told.value.field, told.value.value) == ("indices", 1)
        await host.steps("job", StepsRequest(start=0))
        await host.measure("job", measuring(50))

    asyncio.run(use())
