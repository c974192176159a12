"""What a job refuses, before anything of it changes; each check raises an error that names the field and the value."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from bss_service.core.arrays import Float32, Int64, UInt16
from bss_service.core.calendar import Calendar
from bss_service.core.sampling import beyond, drawn_before
from bss_service.core.signals import Signals
from bss_service.errors import ConflictError, InvalidValueError, UnknownStepError
from bss_service.job.job import Job
from bss_service.job.plans import Plan, plan_of
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import (
    LOCAL_VERSION,
    MAX_COUNT,
    MAX_GROWTHS,
    UNKNOWN_BATCH,
    EarlierSize,
    Feedback,
    JobSize,
    LocalBatches,
    Scores,
    Window,
)
from bss_service.protocol.validation import ValidationReport

PLAN_ROWS: Final = 2**21  # of a plan, but for one epoch, which may have as many as there are samples
MAX_EPOCHS: Final = 1000  # in one plan
MAX_PASSES: Final = 4  # measuring passes that may wait for a plan


def most_rows(spec: JobSpec) -> int:
    """The most rows that a plan of a new job may have."""
    return max(spec.samples, min(PLAN_ROWS, MAX_EPOCHS * spec.samples))


def check_interval(spec: JobSpec) -> None:
    """An interval whose plan is drawn in seconds."""
    rows = most_rows(spec)
    if (spec.interval or 0) * spec.batch_size > rows:
        raise InvalidValueError(
            f"interval must be at most {rows // spec.batch_size} steps of {spec.batch_size} samples, as a plan has at "
            f"most {rows} rows, got {spec.interval}",
            field="interval",
            value=spec.interval,
        )


def check_local_size(spec: JobSpec, local: LocalBatches) -> None:
    """No more batches at once than a plan may have, or a request for batches."""
    steps = min(MAX_COUNT, max(PLAN_ROWS, spec.samples) // spec.batch_size)
    if len(local.indices) > steps:
        raise InvalidValueError(
            f"indices must have at most {steps} batches of {spec.batch_size} samples, got {len(local.indices)}",
            field="indices",
            value=len(local.indices),
        )


def check_passes(job: Job, rows: int) -> None:
    """No more rows of measuring passes than may wait for the next plan."""
    most = MAX_PASSES * job.spec.samples
    if job.table.dynamics is not None and job.rows_waiting + rows > most:
        raise ConflictError(
            f"indices must be at most {most - job.rows_waiting} more until the next interval is drawn, which learns "
            f"{job.rows_waiting} that wait, got {rows}",
            field="indices",
            value=rows,
        )


def grown_size(job: Job, samples: int) -> JobSize:
    """The size of a job that grows now. Raises ConflictError for one that would shrink, or has grown too often."""
    name, before = job.spec.name, job.spec.samples
    if job.spec.stream and samples >= before:
        return JobSize(samples=samples)
    calendar = job.calendar.grown(samples, job.calendar.epoch_after(job.planned_until))
    if samples < before or len(calendar.earlier) > MAX_GROWTHS:
        why = f"at least {before}, as many as job {name!r} has"
        if samples > before:
            why = f"{before}, as job {name!r} has grown {MAX_GROWTHS} times"
        raise ConflictError(f"samples must be {why}, got {samples}", field="samples", value=samples)
    return size_of(calendar)


def size_of(calendar: Calendar) -> JobSize:
    """The samples by a calendar."""
    earlier = [EarlierSize(samples=samples, until=until) for samples, until in calendar.earlier]
    return JobSize(samples=calendar.samples, earlier=earlier)


def check_window(job: Job, window: Window) -> None:
    """A whole number of batches of samples that exist, of a stream, no more than a plan may have."""
    spec, size = job.spec, len(window.samples)
    most = (spec.interval or 0) * spec.batch_size
    if not spec.stream:
        raise ConflictError(f"stream of job {spec.name!r} must be true for a window, got false", field="stream")
    if not 1 <= size <= most or size % spec.batch_size:
        raise InvalidValueError(
            f"samples must be at most {most}, a whole number of batches of {spec.batch_size}, got {size}",
            field="samples",
            value=size,
        )
    if (last := int(window.samples.max())) >= spec.samples:
        raise InvalidValueError(
            f"samples must be less than samples = {spec.samples} of the job, got {last}", field="samples", value=last
        )


def check_turn(job: Job, window: Window) -> None:
    """A window of the next steps, and of what is drawn of it already, if anything is."""
    first, planned = window.first_step, job.planned_until
    begun = job.window is not None and job.window.first_step < planned < job.window_end
    drawn = [p.since(first).indices for p in job.plans if p.end_step > first]
    is_known = first == planned or (bool(job.plans) and job.plans[0].first_step <= first < planned)
    if begun or not is_known or not all(np.isin(indices, window.samples).all() for indices in drawn):
        expected = f"{planned}, the next to be drawn"
        if begun and job.window is not None:
            expected = (
                f"{job.window_end}, behind the window from step {job.window.first_step} on, of which some is drawn"
            )
        raise ConflictError(f"first_step must be {expected}, got {first}", field="first_step", value=first)


def rank_rows(spec: JobSpec, rank: int, world_size: int) -> range:
    """The rows of a batch that a rank owns."""
    if spec.batch_size % world_size:
        raise InvalidValueError(
            f"world_size must divide the batch size {spec.batch_size}, got {world_size}",
            field="world_size",
            value=world_size,
        )
    share = spec.batch_size // world_size
    return range(rank * share, (rank + 1) * share)


def feedback_values(signals: Signals, feedback: Feedback, share: int) -> Float32:
    """What feedback tells of `share` samples of each step, (F, share, S), for a job with these signals."""
    try:
        return feedback.measurements(signals, share)
    except ValueError as error:
        raise _wrong_signal(error, "feedback.") from None


def scores_values(signals: Signals, scores: Scores) -> Float32:
    """What a measuring pass tells, (k, S), for a job with these signals."""
    try:
        return scores.measurements(signals)
    except ValueError as error:
        raise _wrong_signal(error) from None


def check_steps(steps: Int64, served: int) -> None:
    """Steps that were handed out."""
    unknown = steps[steps >= served]
    if len(unknown):
        raise UnknownStepError(
            f"step {unknown[0]} has not been handed out: the next is step {served}",
            field="feedback.step",
            value=int(unknown[0]),
        )


def check_batches(plans: Sequence[Plan], feedback: Feedback, served: int) -> None:
    """Feedback of the very batches that were handed out, as far as it says of which it is and they are in memory."""
    if feedback.checksum is None:
        return
    for step, told in zip(feedback.step.tolist(), feedback.checksum.tolist(), strict=True):
        plan = plan_of(plans, step)
        if told == UNKNOWN_BATCH or plan is None or step >= served:
            continue
        if told != (planned := plan.batch_checksum(step)):
            raise ConflictError(
                f"feedback for step {step} is of a batch with checksum {told}, but the job's batch of that step has "
                f"checksum {planned}: the trainer trains with another job of this name, or with another past of it",
                field="feedback.checksum",
                value=told,
            )


def check_indices(spec: JobSpec, indices: Int64) -> None:
    """Samples that exist."""
    outside = indices[indices >= spec.samples]
    if len(outside):
        raise InvalidValueError(
            f"indices must be less than samples = {spec.samples}, got {outside[0]}",
            field="indices",
            value=int(outside[0]),
        )


def check_groups(spec: JobSpec, numbers: UInt16) -> None:
    """A group of each sample, of those that the job has."""
    if spec.groups is None:
        raise InvalidValueError(
            f"groups must be declared by the job, in its spec, which {spec.name!r} does not do", field="groups"
        )
    if len(numbers) != spec.samples:
        raise InvalidValueError(
            f"groups must be of each of the {spec.samples} samples, got {len(numbers)}",
            field="groups",
            value=len(numbers),
        )
    count = len(spec.group_names)
    if (largest := int(numbers.max())) >= count:
        raise InvalidValueError(
            f"groups must be less than how many there are, {count}, got {largest}", field="groups", value=largest
        )


def check_drawable(job: Job) -> None:
    """A job that declares groups is told them before its first step."""
    if job.spec.groups is not None and job.table.groups is None:
        raise ConflictError(
            f"groups of job {job.spec.name!r}, which declares them, must be sent before step {job.planned_until} can "
            "be drawn: PUT …/groups",
            field="groups",
        )


def check_report(spec: JobSpec, report: ValidationReport, served: int) -> None:
    """A report on all of the job's unimodal heads, at a step that was reached."""
    expected = spec.heads[:-1]
    if set(report.modalities) != set(expected):
        raise InvalidValueError(
            f"modalities must be {expected}, got {sorted(report.modalities)}",
            field="modalities",
            value=sorted(report.modalities),
        )
    if report.step > served:
        raise UnknownStepError(
            f"step {report.step} has not been reached: the next to be handed out is step {served}",
            field="step",
            value=report.step,
        )


