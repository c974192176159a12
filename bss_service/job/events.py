"""What can happen to a job. Every change is an event: it is applied, journaled, and applied again when a job is loaded.

Each class says what it carries, how the journal holds that, and what it does. To add one: write its class here and list
it in `Event`.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Generic, Literal, Self, TypeVar, get_args

import numpy as np

from bss_service.core.arrays import Float32, Int64, UInt16
from bss_service.core.samples.groups import Groups
from bss_service.errors import ConflictError, NotFoundError, NotReproducibleError
from bss_service.job import checks, formats
from bss_service.job.feedback import Measured
from bss_service.job.job import Job
from bss_service.job.plans import Plan, plan_of
from bss_service.policies.versions import PolicyVersion, check_action, choice_from_outside, is_same
from bss_service.protocol.actions import ActionAnswer, ActionRequest
from bss_service.protocol.jobs import GroupsAnswer, JobChange, JobSpec
from bss_service.protocol.message import Message
from bss_service.protocol.policies import PolicyAnswer, PolicySpec, SwapRequest
from bss_service.protocol.training import (
    LOCAL_VERSION,
    Feedback,
    FeedbackAnswer,
    FeedbackOutcome,
    JobSize,
    LocalBatches,
    LocalBatchesAnswer,
    Ranked,
    Scores,
    ScoresAnswer,
    Trainer,
    Window,
    WindowAnswer,
)
from bss_service.protocol.validation import ValidationAnswer, ValidationReport

A_co = TypeVar("A_co", covariant=True)
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Applied(Generic[A_co]):
    """The answer to whoever caused an event, and the event as the journal holds it; None if nothing has changed."""

    answer: A_co
    entry: "JobEvent[Any] | None"


@dataclass(frozen=True, slots=True)
class JobEvent(ABC, Generic[A_co]):
    """A change of a job. `apply` raises before anything has changed, or has changed the job."""

    kind: ClassVar[str]  # in the journal
    draws: ClassVar[bool] = False  # whether it decides what is drawn or handed out: then it means nothing behind damage
    brings_policies: ClassVar[bool] = False

    @abstractmethod
    def apply(self, job: Job) -> Applied[A_co]:
        """Change the job; the caller holds its lock."""

    def fields(self) -> dict[str, Any]:
        """What it carries, as a frame holds it: by default what it consists of, as it is."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        """The event of a job with this spec that `fields` was called on, in this version or an earlier one."""
        return cls(**fields)

    @property
    def policies(self) -> list[PolicySpec]:
        """Those that the job may need because of it."""
        return [version.spec for version in self.versions]

    @property
    def versions(self) -> list[PolicyVersion]:
        """The policy versions that it made."""
        return []

    @property
    def size(self) -> JobSize | None:
        """How many samples the job has after it, if it has changed that."""
        return None


class MessageEvent(JobEvent[A_co]):
    """A change whose one field is a message, and which is journaled as that."""

    carries: ClassVar[type[Message]]

    def fields(self) -> dict[str, Any]:
        [field] = dataclasses.fields(self)
        message: Message = getattr(self, field.name)
        return message.model_dump()

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        [field] = dataclasses.fields(cls)
        return cls(**{field.name: cls.carries.model_validate(fields)})


@dataclass(frozen=True, slots=True)
class FeedbackReceived(JobEvent[FeedbackAnswer]):
    """Feedback of a rank for F steps; it is learnt when the next interval is planned."""

    kind: ClassVar[str] = "feedback"

    rank: int
    world_size: int
    step: Int64  # (F,)
    values: Float32  # (F, G / W, S)

    @classmethod
    def of(cls, job: Job, sender: Ranked, feedback: Feedback) -> Self:
        """Raises errors.BssError where it does not fit the job."""
        share = len(checks.rank_rows(job.spec, sender.rank, sender.world_size))
        values = checks.feedback_values(job.signals, feedback, share)
        checks.check_batches(job.plans, feedback, job.served)
        return cls(sender.rank, sender.world_size, feedback.step, values)

    def apply(self, job: Job) -> Applied[FeedbackAnswer]:
        rows = checks.rank_rows(job.spec, self.rank, self.world_size)
        checks.check_steps(self.step, job.served)
        outcomes = [self._count(job, k, rows) for k in range(len(self.step))]
        new = any(outcome != "repeated" for outcome in outcomes)
        return Applied(FeedbackAnswer(feedback=outcomes), self if new else None)

    def _count(self, job: Job, k: int, rows: range) -> FeedbackOutcome:
        """Count feedback number k, whose columns are the rows `rows` of the step's batch, each row once."""
        step = int(self.step[k])
        new = job.ledger.new_rows(step, rows)
        if len(new) == 0:
            return "repeated"
        plan = plan_of(job.plans, step)
        if plan is None:
            job.ledger.record(step, new, None)
            return "late"
        values = self.values[k] if len(new) == len(rows) else self.values[k, new - rows.start]
        samples = plan.indices[step - plan.first_step, new]
        missing = np.isnan(values)
        if missing.any() and (unknown := missing.all(axis=1)).any():
            samples, values = samples[~unknown], values[~unknown]
        job.ledger.record(step, new, Measured(step, int(new[0]), samples, values))
        return "applied"

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        return cls(**formats.feedback_of_version_1(fields, spec) if "feedback" in fields else fields)


