"""What the service shows of a job."""

import inspect
from bisect import bisect_left
from typing import Any, Final

import numpy as np

from bss_service.core.arrays import Floats, Int64
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.observation import FIELDS, SCHEMA_HASH
from bss_service.core.samples.dynamics import NEEDED
from bss_service.core.samples.table import SampleTable
from bss_service.errors import InvalidValueError
from bss_service.job.job import Job
from bss_service.policies.base import policy_class, policy_names
from bss_service.policies.shipped import usual_partial_judge
from bss_service.protocol.actions import ObservationAnswer
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import EvidenceState, JobState, ShareEstimate
from bss_service.protocol.policies import PolicyRow
from bss_service.protocol.samples import Order, SampleEvidence, SampleList, SampleRow, SampleState
from bss_service.protocol.validation import ValidationLog

LATEST_REWARDS = 20
BY_EVIDENCE: Final = ("label", "pair")  # orders that need it


def state(job: Job, *, created: bool = False) -> JobState:
    """Where a job is."""
    epoch = job.calendar.epoch_of(job.served)
    current = job.versions.in_force(job.served)
    newest = job.versions.versions[-1]
    shadow = job.shadows.current
    return JobState(
        spec=job.spec,
        incarnation=job.incarnation or None,
        origins=job.origins,
        created=created,
        next_step=job.served,
        epoch=epoch,
        epoch_start=job.calendar.epoch_start(epoch),
        policy=current.answer(),
        pending_policy=newest.answer() if newest.first_step > job.served else None,
        shadow=None if shadow is None else shadow.answer().model_copy(update={"shadow": True}),
        kept_from=job.kept_from,
        steps_fed_back=len(job.ledger.complete),
        fed_back_until=job.ledger.first_missing,
        samples_measured=job.table.samples_measured,
        validation=job.history.reports[-1].plain() if job.history.reports else None,
        rewards=[d.reward for d in job.history.decisions[-LATEST_REWARDS:]],
        trainers=list(job.trainers.values()),
        evidence=_shares(job),
        has_groups=job.table.groups is not None,
    )


def _shares(job: Job) -> EvidenceState | None:
    """What the latest plan was drawn by, summed up."""
    latest = job.history.decisions[-1] if job.history.decisions else None
    if latest is None or not latest.observation["has_evidence"]:
        return None
    seen = latest.observation
    judged = max(1, round(seen["measured_share"] * job.spec.samples))
    is_partial = job.table.dynamics is None
    judge = usual_partial_judge() if is_partial else job.versions.judge(job.versions.in_force(latest.first_step))
    pairs = _estimated(1 - seen["right_pairs"], judged, judge.calibration_error)
    report = job.history.reports[-1] if job.history.reports else None
    heads = {} if report is None else {name: head.accuracy for name, head in report.modalities.items()}
    return EvidenceState(
        step=latest.first_step,
        wrong_labels=_estimated(1 - seen["right_labels"], judged, judge.calibration_error),
        wrong_pairs=ShareEstimate(share=0.0, low=0.0, high=1.0) if is_partial else pairs,
        left_out=latest.left_out,
        weakest_modality=min(heads, key=heads.__getitem__) if len(heads) > 1 else None,
    )


def _estimated(share: float, samples: int, error: float) -> ShareEstimate:
    """With 95 % of what chance does to a share of so many samples, and the judge's error of calibration on top."""
    reach = 1.96 * float(np.sqrt(share * (1 - share) / samples)) + error
    return ShareEstimate(share=share, low=max(0.0, share - reach), high=min(1.0, share + reach))


def observation(job: Job, *, trainer_waiting: bool) -> ObservationAnswer:
    """What the policy sees that draws the next interval of a job that nobody changes meanwhile."""
    seen, version = job.observe(), job.versions.in_force(job.planned_until)
    return ObservationAnswer(
        first_step=seen.step,
        epoch=seen.epoch,
        policy=version.spec.name,
        policy_version=version.version,
        trainer_waiting=trainer_waiting,
        action_set=job.action is not None,
        awaits_action=trainer_waiting and job.awaits_action(),
        fields=list(FIELDS),
        schema_hash=SCHEMA_HASH,
        vector=seen.vector,
    )


def decisions(job: Job, start: int, count: int) -> DecisionLog:
    """The decisions number `start` to `start + count` of a job that nobody changes meanwhile."""
    rows = job.history.between(start, start + count)
    return DecisionLog.model_construct(start=start, total=job.history.total, decisions=rows)


def validations(job: Job, start: int, count: int) -> ValidationLog:
    """The first `count` validation reports of step `start` or a later one."""
    first = bisect_left(job.history.reports, start, key=lambda report: report.step)
    return ValidationLog(start=start, reports=[r.plain() for r in job.history.reports[first : first + count]])


def policies() -> list[PolicyRow]:
    """The installed policies, by name."""
    return [_policy(name) for name in policy_names()]