def check_local(spec: JobSpec, local: LocalBatches) -> None:
    """Whole batches of samples that exist."""
    if local.indices.shape[1] != spec.batch_size or len(local.indices) == 0:
        raise InvalidValueError(
            f"indices must have shape (K, {spec.batch_size}) with K of at least 1, got {local.indices.shape}",
            field="indices",
            value=list(local.indices.shape),
        )
    check_indices(spec, local.indices.reshape(-1))


def check_in_memory(calendar: Calendar, plans: Sequence[Plan], start: int) -> None:
    """A step of this epoch or the one before, of whose epoch all batches are at hand."""
    if plans and start < plans[0].first_step:
        raise ConflictError(f"start must lie in this epoch or the one before, got {start}", field="start", value=start)
    epoch_begin = calendar.epoch_begin(calendar.epoch_at(start * calendar.batch_size))
    if plans and plans[0].first_step * calendar.batch_size > epoch_begin:
        raise ConflictError(
            f"start must lie in an epoch that is still in memory, got {start}", field="start", value=start
        )


def calendar_of(calendar: Calendar, plans: Sequence[Plan], local: LocalBatches) -> Calendar:
    """That by which a client drew: the job's, or what that was before growths of which it has not heard yet.

    Raises ConflictError where its batches have a sample twice in an epoch by the job's calendar, and by those too.
    """
    known, error = calendar, None
    while True:
        try:
            check_coverage(known, plans, local)
        except ConflictError as refused:
            error = error or refused
        else:
            return known
        is_new = bool(known.earlier) and _is_drawn_by_clients(plans, known.grown_at(), local.start)
        if not is_new or int(local.indices.max()) >= known.before().samples:
            raise error
        known = known.before()


