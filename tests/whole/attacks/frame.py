"""What attacks share: what they are, and an honest trainer whose steps tell how much they hurt."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Final, Self

import httpx
import numpy as np

from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import Batches, Feedback, StepsRequest
from tests.support.services import metric_in
from trainer_client.client import SchedulerClient

SECONDS: Final = 60.0  # after which something that was to come is given up


@dataclass(frozen=True)
class Outcome:
    """What came of an attack: a figure to be read, whether the promise held, and an honest trainer's longest step."""

    figure: str
    held: bool
    step: float = 0.0  # seconds

    def holds(self, step: float) -> bool:
        """Whether the promise held, and no step took so many seconds."""
        return self.held and self.step < step


Attack = Callable[[float], Outcome]  # given seconds for which to attack


def spec(name: str, **fields: Any) -> JobSpec:
    """A job of usual size."""
    usual: dict[str, Any] = {"samples": 20_000, "batch_size": 256, "modalities": ["audio", "video"], "interval": 20}
    return JobSpec(name=name, **{**usual, **fields})


class Trainer:
    """An honest trainer with a job of its own, in a thread; how long each of its steps took."""

    def __init__(self, url: str, **fields: Any) -> None:
        self._client = SchedulerClient(url, retries=0, timeout=SECONDS)
        self._spec = spec("honest", **fields)
        self._stopped = Event()
        self._thread = Thread(target=self._train)
        self.taken: list[float] = []
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._client.create_job(self._spec)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._client.close()

    def steps(self, number: int) -> Sequence[float]:
        """How long so many steps take from now on."""
        begun = len(self.taken)
        deadline = time.monotonic() + SECONDS
        while len(self.taken) < begun + number and self.error is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.error is not None:
            raise self.error
        return self.taken[begun:]

    def _train(self) -> None:
        feedback, step = None, 0
        try:
            while not self._stopped.is_set():
                begun = time.perf_counter()
                answer = self._client.steps("honest", StepsRequest(start=step, feedback=feedback))
                self.taken.append(time.perf_counter() - begun)
                feedback, step = measured(answer.batches), step + 1
        except Exception as error:
            self.error = error


def measured(batches: Batches) -> Feedback:
    """What a model might say of a batch."""
    x = np.full(batches.indices.shape, 0.5, dtype=np.float32)
    return Feedback(step=np.array([batches.start]), similarity=x, loss=x, probability=np.stack([x, x, x], axis=2))


def longest_hold(url: str) -> float:
    """Seconds that the service's event loop was held at the longest."""
    return metric(url, "bss_loop_longest_hold_seconds")


def metric(url: str, name: str) -> float:
    """A figure of the service's own."""
    return metric_in(httpx.get(f"{url}/metrics").text, name)


def ms(seconds: float) -> str:
    """As milliseconds."""
    return f"{1000 * seconds:,.0f} ms"
