"""What an executor is, and what all of them share."""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import islice
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

Cell = TypeVar("Cell")
Result = TypeVar("Result")
Handle = TypeVar("Handle")
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


def check_importable(function: Callable[..., Any]) -> None:
    """Raises ValueError for a function that another process can't import by its name."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    try:
        found = module not in (None, "__main__") and attrgetter(name)(import_module(module)) is function
    except (ImportError, AttributeError):
        found = False
    if not found:
        raise ValueError(f"function must be importable by its name from a module, got {function!r}")
