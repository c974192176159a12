"""What a service has in memory of a store that others share: told and kept only as long as it is this service's."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from bss_service.errors import MovedError, StoreError, UnownedError
from bss_service.host import Host
from bss_service.journal.owning.membership import Member, Membership
from bss_service.journal.owning.shards import SHARDS
from bss_service.journal.store import Store
from bss_service.protocol.training import StepsRequest
from bss_service.telemetry.metrics import Metrics
from tests.support.postgres import Postgres
from tests.support.simulated import spec

LONG = 3600.0  # seconds, in which nobody looks but the test
Use = Callable[[Host, Membership], Coroutine[Any, Any, None]]


@pytest.fixture
def database(postgres: Postgres, job_name: str) -> str:
    return postgres.database(job_name[-40:])


@pytest.fixture
def use(database: str) -> Iterator[Callable[[Use], None]]:
    """Lets something be done with a host that has drawn two steps of a job."""
    store = Store(database, Member("http://a:1", LONG))
    membership = store.membership
    assert membership is not None

    async def run(do: Use) -> None:
        host = Host(store, Metrics(), 10**6)
        await host.create(spec("run"))
        await host.steps("run", StepsRequest(start=0, count=2))
        sharing = asyncio.create_task(host.share())
        await asyncio.sleep(0)  # it has begun
        await do(host, membership)
        sharing.cancel()
        await host.close()

    yield lambda do: asyncio.run(run(do))
    store.close()


async def looked(membership: Membership, host: Host) -> None:
    """What follows a look has come to its end."""
    membership.looked()
    while host._jobs.all():
        await asyncio.sleep(0.01)


def test_an_owner_whose_term_is_over_tells_nothing_from_memory_and_lets_go(use: Callable[[Use], None]) -> None:
    async def cut_off(host: Host, membership: Membership) -> None:
        assert (await host.batches("run", 0, 2)).indices.shape == (2, 8)
        end = membership.view.until
        membership._clock = lambda: end
        with pytest.raises(UnownedError, match="could not renew its term"):
            await host.batches("run", 0, 2)
        await looked(membership, host)
        membership._clock = lambda: end - 1
        assert (await host.batches("run", 0, 2)).indices.shape == (2, 8)  # loaded again

    use(cut_off)


def test_a_stale_owner_that_does_not_know_it_stores_nothing_and_lets_go(
    use: Callable[[Use], None], database: str, postgres: Postgres
) -> None:
    async def replaced(host: Host, membership: Membership) -> None:
        other = await asyncio.to_thread(Store, database, Member("http://b:1", LONG))
        moved = "UPDATE shards SET epoch = epoch + 1, owner = 'http://b:1'"
        await asyncio.to_thread(postgres.ask, database.rpartition("/")[2], moved)
        with pytest.raises(StoreError, match="belongs to another service by now"):
            await host.steps("run", StepsRequest(start=2, count=1))
        assert host._jobs.all() == []
        for action in (host.state("run"), host.delete("run"), host.create(spec("run"))):
            with pytest.raises(MovedError, match="is served by http://b:1"):
                await action
        assert len((await host.jobs()).jobs) == 1
        await asyncio.to_thread(other.close)

    use(replaced)


def test_what_is_more_than_its_share_is_given_away_once_nothing_of_it_is_half_done(
    use: Callable[[Use], None], database: str
) -> None:
    async def joined(host: Host, membership: Membership) -> None:
        [live] = host._jobs.all()
        await host.create(spec("asked-for-later"))  # of two that are busy one goes
        other = await asyncio.to_thread(Store, database, Member("http://b:1", LONG))
        async with live.changed:
            await asyncio.to_thread(membership.look)
            membership.looked()
            await asyncio.sleep(0.05)
            assert len(membership.view.epochs) == SHARDS
        while len(membership.view.epochs) == SHARDS:
            await asyncio.sleep(0.01)
        assert other.membership is not None
        await asyncio.to_thread(other.membership.look)
        assert len(membership.view.epochs) == len(other.membership.view.epochs) == SHARDS // 2
        await asyncio.to_thread(other.close)

    use(joined)
