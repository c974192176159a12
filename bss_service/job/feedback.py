"""The feedback ledger: which rows of which steps have come, each counted once, and what waits to be learnt."""

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from bss_service.core.arrays import Bool, Float32, Int64


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of some rows of one step's batch; k rows."""

    step: int
    row: int  # the first of the rows
    indices: Int64  # (k,) samples
    values: Float32  # (k, S), NaN where not known


class StepSet:
    """Steps, kept as runs of consecutive ones: those of a training that leaves none out are one, however long it is."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []  # both rising; no run touches the next
        self._stops: list[int] = []

    @classmethod
    def of_runs(cls, runs: Int64) -> Self:
        """The inverse of `runs`."""
        steps = cls()
        steps._starts, steps._stops = runs[:, 0].tolist(), runs[:, 1].tolist()
        return steps

    def runs(self) -> Int64:
        """The first step of each run, and the first step after it, (r, 2)."""
        return np.array([self._starts, self._stops], dtype=np.int64).T

    def copy(self) -> Self:
        """The same steps, which stay as they are."""
        steps = type(self)()
        steps._starts, steps._stops = self._starts.copy(), self._stops.copy()
        return steps

    def __contains__(self, step: int) -> bool:
        return step < self.end_of_run(step)

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)

    def end_of_run(self, step: int) -> int:
        """The first step from one on that is not among them."""
        k = bisect_right(self._starts, step) - 1
        return max(step, self._stops[k]) if k >= 0 else step

    @property
    def stop(self) -> int:
        """The first step after all of them."""
        return self._stops[-1] if self._stops else 0

    def add(self, step: int) -> None:
        """Put a step among them, if it is not there."""
        if step in self:
            return
        k = bisect_right(self._starts, step)
        follows = k > 0 and self._stops[k - 1] == step
        leads = k < len(self._starts) and self._starts[k] == step + 1
        if follows and leads:
            self._stops[k - 1] = self._stops[k]
            del self._starts[k], self._stops[k]
        elif follows:
            self._stops[k - 1] += 1
        elif leads:
            self._starts[k] = step
        else:
            self._starts.insert(k, step)
            self._stops.insert(k, step + 1)


@dataclass(slots=True)
class FeedbackLedger:
    """Rows are kept apart by step and position, so that ranks may come in any order, number and repetition."""

    batch_size: int
    complete: StepSet = field(default_factory=StepSet)
    partial: dict[int, Bool] = field(default_factory=dict)  # step -> (G,) rows that have come
    waiting: dict[int, list[Measured]] = field(default_factory=dict)  # not yet learnt, by step
    first_missing: int = 0  # every earlier step is complete, or no longer waited for

    def is_complete(self, step: int) -> bool:
        """Whether all rows of the step have come."""
        return step in self.complete

    def new_rows(self, step: int, rows: range) -> Int64:
        """Those of some rows of a step that have not come yet."""
        if self.is_complete(step):
            return np.empty(0, dtype=np.int64)
        wanted = np.arange(rows.start, rows.stop, dtype=np.int64)
        known = self.partial.get(step)
        return wanted if known is None else wanted[~known[rows.start : rows.stop]]

    def record(self, step: int, rows: Int64, measured: Measured | None) -> None:
        """Count rows as come, and keep what was measured of them until it is learnt."""
        if len(rows) == self.batch_size:
            self.partial.pop(step, None)
            self._complete(step)
        else:
            self._record_partly(step, rows)
        if measured is not None:
            self.waiting.setdefault(step, []).append(measured)

    def _record_partly(self, step: int, rows: Int64) -> None:
        come = self.partial.setdefault(step, np.zeros(self.batch_size, dtype=np.bool_))
        come[rows] = True
        if come.all():
            del self.partial[step]
            self._complete(step)

    def waiting_before(self, step: int) -> list[Measured]:
        """What waits of the steps before one, in order of step and row."""
        steps = sorted(s for s in self.waiting if s < step)
        return [m for s in steps for m in sorted(self.waiting[s], key=lambda m: m.row)]

    def take_before(self, step: int) -> list[Measured]:
        """Remove and return that."""
        taken = self.waiting_before(step)
        for s in {m.step for m in taken}:
            del self.waiting[s]
        return taken

    def stop_waiting(self, until: int) -> None:
        """Wait no longer for what is missing of the steps before `until`; it still counts if it comes."""
        self.first_missing = max(self.first_missing, until)
        self._advance()

    def wait_from(self, step: int) -> None:
        """Wait again for the steps from `step` on: other batches have taken the place of theirs."""
        self.first_missing = min(self.first_missing, step)

    @property
    def stop(self) -> int:
        """The first step after all of which feedback has come."""
        return max(self.complete.stop, max(self.partial, default=-1) + 1)

    def any_since(self, step: int) -> bool:
        """Whether feedback has come for the step or a later one."""
        return step < self.stop

    def _complete(self, step: int) -> None:
        self.complete.add(step)
        self._advance()

    def _advance(self) -> None:
        self.first_missing = self.complete.end_of_run(self.first_missing)