@dataclass(frozen=True, slots=True)
class ScoresReceived(JobEvent[ScoresAnswer]):
    """A part of a measuring pass; it is learnt when the next interval is planned."""

    kind: ClassVar[str] = "scores"

    indices: Int64  # (k,)
    values: Float32  # (k, S)

    @classmethod
    def of(cls, job: Job, scores: Scores) -> Self:
        """Raises errors.BssError where it does not fit the job."""
        checks.check_indices(job.spec, scores.indices)
        return cls(scores.indices, checks.scores_values(job.signals, scores))

    def apply(self, job: Job) -> Applied[ScoresAnswer]:
        job.take_pass(self.indices, self.values)
        return Applied(ScoresAnswer(accepted=len(self.indices)), self)

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        return cls(**fields if "values" in fields else formats.scores_of_version_1(fields, spec))


@dataclass(frozen=True, slots=True)
class GroupsSet(JobEvent[GroupsAnswer]):
    """The group of each sample; plans are drawn by it from the next one on."""

    kind: ClassVar[str] = "groups"

    numbers: UInt16  # (n,)

    def apply(self, job: Job) -> Applied[GroupsAnswer]:
        checks.check_groups(job.spec, self.numbers)
        groups = Groups(self.numbers, job.spec.group_names)
        if groups == job.table.groups:
            return Applied(GroupsAnswer(outcome="repeated", first_step=job.planned_until), None)
        job.table.groups = groups
        return Applied(GroupsAnswer(outcome="applied", first_step=job.planned_until), self)


@dataclass(frozen=True, slots=True)
class TrainerAttached(MessageEvent[None]):
    """A process takes, or leaves, the place of a rank; those of another run or number of ranks have lost theirs."""

    kind: ClassVar[str] = "attach"
    carries: ClassVar[type[Message]] = Trainer

    trainer: Trainer

    def apply(self, job: Job) -> Applied[None]:
        if job.trainers.get(self.trainer.rank) == self.trainer:
            return Applied(None, None)
        fellows = {rank: held for rank, held in job.trainers.items() if held.is_fellow_of(self.trainer)}
        job.trainers = fellows | {self.trainer.rank: self.trainer}
        return Applied(None, self)


@dataclass(frozen=True, slots=True)
class ValidationReported(MessageEvent[ValidationAnswer]):
    """A validation report; the decisions whose plans it ends are rewarded."""

    kind: ClassVar[str] = "validation"
    carries: ClassVar[type[Message]] = ValidationReport

    report: ValidationReport

    def apply(self, job: Job) -> Applied[ValidationAnswer]:
        checks.check_report(job.spec, self.report, job.served)
        heads = {name: self.report.modalities[name] for name in job.spec.heads[:-1]}
        report, earlier = self.report.model_copy(update={"modalities": heads}), job.history.reports
        if earlier and report.step <= earlier[-1].step:
            is_known = any(r.step == report.step and r.plain() == report.plain() for r in earlier)
            return Applied(ValidationAnswer(outcome="repeated" if is_known else "late"), None)
        is_used = job.table.dynamics is not None
        rewards = job.history.report(report if is_used else report.plain())
        kept = self if is_used else replace(self, report=self.report.plain())
        return Applied(ValidationAnswer(outcome="applied", rewards=rewards), kept)


