"""Internal: a uniform order over what is left of an epoch, for when the service is out of reach."""

from collections.abc import Callable, Sequence

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Int64
from bss_service.core.calendar import Calendar
from bss_service.core.samples.table import SampleTable
from bss_service.core.sampling import draw_plan, drawn_before
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import LOCAL_VERSION
from trainer_client.exchange.prefetch import ScheduledBatch


class LocalOrder:
    """Remembers what the current epoch and the one before drew, and draws the rest of it uniformly."""

    def __init__(self, spec: Callable[[], JobSpec]) -> None:
        """spec: tells the job's, as it has grown by now."""
        self._spec = spec
        self._past: dict[int, Int64] = {}  # step -> (G,) batch
        self._drawn: dict[int, ScheduledBatch] = {}  # by step, drawn here and not given out yet
        self._latest = -1

    def remember(self, batch: ScheduledBatch) -> None:
        """Note a batch that was given out."""
        step, calendar = batch.step, self._spec().calendar()
        if step <= self._latest or calendar.epoch_of(step) != calendar.epoch_of(max(0, self._latest)):
            oldest = calendar.epoch_start(max(0, calendar.epoch_of(step) - 1))
            self._past = {s: indices for s, indices in self._past.items() if oldest <= s < step}
        self._past[step] = batch.indices
        self._latest = step

    def restart(self) -> None:
        """Forget what was drawn here: the service has given out batches since."""
        self._drawn = {}

    def draw(self, step: int) -> ScheduledBatch:
        """The batch of a step, all of whose predecessors in the epoch are remembered."""
        if step not in self._drawn:
            self._drawn = {batch.step: batch for batch in self._rest_of_epoch(step)}
        return self._drawn.pop(step)

    def _rest_of_epoch(self, step: int) -> list[ScheduledBatch]:
        spec = self._spec()
        calendar = spec.calendar()
        end = calendar.epoch_start(calendar.epoch_of(step) + 1)
        drawn = drawn_before(((s, batch[None]) for s, batch in self._past.items()), calendar, step)
        table = SampleTable.empty(spec.samples, spec.measurements())
        rows = draw_plan(calendar, step, end, Action(), table, drawn, spec.seed).indices
        return locally_drawn(step, rows.reshape(-1, spec.batch_size).astype(np.int64), calendar)


def locally_drawn(start: int, indices: Sequence[Int64] | Int64, calendar: Calendar) -> list[ScheduledBatch]:
    """Batches drawn without the service from step `start` on; indices: (G,) each."""
    return [
        ScheduledBatch(step, batch, calendar.epoch_of(step), LOCAL_VERSION, scored_until=step)
        for step, batch in enumerate(indices, start)
    ]
