"""A job: one training run's sample table, policy, plans and decisions. Every state change is one method; no I/O."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np

from bss_service.core.action import Action
from bss_service.core.observation import Observation, observe
from bss_service.core.reward import Validation
from bss_service.core.sampling import draw_plan, drawn_before
from bss_service.core.table import MAX_STEP, SampleTable
from bss_service.errors import ConflictError, InvalidValueError, NotFoundError, NotReproducibleError, UnknownStepError
from bss_service.job import checks
from bss_service.job.feedback import FeedbackLedger, Measured
from bss_service.job.history import History
from bss_service.job.plans import Plan, batches, plan_of
from bss_service.policies.artefact import NO_ARTEFACTS, Artefact, Artefacts
from bss_service.policies.base import Decision
from bss_service.policies.builtin.external import EXTERNAL
from bss_service.policies.shadows import Shadows
from bss_service.policies.versions import PolicyVersion, PolicyVersions, choice_from_outside, make_policy
from bss_service.protocol import (
    LOCAL_VERSION,
    ActionAnswer,
    ActionRequest,
    Batches,
    Feedback,
    FeedbackOutcome,
    FeedbackRequest,
    JobSpec,
    LocalBatches,
    PolicyAnswer,
    PolicySpec,
    Scores,
    SwapRequest,
    ValidationAnswer,
    ValidationReport,
)


class Job:
    """State of one job. Whoever calls must hold the job's lock; a method that raises has changed nothing.

    `artefacts` holds those that the job's policies name. Whoever creates a job sees to it that its policy can be made.
    """

    def __init__(self, spec: JobSpec, artefacts: Artefacts = NO_ARTEFACTS) -> None:
        self.spec = spec
        self.calendar = spec.calendar()
        self.table = SampleTable.empty(spec.samples, len(spec.modalities))
        self.ledger = FeedbackLedger(spec.batch_size)
        self.history = History(spec.reward)
        self.artefacts: dict[str, Artefact] = dict(artefacts)
        self.versions = PolicyVersions(spec.seed, [PolicyVersion(1, spec.policy, 0)], self.artefacts)
        self.shadows = Shadows(spec.seed, self.artefacts)
        self.plans: list[Plan] = []  # those that reach into the epoch being drawn or the one before
        self.passes: list[Scores] = []  # measuring passes not yet learnt
        self.action: ActionRequest | None = None  # from outside, for the interval that begins at planned_until
        self.planned_until = 0  # first step not yet planned
        self.served = 0  # first step not yet handed out

    # What comes in.

    def feedback(self, request: FeedbackRequest) -> list[FeedbackOutcome]:
        """Count feedback, each row of each step once; it is learnt when the next interval is planned."""
        rows = checks.rank_rows(self.spec, request.rank, request.world_size)
        checks.check_feedback(self.spec, request.feedback, len(rows), self.served)
        return [self._count(request.feedback, k, rows) for k in range(len(request.feedback.step))]

    def validate(self, report: ValidationReport) -> ValidationAnswer:
        """Take in a validation report and reward the decisions whose plans it ends."""
        checks.check_report(self.spec, report, self.served)
        known = [r.step for r in self.history.reports]
        if known and report.step <= known[-1]:
            return ValidationAnswer(outcome="repeated" if report.step in known else "late")
        heads = [report.modalities[name] for name in self.spec.modalities]
        validation = Validation(
            report.step,
            report.loss,
            report.accuracy,
            tuple(head.accuracy for head in heads),
            tuple(head.probability for head in heads),
        )
        return ValidationAnswer(outcome="applied", rewards=self.history.report(validation))

    def measure(self, scores: Scores) -> None:
        """Take in a part of a measuring pass; it is learnt when the next interval is planned."""
        checks.check_indices(self.spec, scores.indices)
        checks.check_heads(self.spec, "probabilities", scores.probabilities)
        self.passes.append(scores)

    def swap(self, request: SwapRequest, artefacts: Artefacts = NO_ARTEFACTS) -> PolicyAnswer:
        """Change the policy, from the first step not handed out or from the next interval on; or the shadow.

        artefacts: those that the new policy names.
        """
        make_policy(request.policy, {**self.artefacts, **artefacts})
        if request.shadow and request.policy.name == EXTERNAL:
            raise InvalidValueError(
                f"policy.name of a shadow must be a policy that acts by itself, got {EXTERNAL!r}",
                field="policy.name",
                value=EXTERNAL,
            )
        self.artefacts.update(artefacts)
        return self._apply(request)

    def end_shadow(self) -> None:
        """Let no policy watch; raises NotFoundError if none does."""
        if self.shadows.current is None:
            raise NotFoundError(f"job {self.spec.name!r} has no shadow", field="job", value=self.spec.name)
        self.shadows.end()

    def adopt(self, local: LocalBatches) -> bool:
        """Put on record what a client drew by itself from a step on; False if it already is.

        The client has trained on these batches, so they take the place of any that were drawn for the same steps.
        """
        self.check_start(local.start)
        checks.check_local(self.spec, local)
        stop = local.start + len(local.indices)
        if self.holds(local.start) and stop <= self.served:
            recorded = batches(self.plans, self.calendar, local.start, stop).indices
            if np.array_equal(recorded, local.indices):
                return False
        if self.ledger.any_since(local.start):
            raise ConflictError(
                f"start must follow every step with feedback, got {local.start}", field="start", value=local.start
            )
        if self.plans and local.start < self.plans[0].first_step:
            raise ConflictError(
                f"start must lie in this epoch or the one before, got {local.start}", field="start", value=local.start
            )
        position = local.start * self.spec.batch_size
        epoch_start = position // self.calendar.epoch_positions * self.calendar.epoch_positions
        if self.plans and self.plans[0].first_step * self.spec.batch_size > epoch_start:
            raise ConflictError(
                f"start must lie in an epoch that is still in memory, got {local.start}",
                field="start",
                value=local.start,
            )
        checks.check_coverage(self.calendar, self.plans, local)
        self.ledger.expect(local.start)
        self._undraw(local.start)
        probabilities = np.full(local.indices.shape, 1 / self.spec.samples, dtype=np.float32)
        self._append(Plan(local.start, local.indices, probabilities, LOCAL_VERSION, self.ledger.first_missing))
        self.served = stop
        return True

    def act(self, request: ActionRequest) -> ActionAnswer:
        """Take in the action for the next interval from outside; until the interval is planned, another replaces it."""
        version = self.versions.in_force(self.planned_until)
        if request.first_step != self.planned_until:
            return self._acted_before(request)
        if not version.is_external:
            raise ConflictError(
                f"policy must be 'external' for an action from outside, got {version.spec.name!r} from step "
                f"{version.first_step} on",
                field="policy",
                value=version.spec.name,
            )
        outcome: Literal["applied", "replaced", "repeated"] = "applied"
        if self.action is not None:
            outcome = "repeated" if request == self.action else "replaced"
        self.action = request
        return ActionAnswer(outcome=outcome, first_step=request.first_step, policy_version=version.version)

    # What goes out.

    def is_ready(self, step: int) -> bool:
        """Whether a step's batch is planned, or all that its interval's plan waits for has come."""
        return step < self.planned_until or (self._is_informed(step) and not self.awaits_action())

    def awaits_action(self) -> bool:
        """Whether the next interval's plan has all feedback that belongs to it, and lacks an action from outside."""
        external = self.versions.in_force(self.planned_until).is_external
        return external and self.action is None and self._is_informed(self.planned_until)

    def observe(self) -> Observation:
        """What the next interval's decision would log if it were made now; nothing changes."""
        return self.observing()()

    def observing(self) -> Callable[[], Observation]:
        """`observe` with copies of all that it needs: it may be called without the job's lock, once."""
        cut = self._cut(self.planned_until)
        table, fed_back, passes = self.table.copy(), self.ledger.measured(cut), list(self.passes)
        observed = self._observer(self.planned_until, self._reports_until(cut))

        def look() -> Observation:
            _measure(table, fed_back, passes, cut)
            return observed(table)

        return look

    def plan(self) -> Plan:
        """Draw the next interval, or the rest of one that was interrupted."""
        first = self.planned_until
        _, end = self.calendar.interval_bounds(first)
        if end > MAX_STEP:
            raise InvalidValueError(f"a job has at most {MAX_STEP} steps, got step {end}", field="start", value=end)
        end = self.versions.until(first, end)
        cut = self._cut(first)
        _measure(self.table, self.ledger.take(cut), self.passes, cut)
        self.passes = []
        decision = self._decide(first, end, self._reports_until(cut))
        action = decision.choice.action
        self.table.refresh(action.ema)
        drawn = draw_plan(
            self.calendar,
            first,
            end,
            action,
            self.table,
            drawn_before(((p.first_step, p.indices) for p in self.plans), self.calendar, first),
            self.spec.seed,
        )
        shape = (end - first, self.spec.batch_size)
        scored_until = min(cut, self.ledger.first_missing)
        self.ledger.forgive(cut)
        self.history.decisions.append(decision)
        return self._append(
            Plan(
                first,
                drawn.indices.reshape(shape),
                drawn.probabilities.reshape(shape),
                decision.policy_version,
                scored_until,
            )
        )

    def check_start(self, step: int) -> None:
        """Raises UnknownStepError for a step beyond the next one to be handed out."""
        if step > self.served:
            raise UnknownStepError(
                f"step {step} cannot be handed out yet: the next is step {self.served}; a trainer that is ahead of its "
                f"service, whose store was restored from a backup, can resume from a checkpoint of step {self.served} "
                "or earlier",
                field="start",
                value=step,
            )

    def holds(self, step: int) -> bool:
        """Whether the plan of a step is in memory."""
        return bool(self.plans) and self.plans[0].first_step <= step < self.planned_until

    def serve(self, start: int, count: int) -> Batches:
        """Hand out the batches of up to `count` planned steps from `start` on."""
        stop = min(start + count, self.planned_until)
        self.served = max(self.served, stop)
        return batches(self.plans, self.calendar, start, stop)

    # The journal.

    def replay(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Apply a journal entry; raises NotReproducibleError if a plan differs from the one that was handed out."""
        _REPLAY[kind](self, entry)

    def recover(self, start: int, plans: Sequence[Plan], versions: Sequence[PolicyVersion], served: int) -> None:
        """Go on at step `served`, the batches from step `start` on being those of `plans` as far as they matter still.

        versions: those that came after the known ones. How the plans were made is not known any more.
        """
        self._undraw(start)
        self.versions.versions.extend(versions)
        for plan in plans:
            self._append(plan)
        self.planned_until = self.served = served
        self.ledger.forgive(served)  # what was told of these steps and is lost will not come again

    def restore_policy(self) -> None:
        """Bring the policy in force, and the shadow, to the state in which they acted last.

        Raises NotReproducibleError, or InvalidValueError if the policy has acted and can't be made any more; whatever
        goes wrong with the shadow stands in the decision log only.
        """
        version = self.versions.in_force(self.planned_until)
        if not version.is_external:
            self.versions.ready(version, self.history.decisions_of(version.version))
        self.shadows.restore(self.history.decisions)

    # Inside.

    def _cut(self, step: int) -> int:
        """The step before which all feedback belongs to the plan of the interval of `step`.

        Also where an interval is drawn anew in its middle: what it may know doesn't depend on when that happened.
        """
        return max(0, self.calendar.interval_bounds(step)[0] - self.spec.lag)

    def _is_informed(self, step: int) -> bool:
        return self.ledger.first_missing >= self._cut(step)

    def _reports_until(self, cut: int) -> int:
        # Where the loader runs ahead, a report made at the cut itself races with the request for the interval.
        return cut if self.spec.lag == 0 else cut - 1

    def _next_interval(self) -> int:
        return self.calendar.interval_bounds(self.planned_until - 1)[1] if self.planned_until else 0

    def _apply(self, request: SwapRequest) -> PolicyAnswer:
        if request.shadow:
            return self._put_shadow(request)
        first_step = self.served if request.at == "now" else self._next_interval()
        newest = self.versions.versions[-1]
        if request.policy == newest.spec and newest.first_step <= first_step:
            return newest.answer()
        if request.at == "now":
            self._undraw(self.served)
        acting = self.versions.in_force(self.planned_until)
        added = self.versions.add(request.policy, first_step)
        if self.versions.in_force(self.planned_until) != acting:
            self.action = None  # it was for another policy version
        return added.answer(changed=True)

    def _put_shadow(self, request: SwapRequest) -> PolicyAnswer:
        current = self.shadows.current
        if current is not None and current.spec == request.policy:
            return current.answer().model_copy(update={"shadow": True})
        put = self.shadows.put(request.policy, self.planned_until)
        return put.answer(changed=True).model_copy(update={"shadow": True})

    def _undraw(self, step: int) -> None:
        """Forget what is planned from a step on."""
        self.plans = [p if p.end_step <= step else p.cut(step) for p in self.plans if p.first_step < step]
        self.history.cut(step)
        if step < self.planned_until:
            self.planned_until, self.action = step, None

    def _append(self, plan: Plan) -> Plan:
        epoch = self.calendar.epoch_of(plan.first_step)
        oldest = self.calendar.epoch_start(max(0, epoch - 1))
        self.plans = [*(p for p in self.plans if p.end_step > oldest), plan]
        self.planned_until, self.action = plan.end_step, None
        return plan

    def _decide(self, first: int, end: int, reports_until: int) -> Decision:
        version = self.versions.in_force(first)
        own = self.history.decisions_of(version.version)
        rewarded = [d for d in self.history.rewarded(reports_until) if d.policy_version == version.version]
        observation = self._observer(first, reports_until)(self.table)
        if version.is_external:
            choice = choice_from_outside(self.action, self._previous_action())
        else:
            choice = self.versions.act(observation, own, rewarded)
        learned = max([len(rewarded), *(d.learned for d in own[-1:])])  # it forgets nothing when a client goes back
        shadow = self.shadows.watch(observation, self.history.decisions)
        return Decision(first, end, version.version, observation, choice, learned, shadow=shadow)

    def _observer(self, first: int, reports_until: int) -> Callable[[SampleTable], Observation]:
        return partial(
            observe,
            step=first,
            epoch=self.calendar.epoch_of(first),
            steps_per_epoch=self.calendar.epoch_positions / self.calendar.batch_size,
            horizon=self.spec.horizon,
            reports=self.history.reports_until(reports_until),
            previous=self._previous_action(),
        )

    def _previous_action(self) -> Action | None:
        return self.history.decisions[-1].choice.action if self.history.decisions else None

    def _acted_before(self, request: ActionRequest) -> ActionAnswer:
        """The answer to a repetition for an interval that is planned; raises ConflictError for anything else."""
        made = choice_from_outside(request, None)
        for decision in reversed(self.history.decisions):
            if (decision.first_step, decision.choice) == (request.first_step, made):
                return ActionAnswer(
                    outcome="repeated", first_step=request.first_step, policy_version=decision.policy_version
                )
        raise ConflictError(
            f"first_step must be that of the next interval to be planned, {self.planned_until}, "
            f"got {request.first_step}",
            field="first_step",
            value=request.first_step,
        )

    def _count(self, feedback: Feedback, k: int, rows: range) -> FeedbackOutcome:
        """Count row k of a feedback message, whose columns are the rows `rows` of the step's batch."""
        step = int(feedback.step[k])
        new = self.ledger.new_rows(step, rows.start, rows.stop)
        if len(new) == 0:
            return "repeated"
        plan = plan_of(self.plans, step)
        if plan is None:
            self.ledger.record(step, new, None)
            return "late"
        measured = new if feedback.measured is None else new[feedback.measured[k, new - rows.start]]
        columns = measured - rows.start
        shape = (len(columns), len(self.spec.modalities) + 1)
        unknown = np.full(shape, np.nan, dtype=np.float32)
        self.ledger.record(
            step,
            new,
            Measured(
                step,
                int(new[0]),
                plan.indices[step - plan.first_step, measured],
                feedback.similarity[k, columns],
                feedback.loss[k, columns],
                unknown if feedback.probabilities is None else feedback.probabilities[k, columns],
            ),
        )
        return "applied"


def _measure(table: SampleTable, fed_back: Sequence[Measured], passes: Sequence[Scores], cut: int) -> None:
    """Write feedback and measuring passes into a table; a pass counts as made at step `cut`."""
    if fed_back:
        indices = np.concatenate([m.indices for m in fed_back])
        np.add.at(table.times_measured, indices, np.uint32(1))
        table.measure(
            indices,
            np.repeat([m.step for m in fed_back], [len(m.indices) for m in fed_back]),
            np.concatenate([m.similarity for m in fed_back]),
            np.concatenate([m.loss for m in fed_back]),
            np.concatenate([m.probabilities for m in fed_back]),
        )
    for scores in passes:
        steps = np.full(len(scores.indices), cut)
        table.measure(scores.indices, steps, scores.similarity, scores.loss, scores.probabilities)


def _replay_plan(job: Job, entry: Mapping[str, Any]) -> None:
    plan = job.plan()
    if (plan.first_step, plan.checksum()) != (entry["first_step"], entry["checksum"]):
        error = job.history.decisions[-1].choice.detail.get("error")
        raise NotReproducibleError(
            f"the plan of job {job.spec.name!r} from step {plan.first_step} on is not the one that was handed out"
            + (f": {error}" if error else "")
        )


def swap_request(entry: Mapping[str, Any]) -> SwapRequest:
    """The request that a journal entry is of."""
    return SwapRequest.model_validate({name: value for name, value in entry.items() if name != "answer"})


def _replay_swap(job: Job, entry: Mapping[str, Any]) -> None:
    # Not refused where its policy can't be made any more: one that isn't needed now must not end its job.
    job._apply(swap_request(entry))


def _replay_recovered(job: Job, entry: Mapping[str, Any]) -> None:
    plans = [Plan.of_fields(fields["first_step"], fields) for fields in entry["plans"]]
    versions = [
        PolicyVersion(v["version"], PolicySpec.model_validate(v["policy"]), v["first_step"]) for v in entry["versions"]
    ]
    job.recover(entry["start"], plans, versions, entry["served"])


_REPLAY: Final[Mapping[str, Callable[[Job, Mapping[str, Any]], object]]] = {
    "feedback": lambda job, entry: job.feedback(FeedbackRequest.model_validate(entry)),
    "validation": lambda job, entry: job.validate(ValidationReport.model_validate(entry)),
    "scores": lambda job, entry: job.measure(Scores.model_validate(entry)),
    "swap": _replay_swap,
    "end_shadow": lambda job, entry: job.end_shadow(),
    "action": lambda job, entry: job.act(ActionRequest.model_validate(entry)),
    "local": lambda job, entry: job.adopt(LocalBatches.model_validate(entry)),
    "plan": _replay_plan,
    "recovered": _replay_recovered,
    "serve": lambda job, entry: job.serve(entry["until"] - 1, 1),
}
