"""The feedback ledger: which rows of which steps have come, each counted once, and what waits to be learnt."""

from dataclasses import dataclass, field

import numpy as np

from bss_service.core.arrays import Bool, Float32, Int64


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of some rows of one step's batch; k rows."""

    step: int
    row: int  # the first of the rows
    indices: Int64  # (k,) samples
    values: Float32  # (k, S), NaN where not known


@dataclass(slots=True)
class FeedbackLedger:
    """Rows are kept apart by step and position, so that ranks may come in any order, number and repetition."""

    batch_size: int
    complete: Bool = field(default_factory=lambda: np.zeros(1024, dtype=np.bool_))  # by step; False beyond its end
    partial: dict[int, Bool] = field(default_factory=dict)  # step -> (G,) rows that have come
    waiting: dict[int, list[Measured]] = field(default_factory=dict)  # not yet learnt, by step
    first_missing: int = 0  # every earlier step is complete, or no longer waited for

    def is_complete(self, step: int) -> bool:
        """Whether all rows of the step have come."""
        return step < len(self.complete) and bool(self.complete[step])

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

    def any_since(self, step: int) -> bool:
        """Whether feedback has come for the step or a later one."""
        return bool(self.complete[step:].any()) or any(known >= step for known in self.partial)

    def _complete(self, step: int) -> None:
        if step >= len(self.complete):
            grown = np.zeros(max(step + 1, 2 * len(self.complete)), dtype=np.bool_)
            grown[: len(self.complete)] = self.complete
            self.complete = grown
        self.complete[step] = True
        self._advance()

    def _advance(self) -> None:
        while self.is_complete(self.first_missing):
            self.first_missing += 1
