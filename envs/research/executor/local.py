"""Cells computed by processes of this machine."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process

from envs.research.executor.base import ONE_THREAD, Cell, Executor, ExecutorError, Result, as_they_end, check_importable


@contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """Computes on this machine, in so many processes. They end with the context, or with the process that began it."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    with _environment(ONE_THREAD):
        pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin)
        try:
            yield _Processes(pool, workers)
        except BaseException:
            for process in [*(pool._processes or {}).values()]:  # from Python 3.14 on pool.terminate_workers()
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Processes:
    pool: ProcessPoolExecutor
    slots: int

    def map(self, function: Callable[[Cell], Result], cells: Iterable[Cell]) -> Iterator[tuple[int, Result]]:
        check_importable(function)

        def submit(cell: Cell) -> Future[Result]:
            with _told_when_broken():
                return self.pool.submit(function, cell)

        return as_they_end(cells, submit, _one_ended, _result, lambda: self.slots)


def _one_ended(futures: list[Future[Result]]) -> Future[Result]:
    return next(iter(wait(futures, return_when=FIRST_COMPLETED).done))


def _result(future: Future[Result]) -> Result:
    with _told_when_broken():
        return future.result()


@contextmanager
def _told_when_broken() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise ExecutorError(
            "a process ended while it computed cells; if it was killed for the memory it took, fewer workers need less"
        ) from None


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """What processes that are started within find in their environment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin() -> None:
    """What a process does first."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who interrupts the command sees one traceback, not one a process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed is told by nobody else that nobody waits for it."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
