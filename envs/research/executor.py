"""Where cells are computed: a function of plain values, many at a time, and each result as soon as it is there.

    with processes(workers=2) as executor:
        for place, result in executor.map(train, cells):
            keep(cells[place], result)

What comes of a cell depends on the cell alone. Which process computes it, beside which others and in which order they
end, changes nothing: each takes one thread, and everything random is to follow from what is in the cell.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from multiprocessing import get_context, parent_process
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

Cell = TypeVar("Cell")
Result = TypeVar("Result")
ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ExecutorError(Exception):
    """Cells can't be computed where they were to be; what has come until then stands."""


class Executor(Protocol):
    """Computes cells somewhere. One map at a time."""

    @property
    def slots(self) -> int:
        """How many cells are computed at a time; may change while it works."""
        ...

    def map(self, function: Callable[[Cell], Result], cells: Iterable[Cell]) -> Iterator[tuple[int, Result]]:
        """The function's result of every cell, beside the cell's place in `cells` (from 0), as soon as it has come.

        function: one that another process can import by its name, so none of `__main__` and none within another.
        cells: values that pickle between processes of one program (numbers, strings, arrays, dataclasses of these);
        they are taken as they are needed, two a slot ahead. Results are to be such values too.

        Raises ValueError for a function that can't be imported, what the function raises for a cell, with the cell's
        place as a note, and ExecutorError where what computes is lost. Cells that are still computed then are given up.
        """
        ...


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


Handle = TypeVar("Handle")


def as_they_end(
    cells: Iterable[Cell],
    submit: Callable[[Cell], Handle],
    one_ended: Callable[[list[Handle]], Handle],
    result: Callable[[Handle], Result],
    slots: Callable[[], int],
) -> Iterator[tuple[int, Result]]:
    """The loop of `Executor.map`, for what can begin a cell, wait until one of several has ended, and tell its result.

    submit, result: may raise what `map` raises. one_ended: one of the handles. Two cells a slot are begun ahead.
    """
    waiting, begun = enumerate(cells), dict[Handle, int]()
    while True:
        for place, cell in islice(waiting, max(0, 2 * slots() - len(begun))):
            begun[submit(cell)] = place
        if not begun:
            return
        ended = one_ended([*begun])
        place = begun.pop(ended)
        try:
            came = result(ended)
        except Exception as error:
            error.add_note(f"in cell {place}")
            raise
        yield place, came


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


def check_importable(function: Callable[..., Any]) -> None:
    """Raises ValueError for a function that another process can't import by its name."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    try:
        found = module not in (None, "__main__") and attrgetter(name)(import_module(module)) is function
    except (ImportError, AttributeError):
        found = False
    if not found:
        raise ValueError(f"function must be importable by its name from a module, got {function!r}")


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