@dataclass(frozen=True, slots=True)
class PolicySwapped(JobEvent[PolicyAnswer]):
    """Another policy, from the first step not handed out or from the next interval on; or another shadow.

    Whether the policy can be made is not asked here: one that isn't needed now must not end its job at a replay.
    """

    kind: ClassVar[str] = "swap"
    brings_policies: ClassVar[bool] = True

    request: SwapRequest
    outcome: PolicyAnswer | None = None  # in the journal

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return not self.request.shadow

    def apply(self, job: Job) -> Applied[PolicyAnswer]:
        answer = self._put_shadow(job) if self.request.shadow else self._swap(job)
        return Applied(answer, replace(self, outcome=answer) if answer.changed else None)

    def _swap(self, job: Job) -> PolicyAnswer:
        now = self.request.at == "now"
        first_step = job.served if now else job.next_interval()
        newest = job.versions.versions[-1]
        if self.request.policy == newest.spec and newest.first_step <= first_step:
            return newest.answer()
        if now:
            job.truncate(job.served)
        acting = job.versions.in_force(job.planned_until)
        added = job.versions.add(self.request.policy, first_step)
        if job.versions.in_force(job.planned_until) != acting:
            job.action = None  # it was for another policy version
        return added.answer(changed=True)

    def _put_shadow(self, job: Job) -> PolicyAnswer:
        current = job.shadows.current
        if current is not None and current.spec == self.request.policy:
            return current.answer().model_copy(update={"shadow": True})
        put = job.shadows.put(self.request.policy, job.planned_until)
        return put.answer(changed=True).model_copy(update={"shadow": True})

    def fields(self) -> dict[str, Any]:
        made = {} if self.outcome is None else self.outcome.model_dump(include={"policy_version", "first_step"})
        return {**self.request.model_dump(), "answer": made}

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        request = SwapRequest.model_validate({name: value for name, value in fields.items() if name != "answer"})
        made = fields.get("answer")
        return cls(request, PolicyAnswer(policy=request.policy, **made) if made else None)

    @property
    def policies(self) -> list[PolicySpec]:
        return [self.request.policy]

    @property
    def versions(self) -> list[PolicyVersion]:
        if self.outcome is None or self.request.shadow:
            return []
        return [PolicyVersion(self.outcome.policy_version, self.request.policy, self.outcome.first_step)]


@dataclass(frozen=True, slots=True)
class JobChanged(MessageEvent[None]):
    """Another horizon, patience or keep_epochs; what is planned stays. More samples are an event of their own."""

    kind: ClassVar[str] = "change"
    carries: ClassVar[type[Message]] = JobChange

    change: JobChange

    def fields(self) -> dict[str, Any]:
        return self.change.model_dump(exclude={"samples"})

    def apply(self, job: Job) -> Applied[None]:
        changed = self.change.of(job.spec)
        if changed == job.spec:
            return Applied(None, None)
        job.spec = changed
        return Applied(None, self)


@dataclass(frozen=True, slots=True)
class JobGrown(JobEvent[None]):
    """More samples, from the first epoch on of which nothing is drawn yet."""

    kind: ClassVar[str] = "grow"
    draws: ClassVar[bool] = True

    samples: int
    outcome: JobSize | None = None  # in the journal

    def apply(self, job: Job) -> Applied[None]:
        if self.outcome is None and self.samples == job.spec.samples:
            return Applied(None, None)
        size = self.outcome or checks.grown_size(job, self.samples)
        job.resize(size)
        return Applied(None, replace(self, outcome=size))

    def fields(self) -> dict[str, Any]:
        return {} if self.outcome is None else self.outcome.model_dump()

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        size = JobSize.model_validate(fields)
        return cls(size.samples, size)

    @property
    def size(self) -> JobSize | None:
        return self.outcome


