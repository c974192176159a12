"""What the service shows of a job."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from bss_service.core.observation import FIELDS, SCHEMA_HASH
from bss_service.job.job import Job
from bss_service.policies.base import policy_class, policy_names
from bss_service.protocol.actions import ObservationAnswer
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import JobState
from bss_service.protocol.policies import PolicyRow
from bss_service.protocol.samples import SampleState

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
        validation=job.history.reports[-1].plain() if job.history.reports else None,
        rewards=[d.reward for d in job.history.decisions[-LATEST_REWARDS:]],
        trainers=list(job.trainers.values()),
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
    return DecisionLog.model_construct(start=start, total=len(job.history.decisions), decisions=rows)


def policies() -> list[PolicyRow]:
    """The installed policies, by name."""
    return [_policy(name) for name in policy_names()]


def sample(job: Job, index: int) -> SampleState:
    """One sample's row of the table; when it was drawn is added by who knows."""
    table = job.table
    measured = bool(table.measured[index])
    scored = {"similarity", "loss"} <= set(table.average)
    return SampleState(
        index=index,
        signals={name: _signal(job, column[index]) for name, column in table.latest.items()},
        balance_score=_known(table.score[index]) if scored else None,
        first_score=_known(table.first_score[index]),
        times_measured=int(table.times_measured[index]),
        last_measured=int(table.last_step[index]) if measured else None,
        draws=[],
    )


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
