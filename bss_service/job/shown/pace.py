"""The pace of a job: how fast its steps were handed out while it was in memory, and what its trainer waited for."""

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from bss_service.core.arrays import Float64

MOST: Final = 2000  # stretches of time that are kept apart


class Pace:
    """Sums over stretches of time, which get twice as long whenever there are too many. Not journaled."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sums: dict[int, list[float]] = {}  # steps, seconds held, seconds planned, by number of the stretch
        self.seconds = 1.0  # that a stretch has
        self.heard: float | None = None  # when the trainer last asked

    def hand_out(self, steps: int) -> None:
        """So many steps went out for the first time."""
        self._add(0, steps)
        self.heard = self._clock()

    def hold(self, seconds: float) -> None:
        """A request for the next interval was held so long, for feedback, a report or an action from outside."""
        self._add(1, seconds)

    def plan(self, seconds: float) -> None:
        """An interval took so long to plan."""
        self._add(2, seconds)

    def silence(self) -> float | None:
        """Seconds since the trainer last asked; None where it has not yet."""
        return None if self.heard is None else max(0.0, self._clock() - self.heard)

    def rows(self) -> tuple[Float64, Float64]:
        """When each stretch begins (k,), seconds since 1970; and steps a second, share held, share planned, (k, 3)."""
        if not self._sums:
            return np.empty(0), np.empty((0, 3))
        first, last = min(self._sums), max(self._sums)
        nothing = [0.0, 0.0, 0.0]
        sums = np.array([self._sums.get(number, nothing) for number in range(first, last + 1)])
        return np.arange(first, last + 1, dtype=np.float64) * self.seconds, sums / self.seconds

    def _add(self, column: int, amount: float) -> None:
        number = int(self._clock() // self.seconds)
        sums = self._sums.get(number)
        if sums is None:
            sums = self._sums[number] = [0.0, 0.0, 0.0]
            while max(self._sums) - min(self._sums) >= MOST:
                sums = self._widen()
        sums[column] += amount

    def _widen(self) -> list[float]:
        """Join each two stretches; the latest of them."""
        wide: dict[int, list[float]] = {}
        for number, sums in self._sums.items():
            joined = wide.setdefault(number // 2, [0.0, 0.0, 0.0])
            joined[:] = [a + b for a, b in zip(joined, sums, strict=True)]
        self._sums, self.seconds = wide, 2 * self.seconds
        return wide[max(wide)]