@dataclass(frozen=True, slots=True)
class KeysRegistered(JobEvent[Int64]):
    """What a trainer calls its samples: keys without an index get the next ones, and the job grows where it must.

    The answer is the index of each, (k,). The journal holds those that were new.
    """

    kind: ClassVar[str] = "keys"

    keys: list[str]
    first: int | None = None  # in the journal, the index of the first of them
    outcome: JobSize | None = None  # in the journal, where the job grew by them

    def apply(self, job: Job) -> Applied[Int64]:
        known, new, size = len(job.keys), job.keys.new(self.keys), self.outcome
        if self.first not in (None, known):
            raise NotReproducibleError(
                f"the keys of job {job.spec.name!r} from sample {known} on are lost, those from {self.first} on are not"
            )
        if size is None and known + len(new) > job.spec.samples:
            size = checks.grown_size(job, known + len(new))
        if size is not None and size.samples > job.spec.samples:  # it may have grown since, where this is saved
            job.resize(size)
        job.keys.add(new)
        return Applied(job.keys.indices(self.keys), KeysRegistered(new, known, size) if new else None)

    def fields(self) -> dict[str, Any]:
        sized = {} if self.outcome is None else {"size": self.outcome.model_dump()}
        return {"keys": self.keys, "first": self.first, **sized}

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        size = JobSize.model_validate(fields["size"]) if "size" in fields else None
        return cls(fields["keys"], fields["first"], size)

    @property
    def size(self) -> JobSize | None:
        return self.outcome


@dataclass(frozen=True, slots=True)
class WindowOpened(MessageEvent[WindowAnswer]):
    """What a trainer has read ahead of a stream: the next steps are drawn from that, and from nothing else."""

    kind: ClassVar[str] = "window"
    carries: ClassVar[type[Message]] = Window
    draws: ClassVar[bool] = True

    window: Window

    def apply(self, job: Job) -> Applied[WindowAnswer]:
        checks.check_window(job, self.window)
        known, end = job.window, self.window.first_step + len(self.window.samples) // job.spec.batch_size
        is_known = (
            known is not None
            and known.first_step == self.window.first_step
            and np.array_equal(known.samples, self.window.samples)
        )
        if is_known or end <= job.planned_until:
            return Applied(WindowAnswer(outcome="repeated", end_step=end), None)
        checks.check_turn(job, self.window)
        replaced = job.window_end > job.planned_until
        job.window = self.window
        return Applied(WindowAnswer(outcome="replaced" if replaced else "applied", end_step=end), self)


@dataclass(frozen=True, slots=True)
class ShadowEnded(JobEvent[None]):
    """No policy watches any more."""

    kind: ClassVar[str] = "end_shadow"

    def apply(self, job: Job) -> Applied[None]:
        if job.shadows.current is None:
            raise NotFoundError(f"job {job.spec.name!r} has no shadow", field="job", value=job.spec.name)
        job.shadows.end()
        return Applied(None, self)


