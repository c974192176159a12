"""What an executor keeps to, and what becomes of processes that are lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from envs.research.executor import Executor, ExecutorError, processes


def squared(number: int) -> int:
    if number < 0:
        raise ValueError(f"number must be at least 0, got {number}")
    return number * number


def threads(_: int) -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"))


def when_opened(fifo: str | None) -> str:
    return Path(fifo).read_text() if fifo else "at once"


def killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with processes(2) as made:
        yield made


def test_every_cell_comes_once_beside_its_place(executor: Executor) -> None:
    came = list(executor.map(squared, range(3, 23)))
    assert sorted(came) == [(k, (k + 3) ** 2) for k in range(20)]


def test_a_cell_that_ends_is_told_while_an_earlier_one_is_computed(executor: Executor, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    came = executor.map(when_opened, [str(fifo), None])
    assert next(came) == (1, "at once")
    fifo.write_text("later")
    assert list(came) == [(0, "later")]


def test_cells_are_taken_as_they_are_needed(executor: Executor) -> None:
    cells = iter(range(1000))
    next(executor.map(squared, cells))
    assert next(cells) == 2 * executor.slots


def test_a_cell_is_computed_on_one_thread(executor: Executor) -> None:
    assert list(executor.map(threads, [0])) == [(0, ("1", "1", "1"))]


def test_what_a_cell_raises_is_raised_and_names_its_place(executor: Executor) -> None:
    with pytest.raises(ValueError, match="at least 0, got -1") as raised:
        list(executor.map(squared, [-1]))
    assert raised.value.__notes__ == ["in cell 0"]
    assert list(executor.map(squared, [2])) == [(0, 4)]


@pytest.mark.parametrize("function", [lambda cell: cell, [].append])
def test_a_function_that_no_other_process_can_import_is_refused(executor: Executor, function: Any) -> None:
    with pytest.raises(ValueError, match="function must be importable by its name"):
        executor.map(function, [0])


def test_a_process_that_is_killed_is_told() -> None:
    with processes(1) as alone, pytest.raises(ExecutorError, match="a process ended while it computed"):
        list(alone.map(killed, [0]))


def test_fewer_than_one_process_are_refused() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"), processes(0):
        pass


def test_processes_end_with_the_one_that_began_them() -> None:
    begin = (
        "import time\n"
        "from envs.research.executor import processes\n"
        "with processes(1) as executor:\n"
        "    print(next(executor.map(abs, [-1])), flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", begin], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        begun = psutil.Process(program.pid).children(recursive=True)
        program.kill()
        gone, alive = psutil.wait_procs(begun, timeout=30)
    assert gone
    assert not alive
