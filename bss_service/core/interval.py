"""An interval of a run: observe, draw, learn. What a job that is served does, and a student in an environment."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.calendar import Calendar
from bss_service.core.evidence.features import Confusion, features
from bss_service.core.evidence.partial import PartialJudge, partial_features
from bss_service.core.evidence.posterior import Evidence, Judge
from bss_service.core.observation import Observation, observe
from bss_service.core.samples.table import SampleTable
from bss_service.core.sampling import Drawn, Proceed, draw_plan, unasked
from bss_service.core.validation.reward import Report


def judge_interval(
    table: SampleTable, judge: Judge, reports: Sequence[Report], confusion: Confusion | None
) -> Evidence | None:
    """The evidence of all samples before an interval; None of a table without training dynamics.

    reports: of validations so far; confusion: that of the last, if it has one.
    """
    return None if table.dynamics is None else judge.judge(len(table), features(table, reports, confusion))


def judge_interval_partly(table: SampleTable, judge: PartialJudge, reports: Sequence[Report]) -> Evidence:
    """The same of a table that lacks training dynamics, and has losses."""
    heads = table.signals.heads
    return judge.judge(len(table), heads - 1, partial_features(table, reports))


def observe_interval(
    table: SampleTable,
    calendar: Calendar,
    first_step: int,
    *,
    horizon: int | None,
    reports: Sequence[Report],
    previous: Action | None,
    evidence: Evidence | None = None,
) -> Observation:
    """What a policy sees before the interval that begins at `first_step`. previous: the action of the one before."""
    epoch = calendar.epoch_of(first_step)
    return observe(
        table,
        step=first_step,
        epoch=epoch,
        steps_per_epoch=calendar.positions_of(epoch) / calendar.batch_size,
        horizon=horizon,
        reports=reports,
        previous=previous,
        evidence=evidence,
    )


def draw_interval(
    table: SampleTable,
    calendar: Calendar,
    first_step: int,
    end_step: int,
    action: Action,
    drawn: Bool,
    seed: int,
    evidence: Evidence | None = None,
    proceed: Proceed = unasked,
    window: Int64 | None = None,
) -> Drawn:
    """Refresh the moving averages as the action says, and draw the batches of the steps [first_step, end_step).

    drawn: (n,) samples that have come in the epoch already. proceed: called again and again; raises what is to end this
    before it is done. window: as of `draw_plan`. Returns arrays of shape (end_step − first_step, G, …).
    """
    table.refresh(action.ema)
    rows = draw_plan(calendar, first_step, end_step, action, table, drawn, seed, evidence, proceed, window)
    shape = (end_step - first_step, calendar.batch_size)
    return replace(
        rows,
        indices=rows.indices.reshape(shape),
        probabilities=rows.probabilities.reshape(shape),
        probes=None if rows.probes is None else rows.probes.reshape(shape),
        masked=None if rows.masked is None else rows.masked.reshape(*shape, -1),
    )


def learn_interval(table: SampleTable, indices: Int64, steps: Int64, values: Float32) -> None:
    """Write down what training steps measured: indices (k,), steps (k,) ascending, values (k, S)."""
    np.add.at(table.times_measured, indices, np.uint32(1))
    table.measure(indices, steps, values)