@dataclass(frozen=True, slots=True)
class ActionSet(MessageEvent[ActionAnswer]):
    """The action for the next interval from outside; until the interval is planned, another replaces it."""

    kind: ClassVar[str] = "action"
    carries: ClassVar[type[Message]] = ActionRequest

    request: ActionRequest

    def apply(self, job: Job) -> Applied[ActionAnswer]:
        version = job.versions.in_force(job.planned_until)
        if self.request.first_step != job.planned_until:
            return Applied(self._repeated(job), None)
        if not version.waits_for_action:
            raise ConflictError(
                f"policy must be 'external' for an action from outside, got {version.spec.name!r} from step "
                f"{version.first_step} on",
                field="policy",
                value=version.spec.name,
            )
        check_action(self.request.resolved(), job.spec)
        outcome: Literal["applied", "replaced", "repeated"] = "applied"
        if job.action is not None:
            outcome = "repeated" if self.request == job.action else "replaced"
        job.action = self.request
        answer = ActionAnswer(outcome=outcome, first_step=self.request.first_step, policy_version=version.version)
        return Applied(answer, None if outcome == "repeated" else self)

    def _repeated(self, job: Job) -> ActionAnswer:
        """The answer to a repetition for an interval that is planned; raises ConflictError for anything else."""
        choice = choice_from_outside(self.request, None)
        for decision in reversed(job.history.decisions):
            asked = decision.first_step == self.request.first_step
            if asked and is_same(choice, decision) and dict(choice.detail) == decision.detail:
                return ActionAnswer(
                    outcome="repeated", first_step=decision.first_step, policy_version=decision.policy_version
                )
        raise ConflictError(
            f"first_step must be that of the next interval to be planned, {job.planned_until}, "
            f"got {self.request.first_step}",
            field="first_step",
            value=self.request.first_step,
        )


@dataclass(frozen=True, slots=True)
class LocalBatchesAdopted(JobEvent[LocalBatchesAnswer]):
    """What a client drew by itself; it has trained on that, so it takes the place of what was drawn for these steps.

    It may not have heard yet that the job has grown: then that begins with the epoch after.
    """

    kind: ClassVar[str] = "local"
    draws: ClassVar[bool] = True

    local: LocalBatches
    outcome: JobSize | None = None  # in the journal, where the job grew later by it

    def apply(self, job: Job) -> Applied[LocalBatchesAnswer]:
        local = self.local
        job.check_start(local.start)
        if job.spec.stream:
            raise ConflictError("start must not be given: a stream is drawn by the service alone", field="start")
        checks.check_local(job.spec, local)
        stop = local.start + len(local.indices)
        on_record = job.holds(local.start) and stop <= job.served
        if on_record and np.array_equal(job.batches(local.start, stop).indices, local.indices):
            return Applied(LocalBatchesAnswer(outcome="repeated"), None)
        if job.ledger.any_since(local.start):
            raise ConflictError(
                f"start must follow every step with feedback, got {local.start}", field="start", value=local.start
            )
        checks.check_in_memory(job.calendar, job.plans, local.start)
        drawn_by = checks.calendar_of(job.calendar, job.plans, local)
        size = None
        if drawn_by is not job.calendar:
            size = checks.size_of(drawn_by.grown(job.spec.samples, drawn_by.epoch_after(stop)))
            job.resize(size)
        job.ledger.wait_from(local.start)
        job.truncate(local.start)
        samples = [[job.calendar.samples_of(job.calendar.epoch_of(step))] for step in range(local.start, stop)]
        probabilities = np.broadcast_to(1 / np.array(samples), local.indices.shape).astype(np.float32)
        job.append(Plan(local.start, local.indices, probabilities, LOCAL_VERSION, job.ledger.first_missing))
        job.served = stop
        return Applied(LocalBatchesAnswer(outcome="applied"), replace(self, outcome=size))

    def fields(self) -> dict[str, Any]:
        sized = {} if self.outcome is None else {"size": self.outcome.model_dump()}
        return {**self.local.model_dump(), **sized}

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        local = {name: value for name, value in fields.items() if name != "size"}
        size = JobSize.model_validate(fields["size"]) if "size" in fields else None
        return cls(LocalBatches.model_validate(local), size)

    @property
    def size(self) -> JobSize | None:
        return self.outcome


@dataclass(frozen=True, slots=True)
class PlanDrawn(JobEvent[Plan]):
    """The next interval, or the rest of one that was interrupted, is drawn.

    Of the plan the journal holds a checksum: drawing it again gives the plan itself, or NotReproducibleError.
    """

    kind: ClassVar[str] = "plan"
    draws: ClassVar[bool] = True

    first_step: int | None = None  # in the journal
    checksum: int | None = None

    def apply(self, job: Job) -> Applied[Plan]:
        plan = job.plan()
        drawn = PlanDrawn(plan.first_step, plan.checksum())
        if self.checksum is not None and drawn != self:
            error = job.history.decisions[-1].detail.get("error")
            raise NotReproducibleError(
                f"the plan of job {job.spec.name!r} from step {plan.first_step} on is not the one that was handed out"
                + (f": {error}" if error else "")
            )
        return Applied(plan, drawn)


