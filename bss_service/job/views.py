"""What the service shows of a job."""

import inspect
from collections.abc import Callable, Mapping, Sequence

from bss_service.core.arrays import Float32
from bss_service.core.observation import FIELDS, SCHEMA_HASH
from bss_service.job.job import Job
from bss_service.policies.base import Decision, ShadowChoice, policy_class, policy_names
from bss_service.protocol import (
    DecisionLog,
    DecisionRow,
    DrawRow,
    JobState,
    ModalityReport,
    ObservationAnswer,
    PolicyRow,
    SampleState,
    ShadowRow,
    ValidationReport,
)

LATEST_REWARDS = 20


def state(job: Job, *, created: bool = False) -> JobState:
    """Where a job is."""
    epoch = job.calendar.epoch_of(job.served)
    current = job.versions.in_force(job.served)
    newest = job.versions.versions[-1]
    shadow = job.shadows.current
    return JobState(
        spec=job.spec,
        created=created,
        next_step=job.served,
        epoch=epoch,
        epoch_start=job.calendar.epoch_start(epoch),
        policy=current.answer(),
        pending_policy=newest.answer() if newest.first_step > job.served else None,
        shadow=None if shadow is None else shadow.answer().model_copy(update={"shadow": True}),
        steps_fed_back=int(job.ledger.complete.sum()),
        fed_back_until=job.ledger.first_missing,
        samples_measured=int(job.table.measured.sum()),
        validation=_last_report(job),
        rewards=[d.reward for d in job.history.decisions[-LATEST_REWARDS:]],
    )


def observation(job: Job, *, trainer_waiting: bool) -> Callable[[], ObservationAnswer]:
    """What the policy sees that draws the next interval, to be computed without the job's lock."""
    look, version = job.observing(), job.versions.in_force(job.planned_until)
    action_set, awaits_action = job.action is not None, trainer_waiting and job.awaits_action()

    def answer() -> ObservationAnswer:
        seen = look()
        return ObservationAnswer(
            first_step=seen.step,
            epoch=seen.epoch,
            policy=version.spec.name,
            policy_version=version.version,
            trainer_waiting=trainer_waiting,
            action_set=action_set,
            awaits_action=awaits_action,
            fields=list(FIELDS),
            schema_hash=SCHEMA_HASH,
            vector=seen.vector,
        )

    return answer


def decisions(job: Job, start: int, count: int) -> DecisionLog:
    """The decisions number `start` to `start + count`."""
    rows = job.history.decisions[start : start + count]
    names = {v.version: v.spec.name for v in job.versions.versions}
    shadows = {v.version: v.spec.name for v in job.shadows.versions}
    return DecisionLog(
        start=start,
        total=len(job.history.decisions),
        decisions=[_decision(row, names[row.policy_version], _shadow(row.shadow, shadows)) for row in rows],
    )


def policies() -> list[PolicyRow]:
    """The installed policies, by name."""
    return [_policy(name) for name in policy_names()]


def draws(found: Sequence[tuple[int, float, int]]) -> list[DrawRow]:
    """Draws of a sample, given as (step, probability, policy version)."""
    return [DrawRow(step=step, probability=p, policy_version=version) for step, p, version in found]


def sample(job: Job, index: int) -> SampleState:
    """One sample's row of the table; when it was drawn is added by who knows."""
    table = job.table
    heads = [*job.spec.modalities, "joint"]
    measured = bool(table.measured[index])
    return SampleState(
        index=index,
        similarity=_known(table.similarity[index]),
        loss=_known(table.loss[index]),
        balance_score=_known(table.similarity_ema[index] - table.loss_ema[index]),
        first_score=_known(table.first_score[index]),
        probabilities={name: _known(p) for name, p in zip(heads, table.probabilities[index], strict=True)},
        times_measured=int(table.times_measured[index]),
        last_measured=int(table.last_step[index]) if measured else None,
        draws=[],
    )


def _last_report(job: Job) -> ValidationReport | None:
    if not job.history.reports:
        return None
    report = job.history.reports[-1]
    heads = zip(job.spec.modalities, report.accuracies, report.probabilities, strict=True)
    return ValidationReport(
        step=report.step,
        loss=report.loss,
        accuracy=report.accuracy,
        modalities={name: ModalityReport(accuracy=a, probability=p) for name, a, p in heads},
    )


def _policy(name: str) -> PolicyRow:
    try:
        kind = policy_class(name)
        schema = kind.model_json_schema()
    except Exception as error:  # of a package that this one knows nothing about
        return PolicyRow(name=name, error=str(error))
    return PolicyRow(name=name, description=inspect.getdoc(kind) or "", parameters=schema.get("properties", {}))


def _shadow(shadow: ShadowChoice | None, names: Mapping[int, str]) -> ShadowRow | None:
    if shadow is None:
        return None
    return ShadowRow(
        shadow=shadow.number,
        policy=names[shadow.number],
        action=shadow.choice.action.as_dict(),
        propensity=shadow.choice.propensity,
        detail=dict(shadow.choice.detail),
    )


def _decision(decision: Decision, policy: str, shadow: ShadowRow | None) -> DecisionRow:
    return DecisionRow(
        first_step=decision.first_step,
        end_step=decision.end_step,
        epoch=decision.observation.epoch,
        policy_version=decision.policy_version,
        policy=policy,
        observation=dict(zip(FIELDS, decision.observation.vector.tolist(), strict=True)),
        action=decision.choice.action.as_dict(),
        propensity=decision.choice.propensity,
        detail=dict(decision.choice.detail),
        gain=decision.gain,
        reward=decision.reward,
        shadow=shadow,
    )


def _known(value: Float32) -> float | None:
    number = float(value)
    return None if number != number else number
