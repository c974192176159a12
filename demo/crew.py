"""Worker processes that share out the runs."""

import multiprocessing
import queue
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from demo.plan import SAMPLES, Run
from demo.results import RunResult

WORKERS: Final = 2
STOP_SECONDS: Final = 15.0


class RunFailedError(Exception):
    """A worker could not finish a run."""


@dataclass(frozen=True, slots=True)
class Started:
    """A worker takes up a run."""

    run: Run


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """A run has ended so many epochs; accuracy: of the joint head on validation."""

    run: Run
    epochs: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A run is done."""

    result: RunResult


@dataclass(frozen=True, slots=True)
class Failed:
    """A run ended with an error."""

    job: str
    trace: str


Event = Started | EpochEnded | Finished | Failed


class Crew:
    """The workers and the lines to them."""

    def __init__(self, url: str, runs: Sequence[Run]) -> None:
        context = multiprocessing.get_context("spawn")
        self.stop = context.Event()
        self._events: Any = context.Queue()
        self._missing = len(runs)
        self._tasks: Any = context.Queue()  # kept: its locks are gone with it
        self._tasks.cancel_join_thread()  # runs that nobody takes up must not hold up the end
        for task in (*runs, *[None] * WORKERS):
            self._tasks.put(task)
        self._processes: list[SpawnProcess] = [
            context.Process(target=_work, args=(url, self._tasks, self._events, self.stop), name=f"demo-worker-{k}")
            for k in range(min(WORKERS, len(runs)))
        ]

    def start(self) -> None:
        """Start the processes; runs are taken up in order."""
        for process in self._processes:
            process.start()

    def events(self) -> Iterator[Started | EpochEnded | Finished]:
        """What happens, until all runs are done. Raises RunFailedError."""
        while self._missing:
            try:
                event: Event = self._events.get(timeout=0.5)
            except queue.Empty:
                self._check_alive()
                continue
            if isinstance(event, Failed):
                raise RunFailedError(f"run {event.job} failed:\n{event.trace}")
            if isinstance(event, Finished):
                self._missing -= 1
            yield event

    def end(self) -> None:
        """End the processes, those that are at work after their current step."""
        self.stop.set()
        deadline = time.monotonic() + STOP_SECONDS
        while any(p.is_alive() for p in self._processes) and time.monotonic() < deadline:
            _drain(self._events)  # a process ends only when what it has put is taken
            time.sleep(0.02)
        for process in self._processes:
            if process.is_alive():
                process.kill()
            if process.pid is not None:
                process.join()

    def _check_alive(self) -> None:
        dead = [p for p in self._processes if p.exitcode not in (None, 0)]
        if dead:
            raise RunFailedError(f"{dead[0].name} ended with status {dead[0].exitcode}")


@contextmanager
def working(url: str, runs: Sequence[Run]) -> Iterator[Crew]:
    """Workers at work on the runs; however the block is left, they are ended."""
    crew = Crew(url, runs)
    try:
        crew.start()
        yield crew
    finally:
        crew.end()


def _work(url: str, tasks: Any, events: Any, stop: Any) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and sets `stop`
    import torch

    from demo.runs import StoppedError, execute
    from trainer_client.reference.data import load

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    datasets = {data: load(data) for data in SAMPLES}
    while not stop.is_set() and (run := tasks.get()) is not None:
        events.put(Started(run))
        try:
            on_epoch = _epoch_reporter(run, events)
            result = execute(run, datasets[run.condition.data], url, on_epoch, lambda: _must_stop(stop, parent))
        except StoppedError:
            return
        except Exception:
            events.put(Failed(run.job, traceback.format_exc()))
            return
        events.put(Finished(result))


def _epoch_reporter(run: Run, events: Any) -> Callable[[int, float], None]:
    return lambda epochs, accuracy: events.put(EpochEnded(run, epochs, accuracy))


def _must_stop(stop: Any, parent: Any) -> bool:
    return stop.is_set() or not parent.is_alive()


def _drain(events: Any) -> None:
    try:
        while True:
            events.get_nowait()
    except queue.Empty:
        return
