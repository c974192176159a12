"""What a job refuses, before anything of it changes; each check raises an error that names the field and the value."""

from collections.abc import Sequence

import numpy as np

from bss_service.core.arrays import Float32, Int64
from bss_service.core.calendar import Calendar
from bss_service.core.sampling import drawn_before
from bss_service.errors import ConflictError, InvalidValueError, UnknownStepError
from bss_service.job.plans import Plan
from bss_service.protocol import Feedback, JobSpec, LocalBatches, ValidationReport


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


def check_feedback(spec: JobSpec, feedback: Feedback, share: int, served: int) -> None:
    """Feedback of steps that were handed out, for as many samples as the rank has."""
    columns = feedback.similarity.shape[1]
    if columns != share:
        raise InvalidValueError(
            f"similarity must have {share} columns, this rank's share of the batch, got {columns}",
            field="feedback.similarity",
            value=columns,
        )
    check_heads(spec, "feedback.probabilities", feedback.probabilities)
    unknown = feedback.step[feedback.step >= served]
    if len(unknown):
        raise UnknownStepError(
            f"step {unknown[0]} has not been handed out: the next is step {served}",
            field="feedback.step",
            value=int(unknown[0]),
        )


def check_heads(spec: JobSpec, field: str, probabilities: Float32 | None) -> None:
    """True-label probabilities of each unimodal head and the joint one."""
    heads = len(spec.modalities) + 1
    if probabilities is not None and probabilities.shape[-1] != heads:
        raise InvalidValueError(
            f"probabilities must have {heads} columns, one a modality and the joint head, "
            f"got {probabilities.shape[-1]}",
            field=field,
            value=probabilities.shape[-1],
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


def check_report(spec: JobSpec, report: ValidationReport, served: int) -> None:
    """A report on all of the job's modalities, at a step that was reached."""
    if set(report.modalities) != set(spec.modalities):
        raise InvalidValueError(
            f"modalities must be {spec.modalities}, got {sorted(report.modalities)}",
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


def check_coverage(calendar: Calendar, plans: Sequence[Plan], local: LocalBatches) -> None:
    """No sample that the epoch has already drawn, or that comes twice in it."""
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
        drawn[:] = False
