"""A job: one training run's sample table, policy, plans and decisions; what may be asked of it, and how it plans."""

import secrets
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.interval import (
    draw_interval,
    judge_interval,
    judge_interval_partly,
    learn_interval,
    observe_interval,
)
from bss_service.core.observation import Observation
from bss_service.core.samples.keys import Keys
from bss_service.core.samples.table import MAX_STEP, SampleTable
from bss_service.core.sampling import Proceed, drawn_before, drawn_of, unasked
from bss_service.errors import ConflictError, GoneError, InvalidValueError, UnknownStepError
from bss_service.job.feedback import FeedbackLedger, Measured
from bss_service.job.history import History
from bss_service.job.plans import Plan, batches
from bss_service.policies.artefact import NO_ARTEFACTS, AnyArtefact, Artefacts
from bss_service.policies.shadows import Shadows, check_shadow
from bss_service.policies.shipped import usual_partial_judge
from bss_service.policies.versions import PolicyVersion, PolicyVersions, check_policy, choice_from_outside
from bss_service.protocol.actions import ActionRequest
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import MAX_VERSIONS, SwapRequest
from bss_service.protocol.training import Batches, JobSize, Trainer, Window

MeasuringPass = tuple[Int64, Float32]  # samples (k,), and what was measured of them (k, S)


