"""A service's jobs in memory, beside other services that have the rest of the store's."""

import asyncio
from collections import defaultdict

import sqlalchemy as sa
import structlog

from bss_service.journal.owning.membership import Membership
from bss_service.journal.owning.shards import shard_of
from bss_service.registry import JobRegistry, LiveJob

log = structlog.get_logger()


class Sharing:
    """Lets go of jobs that have become another's, and gives some away where others have fewer."""

    def __init__(self, jobs: JobRegistry, membership: Membership) -> None:
        self._jobs = jobs
        self._membership = membership

    async def keep(self) -> None:
        """After each look at who owns what, until cancelled."""
        loop, looked = asyncio.get_running_loop(), asyncio.Event()
        self._membership.looked = lambda: _tell(loop, looked)
        while True:
            await looked.wait()
            looked.clear()
            try:
                await self._let_go_of_lost()
                await self._give_away()
            except Exception as error:  # it is tried again after the next look
                log.error("jobs not shared out", exc_info=error)

    async def _let_go_of_lost(self) -> None:
        lost = [job for job in self._jobs.all() if not self._membership.holds(job.job.spec.name, job.fence)]
        if lost:
            log.warning("jobs let go of: they are another service's, or may be", jobs=len(lost))
            await self._jobs.let_go(lost)

    async def _give_away(self) -> None:
        """Give away what is more than one's share, as much of the shards that are busy as of those that are idle."""
        view = self._membership.view
        if not view.surplus:
            return
        lives: dict[int, list[LiveJob]] = defaultdict(list)
        for live in self._jobs.all():
            lives[shard_of(live.job.spec.name)].append(live)
        by_use = sorted(view.epochs, key=lambda shard: max((live.used for live in lives[shard]), default=0.0))
        given = [by_use[k * len(by_use) // view.surplus] for k in range(view.surplus)]
        with self._membership.leaving(given):
            await self._jobs.let_go([live for shard in given for live in lives[shard]])
            try:
                await asyncio.to_thread(self._membership.hand_over, given)
            except sa.exc.SQLAlchemyError as error:
                log.warning("shards not handed over", error=str(error).split("\n")[0])


def _tell(loop: asyncio.AbstractEventLoop, looked: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(looked.set)
