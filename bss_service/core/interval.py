"""An interval of a run: observe, draw, learn. What a job that is served does, and a student in an environment."""

from collections.abc import Sequence

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.calendar import Calendar
from bss_service.core.observation import Observation, observe
from bss_service.core.reward import Report
from bss_service.core.samples.table import SampleTable
from bss_service.core.sampling import Drawn, draw_plan


def observe_interval(
    table: SampleTable,
    calendar: Calendar,
    first_step: int,
    *,
    horizon: int | None,
    reports: Sequence[Report],
    previous: Action | None,
) -> Observation:
    """What a policy sees before the interval that begins at `first_step`. previous: the action of the one before."""
    return observe(
        table,
        step=first_step,
        epoch=calendar.epoch_of(first_step),
        steps_per_epoch=calendar.epoch_positions / calendar.batch_size,
        horizon=horizon,
        reports=reports,
        previous=previous,
    )


def draw_interval(
    table: SampleTable, calendar: Calendar, first_step: int, end_step: int, action: Action, drawn: Bool, seed: int
) -> Drawn:
    """Refresh the moving averages as the action says, and draw the batches of the steps [first_step, end_step).

    drawn: (n,) samples that have come in the epoch already. Returns arrays of shape (end_step − first_step, G).
    """
    table.refresh(action.ema)
    rows = draw_plan(calendar, first_step, end_step, action, table, drawn, seed)
    shape = (end_step - first_step, calendar.batch_size)
    return Drawn(rows.indices.reshape(shape), rows.probabilities.reshape(shape))


def learn_interval(table: SampleTable, indices: Int64, steps: Int64, values: Float32) -> None:
    """Write down what training steps measured: indices (k,), steps (k,) ascending, values (k, S)."""
    np.add.at(table.times_measured, indices, np.uint32(1))
    table.measure(indices, steps, values)
