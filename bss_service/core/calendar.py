"""Which step belongs to which epoch and interval: integer arithmetic, exact at any size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Tail = Literal["carry", "drop"]


@dataclass(frozen=True, slots=True)
class Calendar:
    """A job's positions (one for each sample drawn), steps, epochs and intervals, all counted from 0.

    Step s covers the positions [s·G, (s+1)·G). An epoch is `epoch_positions` positions long: all n samples where the
    tail that does not fill a batch is carried into the next epoch, ⌊n/G⌋·G of them where it is dropped.
    A carried tail opens the next epoch's first batch, so epochs differ in length by at most one step.
    """

    samples: int  # n ≥ 1
    batch_size: int  # G, 1 ≤ G ≤ n
    tail: Tail
    interval: int | None  # steps; None: one epoch each

    @property
    def epoch_positions(self) -> int:
        """Positions an epoch: n (carry) or ⌊n/G⌋·G (drop)."""
        return self.samples if self.tail == "carry" else self.samples // self.batch_size * self.batch_size

    def epoch_start(self, epoch: int) -> int:
        """First step of an epoch."""
        return epoch * self.epoch_positions // self.batch_size

    def epoch_of(self, step: int) -> int:
        """The epoch that a step is counted in."""
        return ((step + 1) * self.batch_size - 1) // self.epoch_positions

    def interval_bounds(self, step: int) -> tuple[int, int]:
        """First step of the interval that holds `step`, and the first step after it."""
        if self.interval is None:
            epoch = self.epoch_of(step)
            return self.epoch_start(epoch), self.epoch_start(epoch + 1)
        start = step // self.interval * self.interval
        return start, start + self.interval

    def segments(self, first_step: int, end_step: int) -> Iterator[tuple[int, int, int]]:
        """The (epoch, first position, end position) runs that the steps [first_step, end_step) cover."""
        position, end = first_step * self.batch_size, end_step * self.batch_size
        while position < end:
            epoch = position // self.epoch_positions
            stop = min(end, (epoch + 1) * self.epoch_positions)
            yield epoch, position, stop
            position = stop
