"""How much work an act on a job is, and where it is done: a little on the loop, more beside it, much in turn."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

from bss_service.job.job import Job

# Work is counted in rows of arrays that are gone through: about 0.1 µs each.
LITTLE: Final = 8_192  # the loop does it at once
MUCH: Final = 2**20
LONG: Final = 2**24  # nobody's request waits for its end
MUCH_AT_ONCE: Final = max(1, min(2, (os.cpu_count() or 1) // 2))  # so that jobs of usual size find a processor
STEP: Final = 100  # rows that a step of feedback costs beside its own
EVIDENCE: Final = 20  # rows that the evidence of a sample costs
T = TypeVar("T")


class Bench:
    """Where work is done."""

    def __init__(self) -> None:
        self._much = asyncio.Semaphore(MUCH_AT_ONCE)

    async def do(self, rows: int, function: Callable[..., T], *arguments: Any) -> T:
        """What a function returns that costs so much."""
        if rows <= LITTLE:
            return function(*arguments)
        async with AsyncExitStack() as turns:
            if rows > MUCH:
                await turns.enter_async_context(self._much)
            return await asyncio.to_thread(function, *arguments)


def of_table(job: Job) -> int:
    """To look at all samples of a job, and at their evidence."""
    return job.spec.samples * (EVIDENCE if job.reads_evidence else 1)


def of_history(job: Job) -> int:
    """To look at all decisions and reports of a job."""
    return 2 * (len(job.history.decisions) + len(job.history.reports))


def of_plan(job: Job) -> int:
    """To draw a job's next interval."""
    first, end = job.calendar.interval_bounds(job.planned_until)
    return of_table(job) + of_history(job) + (end - first) * job.spec.batch_size
