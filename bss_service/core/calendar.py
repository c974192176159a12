"""Which step belongs to which epoch and interval: integer arithmetic, exact at any size."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

Tail = Literal["carry", "drop"]
Earlier = tuple[tuple[int, int], ...]  # (samples, first epoch that has more) of each size before, both rising


class _Era(NamedTuple):
    """Epochs of one size."""

    epoch: int  # its first
    position: int  # where that begins
    samples: int
    length: int  # positions of each


@dataclass(frozen=True, slots=True)
class Calendar:
    """A job's positions (one for each sample drawn), steps, epochs and intervals, all counted from 0.

    Step s covers the positions [s·G, (s+1)·G). An epoch is as many positions long as it has samples where the tail
    that does not fill a batch is carried into the next epoch, ⌊n/G⌋·G where it is dropped. A carried tail opens the
    next epoch's first batch, so epochs of as many samples differ in length by at most one step.
    """

    samples: int  # n ≥ 1, of the epochs since the job grew last
    batch_size: int  # G, 1 ≤ G ≤ n, also of the epochs before
    tail: Tail
    interval: int | None  # steps; None: one epoch each
    earlier: Earlier = ()  # of a job that has grown; one whose epoch is 0 was grown before anything was drawn
    _eras: tuple[_Era, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        eras: list[_Era] = []
        epoch = position = 0
        for samples, until in self.earlier:
            if until > epoch:
                eras.append(_Era(epoch, position, samples, self._length(samples)))
                epoch, position = until, position + (until - epoch) * self._length(samples)
        eras.append(_Era(epoch, position, self.samples, self._length(self.samples)))
        object.__setattr__(self, "_eras", tuple(eras))

    @property
    def epoch_positions(self) -> int:
        """Positions an epoch since the job grew last: n (carry) or ⌊n/G⌋·G (drop)."""
        return self._eras[-1].length

    def samples_of(self, epoch: int) -> int:
        """How many samples an epoch has; they are those below that number."""
        return self._of_epoch(epoch).samples

    def positions_of(self, epoch: int) -> int:
        """How many positions an epoch has."""
        return self._of_epoch(epoch).length

    def epoch_begin(self, epoch: int) -> int:
        """First position of an epoch."""
        era = self._of_epoch(epoch)
        return era.position + (epoch - era.epoch) * era.length

    def epoch_at(self, position: int) -> int:
        """The epoch that a position lies in."""
        era = self._eras[-1]
        if position < era.position:
            era = next(era for era in reversed(self._eras) if era.position <= position)
        return era.epoch + (position - era.position) // era.length

    def epoch_start(self, epoch: int) -> int:
        """First step of an epoch."""
        return self.epoch_begin(epoch) // self.batch_size

    def epoch_of(self, step: int) -> int:
        """The epoch that a step is counted in."""
        return self.epoch_at((step + 1) * self.batch_size - 1)

    def epoch_after(self, step: int) -> int:
        """The first epoch of which no step before `step` holds anything."""
        return self.epoch_at(step * self.batch_size - 1) + 1 if step else 0

    def interval_bounds(self, step: int) -> tuple[int, int]:
        """First step of the interval that holds `step`, and the first step after it."""
        if self.interval is None:
            epoch = self.epoch_of(step)
            return self.epoch_start(epoch), self.epoch_start(epoch + 1)
        start = step // self.interval * self.interval
        return start, start + self.interval

    def alike_until(self, first_step: int, end_step: int) -> int:
        """Where in [first_step, end_step) epochs of another size begin, but for its start; else its end."""
        starts = (self.epoch_start(era.epoch) for era in self._eras[1:])
        return next((start for start in starts if first_step < start < end_step), end_step)

    def segments(self, first_step: int, end_step: int) -> Iterator[tuple[int, int, int]]:
        """The (epoch, first position, end position) runs that the steps [first_step, end_step) cover."""
        position, end = first_step * self.batch_size, end_step * self.batch_size
        while position < end:
            epoch = self.epoch_at(position)
            stop = min(end, self.epoch_begin(epoch + 1))
            yield epoch, position, stop
            position = stop

    def grown(self, samples: int, epoch: int) -> Self:
        """The calendar of a job that has more samples from an epoch on, of which nothing is drawn yet."""
        before = self.samples_of(epoch - 1) if epoch else min([self.samples, *(size for size, _ in self.earlier)])
        kept = tuple(size for size in self.earlier if size[1] < epoch)
        return replace(self, samples=samples, earlier=(*kept, (before, epoch)))

    def before(self) -> Self:
        """The calendar before the job grew last."""
        return replace(self, samples=self.earlier[-1][0], earlier=self.earlier[:-1])

    def grown_at(self) -> int:
        """The first step since the job grew last; 0 if it never has."""
        return self.epoch_start(self._eras[-1].epoch)

    def _length(self, samples: int) -> int:
        return samples if self.tail == "carry" else samples // self.batch_size * self.batch_size

    def _of_epoch(self, epoch: int) -> _Era:
        return next(era for era in reversed(self._eras) if era.epoch <= epoch)