def _is_drawn_by_clients(plans: Sequence[Plan], start: int, stop: int) -> bool:
    """Whether the service has drawn none of the steps [start, stop), as far as is at hand."""
    plans = [plan for plan in plans if plan.end_step > start and plan.first_step < stop]
    is_whole = start >= stop or (bool(plans) and plans[0].first_step <= start)
    return is_whole and all(plan.policy_version == LOCAL_VERSION for plan in plans)


def check_coverage(calendar: Calendar, plans: Sequence[Plan], local: LocalBatches) -> None:
    """No sample that the epoch has already drawn, or does not have yet, or that comes twice in it."""
    drawn = drawn_before(((p.first_step, p.indices) for p in plans), calendar, local.start)
    samples = local.indices.reshape(-1)
    offset = local.start * calendar.batch_size
    for epoch, start, stop in calendar.segments(local.start, local.start + len(local.indices)):
        values, counts = np.unique(samples[start - offset : stop - offset], return_counts=True)
        repeated = values[(counts > 1) | drawn[values]]
        if len(repeated):
            raise ConflictError(
                f"indices must not repeat a sample within an epoch, got sample {repeated[0]} twice in epoch {epoch}",
                field="indices",
                value=int(repeated[0]),
            )
        drawn = beyond(calendar, epoch + 1)


def _wrong_signal(error: ValueError, prefix: str = "") -> InvalidValueError:
    """The sentence begins with what is wrong."""
    return InvalidValueError(str(error), field=prefix + str(error).split(" ", 1)[0])