def sample(job: Job, evidence: Evidence | None, index: int) -> SampleState:
    """One sample's row of the table; when it was drawn is added by who knows."""
    row = job.table.rows(slice(index, index + 1))
    scored = {"similarity", "loss"} <= set(row.average)
    return SampleState(
        index=index,
        signals={name: _signal(job, column[0]) for name, column in row.latest.items()},
        balance_score=_known(row.score[0]) if scored else None,
        first_score=_known(row.first_score[0]),
        times_measured=int(row.times_measured[0]),
        last_measured=_last_measured(row, 0),
        evidence=sample_evidence(job, evidence, index),
        draws=[],
    )


def samples(job: Job, evidence: Evidence | None, order: Order, limit: int, start: int = 0) -> SampleList:
    """Samples in an order, from number `start` on, of a job that nobody changes meanwhile; evidence: of its table."""
    check_order(job, order)
    rank = _rank(job, evidence, order)
    known = np.flatnonzero(~np.isnan(rank))
    first = known[_least(rank[known], start + limit)[start:]]
    table = job.table.rows(first)
    loss = table.latest.get("loss")
    rows = [
        SampleRow(
            index=int(i),
            evidence=sample_evidence(job, evidence, int(i)),
            loss=None if loss is None else _known(loss[k]),
            draws=int(table.times_measured[k]),
            last_measured=int(step) if step >= 0 else None,
        )
        for k, (i, step) in enumerate(zip(first, table.last_step, strict=True))
    ]
    return SampleList(order=order, step=job.planned_until, known=len(known), samples=rows)


def check_order(job: Job, order: Order) -> None:
    """Raises InvalidValueError for an order that the job's signals do not give."""
    if order == "loss" and "loss" not in job.table.latest:
        raise InvalidValueError(f"order must not be loss: {_sends(job)}", field="order", value=order)
    if order in BY_EVIDENCE and job.table.dynamics is None:
        lacking = ", ".join(job.spec.lacks(dict.fromkeys(NEEDED, 0)))
        raise InvalidValueError(
            f"order must be loss or draws: {_sends(job)}, and evidence needs {lacking} too", field="order", value=order
        )


def _rank(job: Job, evidence: Evidence | None, order: Order) -> Floats:
    """What an order sorts by, ascending, (n,); NaN of a sample that is not to be listed."""
    table = job.table
    if order == "draws":
        return np.where(table.times_measured > 0, -table.times_measured.astype(np.float64), np.nan)
    if order == "loss":
        return -table.latest["loss"]
    assert evidence is not None, "orders are checked"
    return evidence.right if order == "label" else evidence.pair


def _least(values: Floats, count: int) -> Int64:
    """Where the least of values (n,) stand, in order, of equal ones the first; a whole sort takes ten times as long."""
    if count >= len(values):
        return np.argsort(values, kind="stable")
    bound = np.partition(values, count - 1)[count - 1]
    few = np.flatnonzero(values <= bound)
    return few[np.argsort(values[few], kind="stable")[:count]]


def _sends(job: Job) -> str:
    declared = ", ".join(signal.name for signal in job.spec.signals)
    return f"job {job.spec.name!r} declares the signals {declared}"


def sample_evidence(job: Job, evidence: Evidence | None, index: int) -> SampleEvidence | None:
    """That of one sample; None where nothing is known."""
    dynamics = job.table.dynamics
    if evidence is None or dynamics is None or np.isnan(evidence.right[index]):
        return None
    heads = job.spec.heads[:-1]
    return SampleEvidence(
        right=float(evidence.right[index]),
        rival=float(evidence.rival[index]),
        pair=float(evidence.pair[index]),
        wrong_modality=dict(zip(heads, evidence.wrong_modality[index].tolist(), strict=True)),
        label=int(dynamics.label[index]),
        likeliest=int(dynamics.other_class[index]),
        predicted=dict(zip(heads, dynamics.predicted_class[index].tolist(), strict=True)),
    )


def _last_measured(table: SampleTable, index: int) -> int | None:
    step = table.last_step_of(index)
    return None if step < 0 else step


def _signal(job: Job, value: Any) -> float | dict[str, float | None] | None:
    """A sample's value of a signal, by head where each of them has one."""
    if np.ndim(value) == 0:
        return _known(value)
    return {name: _known(of_head) for name, of_head in zip(job.spec.heads, value, strict=True)}


def _policy(name: str) -> PolicyRow:
    try:
        kind = policy_class(name)
        schema = kind.model_json_schema()
    except Exception as error:  # of a package that this one knows nothing about
        return PolicyRow(name=name, error=str(error))
    return PolicyRow(name=name, description=inspect.getdoc(kind) or "", parameters=schema.get("properties", {}))


def _known(value: Any) -> float | None:
    number = float(value)
    return None if number != number else number