@dataclass(frozen=True, slots=True)
class StepsServed(JobEvent[None]):
    """The steps before one are handed out."""

    kind: ClassVar[str] = "serve"
    draws: ClassVar[bool] = True

    until: int

    def apply(self, job: Job) -> Applied[None]:
        if self.until <= job.served:
            return Applied(None, None)
        job.served = self.until
        return Applied(None, self)


@dataclass(frozen=True, slots=True)
class BatchesReleased(JobEvent[None]):
    """The batches of the steps before one are kept no longer; only then are they removed from the store."""

    kind: ClassVar[str] = "release"

    until: int

    def apply(self, job: Job) -> Applied[None]:
        if self.until <= job.kept_from:
            return Applied(None, None)
        job.kept_from = self.until
        return Applied(None, self)


@dataclass(frozen=True, slots=True)
class Forked(JobEvent[None]):
    """Here the store was copied; the job in the copy is another incarnation, which shares the steps before this."""

    kind: ClassVar[str] = "fork"

    incarnation: str  # the earlier one

    def apply(self, job: Job) -> Applied[None]:
        job.origins = {**job.origins, self.incarnation: job.served}
        return Applied(None, self)


@dataclass(frozen=True, slots=True)
class Recovered(JobEvent[None]):
    """The journal was damaged: the job goes on at step `served`, with the batches from `start` on out of stored plans.

    added: the policy versions that came after those that are known. How the plans were made is not known any more.
    """

    kind: ClassVar[str] = "recovered"
    draws: ClassVar[bool] = True
    brings_policies: ClassVar[bool] = True

    start: int
    served: int
    plans: list[Plan]
    added: list[PolicyVersion]

    def apply(self, job: Job) -> Applied[None]:
        job.truncate(self.start)
        job.versions.versions.extend(self.added)
        for plan in self.plans:
            job.append(plan)
        job.planned_until = job.served = self.served
        job.ledger.stop_waiting(self.served)  # what was measured of these steps and is lost will not come again
        return Applied(None, self)

    def fields(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "served": self.served,
            "plans": [{"first_step": plan.first_step, **plan.fields()} for plan in self.plans],
            "versions": [
                {"version": v.version, "policy": v.spec.model_dump(), "first_step": v.first_step} for v in self.added
            ],
        }

    @classmethod
    def of_fields(cls, fields: Fields, spec: JobSpec) -> Self:
        plans = [Plan.of_fields(plan["first_step"], plan) for plan in fields["plans"]]
        added = [
            PolicyVersion(v["version"], PolicySpec.model_validate(v["policy"]), v["first_step"])
            for v in fields["versions"]
        ]
        return cls(fields["start"], fields["served"], plans, added)

    @property
    def versions(self) -> list[PolicyVersion]:
        return self.added


Event = (
    FeedbackReceived
    | ScoresReceived
    | GroupsSet
    | TrainerAttached
    | ValidationReported
    | PolicySwapped
    | JobChanged
    | JobGrown
    | KeysRegistered
    | WindowOpened
    | ShadowEnded
    | ActionSet
    | LocalBatchesAdopted
    | PlanDrawn
    | StepsServed
    | BatchesReleased
    | Forked
    | Recovered
)
_OF_KIND: Final[Mapping[str, type[Event]]] = {event.kind: event for event in get_args(Event)}


def read_event(kind: str, fields: Fields, spec: JobSpec) -> Event:
    """The event that the journal of a job with this spec holds. Raises KeyError for a kind that there is not."""
    return _OF_KIND[kind].of_fields(fields, spec)


def brings_policies(kind: str) -> bool:
    """Whether events of a kind may name policies: most need not be read to know that they don't."""
    return _OF_KIND[kind].brings_policies
