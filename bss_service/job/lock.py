"""Whose turn it is to change a job, and who waits for something to come true of it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from bss_service.errors import CutBodyError

Leaving = Callable[[], Coroutine[Any, Any, object]]  # returns once the client has gone


class JobLock:
    """A job's lock, and those who wait, without it, for something to come true of the job."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._lock.locked()

    def notify_all(self) -> None:
        """Wake those, and only those, for whom it has come true what they wait for."""
        for waiter, is_true in self._waiting.items():
            if not waiter.done() and is_true():
                waiter.set_result(None)

    async def wait_for(self, is_true: Callable[[], bool], leaving: Leaving | None = None) -> None:
        """Let the lock go until something is true. Raises CutBodyError once the client has gone.

        Between a change that made it true and the turn of who waits another may make it false again.
        """
        while not is_true():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting[waiter] = is_true
            watch = None if leaving is None else asyncio.create_task(_watch(leaving, waiter))
            self._lock.release()
            try:
                await waiter
            finally:
                del self._waiting[waiter]
                if watch is not None:
                    watch.cancel()
                await _again(self._lock)


async def _watch(leaving: Leaving, waiter: asyncio.Future[None]) -> None:
    await leaving()
    if not waiter.done():
        waiter.set_exception(CutBodyError("the client has gone before it was answered"))


async def _again(lock: asyncio.Lock) -> None:
    """Take a lock, whatever comes between: who has it thinks so. Raises a cancellation afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            await lock.acquire()
            break
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