class Job:
    """State of one job. It changes by events alone (events.py); whoever applies one must hold the job's lock.

    `artefacts` holds those that the job's policies name. Whoever creates a job sees to it that its policy can be made.
    """

    def __init__(self, spec: JobSpec, artefacts: Artefacts = NO_ARTEFACTS) -> None:
        self.spec = spec
        self.incarnation = ""  # of no other job, not of one of the same name either; nothing is drawn by it
        self.origins: dict[str, int] = {}  # earlier incarnations that it goes on from, each up to a step
        self.calendar = spec.calendar()
        self.signals = spec.measurements()
        self.table = SampleTable.empty(spec.samples, self.signals)
        self.ledger = FeedbackLedger(spec.batch_size)
        self.history = History(spec.reward)
        self.artefacts: dict[str, AnyArtefact] = dict(artefacts)
        self.versions = PolicyVersions(spec, [PolicyVersion(1, spec.policy, 0)], self.artefacts)
        self.shadows = Shadows(spec, self.artefacts)
        self.plans: list[Plan] = []  # those that reach into the epoch being drawn or the one before
        self.keys = Keys()  # what its trainer calls the samples, where it says
        self.passes: list[MeasuringPass] = []  # not yet learnt
        self.trainers: dict[int, Trainer] = {}  # by rank: who took its place last
        self.window: Window | None = None  # of a stream, the latest
        self.action: ActionRequest | None = None  # from outside, for the interval that begins at planned_until
        self.planned_until = 0  # first step not yet planned
        self.served = 0  # first step not yet handed out
        self.kept_from = 0  # the batches of earlier steps are kept nowhere any more
        self.proceed: Proceed = unasked  # asked while it plans; what it raises leaves the job half changed

    # What may be asked.

    def is_ready(self, step: int) -> bool:
        """Whether a step's batch is planned, or all that its interval's plan waits for has come."""
        return step < self.planned_until or (self._is_informed(step) and not self.awaits_action())

    def awaits_action(self) -> bool:
        """Whether the next interval's plan has all feedback that belongs to it, and lacks an action from outside."""
        waits = self.versions.in_force(self.planned_until).waits_for_action
        return waits and self.action is None and self._is_informed(self.planned_until)

    @property
    def window_end(self) -> int:
        """The first step after the window; 0 where there is none."""
        window = self.window
        return 0 if window is None else window.first_step + len(window.samples) // self.spec.batch_size

    def check_window(self) -> None:
        """Raises ConflictError for a stream of which the trainer has yet to say what it has read."""
        if self.spec.stream and self.window_end <= self.planned_until:
            raise ConflictError(
                f"window must be told before step {self.planned_until} of a stream is drawn: PUT "
                f"/v1/jobs/{self.spec.name}/window",
                field="window",
                value=self.planned_until,
            )

    def observe(self) -> Observation:
        """What the next interval's decision would log if it were made now; nothing changes."""
        cut, table = self._cut(self.planned_until), self.table.copy()
        _learn(table, self.ledger.waiting_before(cut), self.passes, cut)
        reports_until = self._reports_until(cut)
        evidence = self._judge(self.planned_until, reports_until)(table)
        seen: Observation = self._observer(self.planned_until, reports_until)(table, evidence=evidence)
        return seen

    def judging(self) -> Callable[[], Evidence | None]:
        """Gives the evidence of what the latest plan was drawn from, of a table that nobody changes meanwhile.

        None where there is none. Reports that came since are taken into account.
        """
        return partial(self._judge(self.planned_until, self.planned_until), self.table)

    def outdated_until(self) -> int:
        """The first step that has to be kept: of as many epochs as the job says, behind what feedback has reached."""
        if self.spec.keep_epochs is None or not self.plans:
            return self.kept_from
        epoch = self.calendar.epoch_of(min(self.ledger.first_missing, self.served))
        start = self.calendar.epoch_start(max(0, epoch - self.spec.keep_epochs))
        return max(self.kept_from, min(start, self.plans[0].first_step))

    def check_kept(self, step: int) -> None:
        """Raises GoneError for a step whose batch is kept no longer."""
        if step < self.kept_from:
            raise GoneError(
                f"the batch of step {step} of job {self.spec.name!r} is kept no longer, by its keep_epochs of "
                f"{self.spec.keep_epochs}: the first that is kept is step {self.kept_from}, and a trainer can resume "
                "from a checkpoint of that step or a later one",
                field="start",
                value=step,
            )

    def check_start(self, step: int) -> None:
        """Raises UnknownStepError for a step beyond the next one to be handed out, GoneError for one kept no longer."""
        self.check_kept(step)
        if step > self.served:
            raise UnknownStepError(
                f"step {step} cannot be handed out yet: the next is step {self.served}; a trainer that is ahead of its "
                f"service, whose store was restored from a backup, can resume from a checkpoint of step {self.served} "
                "or earlier",
                field="start",
                value=step,
            )

    def check_swap(self, request: SwapRequest, artefacts: Artefacts) -> None:
        """Raises InvalidValueError for a policy that the job can't have. artefacts: those that it names, taken in."""
        known = (self.shadows if request.shadow else self.versions).versions
        if len(known) >= MAX_VERSIONS:
            raise ConflictError(
                f"policy must be one of at most {MAX_VERSIONS} that a job may have had, got one more",
                field="policy",
                value=len(known) + 1,
            )
        policy = check_policy(request.policy, self.spec, {**self.artefacts, **artefacts})
        if request.shadow:
            check_shadow(policy, request.policy, self.spec)
        self.artefacts.update(artefacts)

    def holds(self, step: int) -> bool:
        """Whether the plan of a step is in memory."""
        return bool(self.plans) and self.plans[0].first_step <= step < self.planned_until

    def batches(self, start: int, stop: int) -> Batches:
        """The batches of planned steps, whose plans are in memory."""
        return batches(self.plans, self.calendar, start, stop)

    def next_interval(self) -> int:
        """First step of the next interval to be drawn."""
        return self.calendar.interval_bounds(self.planned_until - 1)[1] if self.planned_until else 0

    @property
    def reads_evidence(self) -> bool:
        """Whether the next plan is drawn by evidence, of all signals that it needs or of some."""
        return self.table.dynamics is not None or self._reads_partly(self.planned_until)

    @property
    def rows_waiting(self) -> int:
        """Rows of measuring passes that the next plan learns."""
        return sum(len(indices) for indices, _ in self.passes)

    # How it changes. Called by events.

    def resize(self, size: JobSize) -> None:
        """Have so many samples, no fewer than before; of new ones nothing is known.

        They stand in the table at once, so that they may be measured, and are drawn once their epoch has come. Whoever
        reads the table as it was has it still.
        """
        self.spec = self.spec.sized(size)
        self.calendar = self.spec.calendar()
        if size.samples > len(self.table):
            self.table = self.table.grown(size.samples)

    def take_pass(self, indices: Int64, values: Float32) -> None:
        """Keep a part of a measuring pass, (k,) and (k, S), until the next plan learns it.

        Where more rows wait than there are samples twice over, they become at most one a sample: what is known last of
        each signal, as the table would have it in the end. Training dynamics count visits: where they are kept, each
        pass stays.
        """
        self.passes.append((indices, values))
        if self.table.dynamics is None and self.rows_waiting > 2 * self.spec.samples:
            self.passes = [_folded(self.passes, self.spec.samples)]

    def plan(self) -> Plan:
        """Draw the next interval, or the rest of one that was interrupted."""
        first = self.planned_until
        self.check_window()
        _, end = self.calendar.interval_bounds(first)
        if end > MAX_STEP:
            raise InvalidValueError(f"a job has at most {MAX_STEP} steps, got step {end}", field="start", value=end)
        end = self.versions.until(first, self.calendar.alike_until(first, end))
        end = min(end, self.window_end) if self.spec.stream else end
        cut = self._cut(first)
        _learn(self.table, self.ledger.take_before(cut), self.passes, cut)
        self.passes = []
        reports_until = self._reports_until(cut)
        evidence = self._judge(first, reports_until)(self.table)
        decision = self._decide(first, end, reports_until, evidence)
        before = self._drawn(first)
        window = None if self.window is None else self.window.samples
        action = decision.action if self.spec.weighted else decision.action.unweighted()
        drawn = draw_interval(
            self.table, self.calendar, first, end, action, before, self.spec.seed, evidence, self.proceed, window
        )
        scored_until = min(cut, self.ledger.first_missing)
        self.ledger.stop_waiting(cut)
        self.history.decisions.append(decision.model_copy(update={"left_out": drawn.left_out}))
        self.history.let_go(self._fixed_until(), reports_until)
        version = decision.policy_version
        return self.append(
            Plan(
                first,
                drawn.indices,
                drawn.probabilities,
                version,
                scored_until,
                drawn.probes,
                drawn.masked,
                action.pull,
            )
        )

    def append(self, plan: Plan) -> Plan:
        """Take in the next plan, and let go of those of epochs long past."""
        epoch = self.calendar.epoch_of(plan.first_step)
        oldest = self.calendar.epoch_start(max(0, epoch - 1))
        self.plans = [*(p for p in self.plans if p.end_step > oldest), plan]
        self.planned_until, self.action = plan.end_step, None
        return plan

    def truncate(self, step: int) -> None:
        """Forget what is planned from a step on."""
        self.plans = [p if p.end_step <= step else p.cut(step) for p in self.plans if p.first_step < step]
        self.history.truncate(step)
        if step < self.planned_until:
            self.planned_until, self.action = step, None

    def restore_policy(self) -> None:
        """Bring the policy in force, and the shadow, to the state in which they acted last.

        Raises NotReproducibleError, or InvalidValueError if the policy has acted and can't be made any more; whatever
        goes wrong with the shadow stands in the decision log only.
        """
        version = self.versions.in_force(self.planned_until)
        self.versions.ready(version, self.history.decisions_of(version.version), self._known(version))
        self.shadows.restore(self.history.watched)

    # Inside.

    def _cut(self, step: int) -> int:
        """The step before which all feedback belongs to the plan of the interval of `step`.

        Also where an interval is drawn anew in its middle: what it may know doesn't depend on when that happened.
        """
        return max(0, self.calendar.interval_bounds(step)[0] - self.spec.lag)

    def _fixed_until(self) -> int:
        """The first step that may still be drawn anew, by a client: none of those with feedback, or out of memory."""
        return max(self.ledger.stop, self.plans[0].first_step if self.plans else 0)

    def _is_informed(self, step: int) -> bool:
        return self.ledger.first_missing >= self._cut(step)

    def _reports_until(self, cut: int) -> int:
        # Where the loader runs ahead, a report made at the cut itself races with the request for the interval.
        return cut if self.spec.lag == 0 else cut - 1

    def _drawn(self, first: int) -> Bool:
        """Which samples of an epoch, (n,), or places of a window, (w,), came before a step."""
        if self.window is not None:
            since = self.window.first_step
            came = [plan.since(since).indices.reshape(-1) for plan in self.plans if plan.end_step > since]
            return drawn_of(self.window.samples, np.concatenate([np.empty(0, np.int64), *came]))
        return drawn_before(((p.first_step, p.indices) for p in self.plans), self.calendar, first)

    def _judge(self, first: int, reports_until: int) -> Callable[[SampleTable], Evidence | None]:
        """What reads the evidence of a table for the interval that begins at `first`; None where there is none."""
        reports = self.history.reports_until(reports_until)
        if self.table.dynamics is None:
            if not self._reads_partly(first):
                return lambda table: None
            return partial(judge_interval_partly, judge=usual_partial_judge(), reports=reports)
        return partial(
            judge_interval,
            judge=self.versions.judge(self.versions.in_force(first)),
            reports=reports,
            confusion=reports[-1].confusion if reports else None,
        )

    def _reads_partly(self, step: int) -> bool:
        """Whether the policy of a step acts on what evidence few signals give, and there are any that do."""
        return "loss" in self.table.latest and self.versions.reads_partly(step)

    def _decide(self, first: int, end: int, reports_until: int, evidence: Evidence | None) -> Decision:
        version = self.versions.in_force(first)
        own = self.history.decisions_of(version.version)
        rewarded = self.history.rewarded(version.version, reports_until)
        observation = self._observer(first, reports_until)(self.table, evidence=evidence)
        if version.waits_for_action:
            choice = choice_from_outside(self.action, self._previous_action())
        else:
            choice = self.versions.act(observation, own, rewarded, self._known(version))
        return Decision(
            **choice.fields(),
            first_step=first,
            end_step=end,
            epoch=observation.epoch,
            policy_version=version.version,
            policy=version.spec.name,
            observation=observation,
            learned=max(len(rewarded), self.history.learned(version.version)),  # also when a client goes back
            shadow=self.shadows.watch(observation, self.history.watched),
        )

    def _known(self, version: PolicyVersion) -> Callable[[], Sequence[Decision]]:
        """Gives all decisions of a version whose reward is known."""
        return lambda: self.history.rewarded(version.version, MAX_STEP)

    def _observer(self, first: int, reports_until: int) -> Callable[..., Observation]:
        return partial(
            observe_interval,
            calendar=self.calendar,
            first_step=first,
            horizon=self.spec.horizon,
            reports=self.history.reports_until(reports_until),
            previous=self._previous_action(),
        )

    def _previous_action(self) -> Action | None:
        return self.history.decisions[-1].action if self.history.decisions else None


def new_incarnation() -> str:
    """The incarnation of a new job."""
    return secrets.token_hex(16)


def _folded(passes: Sequence[MeasuringPass], samples: int) -> MeasuringPass:
    """One pass that leaves in a table what these do one after the other."""
    last = np.full((samples, passes[0][1].shape[1]), np.nan, dtype=np.float32)
    for indices, values in passes:
        for column, new in zip(last.T, values.T, strict=True):
            known = ~np.isnan(new)
            column[indices[known]] = new[known]
    measured = np.flatnonzero(~np.isnan(last).all(axis=1))
    return measured, last[measured]


def _learn(table: SampleTable, fed_back: Sequence[Measured], passes: Sequence[MeasuringPass], cut: int) -> None:
    """Write feedback and measuring passes into a table; a pass counts as made at step `cut`."""
    if fed_back:
        learn_interval(
            table,
            np.concatenate([m.indices for m in fed_back]),
            np.repeat([m.step for m in fed_back], [len(m.indices) for m in fed_back]),
            np.concatenate([m.values for m in fed_back]),
        )
    for indices, values in passes:
        table.measure(indices, np.full(len(indices), cut), values)
