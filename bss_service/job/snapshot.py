"""The whole state of a job as one message: what the store keeps so as not to replay from the start, and what users
carry from one service to another."""

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from bss_service.core.action import Action
from bss_service.core.arrays import Float32, Int64
from bss_service.core.observation import FIELDS, Observation
from bss_service.core.reward import Validation
from bss_service.core.table import SampleTable
from bss_service.job.job import Job
from bss_service.job.plans import Plan
from bss_service.job.states import (
    Bytes,
    ChoiceState,
    DecisionState,
    LedgerState,
    PlanState,
    ReportState,
    ShadowState,
    TableState,
    VersionState,
    WaitingState,
)
from bss_service.policies import artefact
from bss_service.policies.artefact import NO_ARTEFACTS, Artefact, Artefacts
from bss_service.policies.base import Choice, Decision, ShadowChoice
from bss_service.policies.builtin.artefact import named
from bss_service.policies.versions import PolicyVersion, PolicyVersions, make_policy
from bss_service.protocol import (
    LOCAL_VERSION,
    ActionRequest,
    ArrayType,
    JobSpec,
    Message,
    PolicySpec,
    Scores,
    Step,
)


class Snapshot(Message):
    """State of a job. Batches of epochs long past are not in it: they stay with the service that handed them out.

    `artefacts` holds the bytes of those that the job's policies name, by sha256, in a snapshot that leaves the service;
    those of the store's own snapshots stand in the store once for all jobs.
    """

    format: Literal[1, 2] = 2
    spec: JobSpec
    served: Step
    table: TableState
    plans: list[PlanState]
    versions: Annotated[list[VersionState], Field(min_length=1)]
    decisions: list[DecisionState]
    observations: Annotated[Float32, ArrayType(np.float32, "decisions, fields", -1, 1)]
    reports: list[ReportState]
    ledger: LedgerState
    passes: list[Scores]
    shadows: list[VersionState] = Field(default_factory=list)
    watching: bool = False  # whether the last of them does
    artefacts: dict[str, Bytes] = Field(default_factory=dict)
    action: ActionRequest | None = None  # from outside, for the interval after the last plan

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_table()
        self._check_versions()
        self._check_plans()
        self._check_decisions()
        self._check_ledger()
        for scores in self.passes:
            _check_samples("passes.indices", scores.indices, self.spec.samples)
            if scores.probabilities is not None:
                _check_shape("passes.probabilities", scores.probabilities, (len(scores.indices), self._heads))
        return self

    @property
    def _heads(self) -> int:
        return len(self.spec.modalities) + 1

    def _check_table(self) -> None:
        n = self.spec.samples
        for name, column in self.table:
            _check_shape(f"table.{name}", column, (n, self._heads) if name == "probabilities" else (n,))
        for one, other in (("similarity", "loss"), ("similarity_ema", "loss_ema")):
            if (np.isnan(getattr(self.table, one)) != np.isnan(getattr(self.table, other))).any():
                raise ValueError(f"table.{other} must be known where table.{one} is, and nowhere else")

    def _check_versions(self) -> None:
        numbers = [v.version for v in self.versions]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"versions must count up from 1, got {numbers}")
        numbers = [v.version for v in self.shadows]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"shadows must count up from 1, got {numbers}")
        if self.watching and not self.shadows:
            raise ValueError("watching must be false without shadows, got true")
        if self.versions[0].first_step != 0:
            raise ValueError(f"the first of versions must begin at step 0, got {self.versions[0].first_step}")

    def _check_plans(self) -> None:
        start = expected = self.plans[0].first_step if self.plans else 0
        for plan in self.plans:
            if plan.first_step != expected:
                raise ValueError(f"plans.first_step must follow the plan before, {expected}, got {plan.first_step}")
            _check_shape("plans.indices", plan.indices, (len(plan.indices), self.spec.batch_size))
            _check_samples("plans.indices", plan.indices, self.spec.samples)
            self._check_version("plans.policy_version", plan.policy_version, LOCAL_VERSION)
            expected = plan.first_step + len(plan.indices)
        if not start <= self.served <= expected:
            raise ValueError(f"served must lie within the plans, [{start}, {expected}], got {self.served}")

        if self.action is not None and self.action.first_step != expected:
            raise ValueError(f"action.first_step must follow the plans, {expected}, got {self.action.first_step}")

    def _check_decisions(self) -> None:
        _check_shape("observations", self.observations, (len(self.decisions), len(FIELDS)))
        for decision in self.decisions:
            self._check_version("decisions.policy_version", decision.policy_version, 1)
            if decision.shadow is not None and not 1 <= decision.shadow.number <= len(self.shadows):
                raise ValueError(
                    f"decisions.shadow.number must lie in [1, {len(self.shadows)}], got {decision.shadow.number}"
                )
        for report in self.reports:
            if not len(report.accuracies) == len(report.probabilities) == len(self.spec.modalities):
                raise ValueError(
                    f"reports must have {len(self.spec.modalities)} modalities, "
                    f"got {len(report.accuracies)} and {len(report.probabilities)}"
                )
        steps = [report.step for report in self.reports]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"reports must be in order of step, got steps {steps}")

    def _check_ledger(self) -> None:
        ledger = self.ledger
        _check_shape("ledger.partial_rows", ledger.partial_rows, (len(ledger.partial_steps), self.spec.batch_size))
        waiting = ledger.waiting
        k = len(waiting.indices)
        _check_shape("ledger.waiting.row", waiting.row, waiting.step.shape)
        _check_shape("ledger.waiting.rows", waiting.rows, waiting.step.shape)
        if waiting.rows.max(initial=0) > self.spec.batch_size or waiting.rows.sum() != k:
            raise ValueError(f"ledger.waiting.rows must add up to the {k} samples, got {waiting.rows.sum()}")
        _check_shape("ledger.waiting.similarity", waiting.similarity, (k,))
        _check_shape("ledger.waiting.loss", waiting.loss, (k,))
        if k:
            _check_shape("ledger.waiting.probabilities", waiting.probabilities, (k, self._heads))
        _check_samples("ledger.waiting.indices", waiting.indices, self.spec.samples)
        complete = np.flatnonzero(ledger.complete)
        latest = max(int(steps.max(initial=-1)) for steps in (complete, ledger.partial_steps, waiting.step))
        if latest >= self.served:
            raise ValueError(f"ledger must hold steps before served = {self.served}, got step {latest}")

    def _check_version(self, field: str, version: int, least: int) -> None:
        if not least <= version <= len(self.versions):
            raise ValueError(f"{field} must lie in [{least}, {len(self.versions)}], got {version}")


def frozen(job: Job) -> Job:
    """A job for `snapshot_of` to read that stays as it is, at little cost: only its table changes, by planning."""
    held = copy.copy(job)
    ledger, history = job.ledger, job.history
    held.ledger = replace(
        ledger,
        complete=ledger.complete.copy(),
        partial={step: rows.copy() for step, rows in ledger.partial.items()},
        waiting={step: list(measured) for step, measured in ledger.waiting.items()},
    )
    held.history = replace(history, decisions=list(history.decisions), reports=list(history.reports))
    held.versions, held.shadows = copy.copy(job.versions), copy.copy(job.shadows)
    held.versions.versions, held.shadows.versions = list(job.versions.versions), list(job.shadows.versions)
    held.passes = list(job.passes)
    return held


def take_snapshot(job: Job) -> Snapshot:
    """The state of a job as it is now, which stays while the job goes on."""
    held = frozen(job)
    held.table = job.table.copy()
    return snapshot_of(held)


def snapshot_of(job: Job) -> Snapshot:
    """The state of a job that nobody changes as long as the snapshot is in use: they share their arrays."""
    ledger = job.ledger
    partial = sorted(ledger.partial.items())
    decisions = job.history.decisions
    return Snapshot.model_construct(
        format=2,
        spec=job.spec,
        served=job.served,
        table=TableState.model_construct(None, **job.table.columns()),
        plans=[
            PlanState.model_construct(
                first_step=p.first_step,
                indices=p.indices,
                probabilities=p.probabilities,
                policy_version=p.policy_version,
                scored_until=p.scored_until,
            )
            for p in job.plans
        ],
        versions=[_version_state(v) for v in job.versions.versions],
        shadows=[_version_state(v) for v in job.shadows.versions],
        watching=job.shadows.watching,
        artefacts={},
        decisions=[_decision_state(d) for d in decisions],
        observations=np.array([d.observation.vector for d in decisions], np.float32).reshape(-1, len(FIELDS)),
        reports=[
            ReportState(
                step=r.step,
                loss=r.loss,
                accuracy=r.accuracy,
                accuracies=list(r.accuracies),
                probabilities=list(r.probabilities),
            )
            for r in job.history.reports
        ],
        ledger=LedgerState.model_construct(
            complete=ledger.complete,
            first_missing=ledger.first_missing,
            partial_steps=np.array([step for step, _ in partial], dtype=np.int64),
            partial_rows=np.array([rows for _, rows in partial], np.bool_).reshape(-1, job.spec.batch_size),
            waiting=WaitingState.of(
                [m for step in sorted(ledger.waiting) for m in ledger.waiting[step]], len(job.spec.modalities) + 1
            ),
        ),
        passes=job.passes,
        action=job.action,
    )


def with_artefacts(snapshot: Snapshot, artefacts: Artefacts) -> Snapshot:
    """The snapshot with those of these artefacts in it that its policies name, for another service."""
    hashes = sorted(named(policies_of(snapshot)) & set(artefacts))
    carried = {sha256: np.frombuffer(artefacts[sha256].data, np.uint8) for sha256 in hashes}
    return snapshot.model_copy(update={"artefacts": carried})


def policies_of(snapshot: Snapshot) -> list[PolicySpec]:
    """All policies that the job had."""
    return [snapshot.spec.policy, *(v.policy for v in (*snapshot.versions, *snapshot.shadows))]


def artefacts_in(snapshot: Snapshot) -> dict[str, Artefact]:
    """The artefacts in a snapshot; raises artefact.ArtefactError.

    Those that don't fit this code are left out unless the job is going to draw with them.
    """
    needed = named(_still_to_draw(snapshot))
    carried = {}
    for sha256, data in snapshot.artefacts.items():
        try:
            read = artefact.read(data.tobytes())
        except artefact.ArtefactError:
            if sha256 in needed:
                raise
            continue
        if read.sha256 != sha256:
            raise artefact.ArtefactError(
                f"artefacts must stand under their hashes, {read.sha256}, got {sha256}", field="artefacts", value=sha256
            )
        carried[sha256] = read
    return carried


def restore(snapshot: Snapshot, artefacts: Artefacts = NO_ARTEFACTS) -> Job:
    """The job of a snapshot; raises errors.BssError where a policy that is to draw can't be made or acts otherwise.

    artefacts: those that its policies name and that are not in it.
    """
    known = {**artefacts, **artefacts_in(snapshot)}
    for spec in _still_to_draw(snapshot):
        make_policy(spec, known)
    job = unpacked(snapshot, known)
    job.restore_policy()
    return job


def unpacked(snapshot: Snapshot, artefacts: Artefacts) -> Job:
    """The job of a snapshot, whose policies are yet to be brought to their state."""
    job = Job(snapshot.spec, artefacts)
    job.table = SampleTable(**{name: column.copy() for name, column in snapshot.table})
    job.plans = [
        Plan(p.first_step, p.indices, p.probabilities, p.policy_version, p.scored_until) for p in snapshot.plans
    ]
    job.planned_until = job.plans[-1].end_step if job.plans else 0
    job.served = snapshot.served
    job.versions.versions = [PolicyVersion(v.version, v.policy, v.first_step) for v in snapshot.versions]
    job.shadows.versions = [PolicyVersion(v.version, v.policy, v.first_step) for v in snapshot.shadows]
    job.shadows.watching = snapshot.watching
    job.history.decisions = [
        _decision(state, vector) for state, vector in zip(snapshot.decisions, snapshot.observations, strict=True)
    ]
    job.history.reports = [
        Validation(r.step, r.loss, r.accuracy, tuple(r.accuracies), tuple(r.probabilities)) for r in snapshot.reports
    ]
    job.passes = list(snapshot.passes)
    job.action = snapshot.action
    _restore_ledger(job, snapshot.ledger)
    return job


def _still_to_draw(snapshot: Snapshot) -> list[PolicySpec]:
    planned_until = snapshot.plans[-1].first_step + len(snapshot.plans[-1].indices) if snapshot.plans else 0
    versions = [PolicyVersion(v.version, v.policy, v.first_step) for v in snapshot.versions]
    return [v.spec for v in PolicyVersions(snapshot.spec.seed, versions).still_to_draw(planned_until)]


def _restore_ledger(job: Job, state: LedgerState) -> None:
    ledger = job.ledger
    if len(state.complete):
        ledger.complete = state.complete.copy()
    ledger.partial = {
        step: rows.copy() for step, rows in zip(state.partial_steps.tolist(), state.partial_rows, strict=True)
    }
    for m in state.waiting.measured():
        ledger.waiting.setdefault(m.step, []).append(m)
    ledger.first_missing = state.first_missing


def _version_state(version: PolicyVersion) -> VersionState:
    return VersionState(version=version.version, policy=version.spec, first_step=version.first_step)


def _choice_fields(choice: Choice) -> dict[str, Any]:
    return {"action": choice.action.as_dict(), "propensity": choice.propensity, "detail": dict(choice.detail)}


def _decision_state(decision: Decision) -> DecisionState:
    shadow = decision.shadow
    return DecisionState(
        first_step=decision.first_step,
        end_step=decision.end_step,
        epoch=decision.observation.epoch,
        policy_version=decision.policy_version,
        **_choice_fields(decision.choice),
        learned=decision.learned,
        gain=decision.gain,
        reward=decision.reward,
        rewarded_at=decision.rewarded_at,
        shadow=None if shadow is None else ShadowState(number=shadow.number, **_choice_fields(shadow.choice)),
    )


def _choice(state: ChoiceState) -> Choice:
    return Choice(Action(**state.action), state.propensity, state.detail)  # type: ignore[arg-type]


def _decision(state: DecisionState, vector: Float32) -> Decision:
    return Decision(
        state.first_step,
        state.end_step,
        state.policy_version,
        Observation(vector.copy(), state.first_step, state.epoch),
        _choice(state),
        state.learned,
        state.gain,
        state.reward,
        state.rewarded_at,
        None if state.shadow is None else ShadowChoice(state.shadow.number, _choice(state.shadow)),
    )


def _check_shape(field: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{field} must have shape {expected}, got {array.shape}")


def _check_samples(field: str, indices: Int64, samples: int) -> None:
    if indices.size and int(indices.max()) >= samples:
        raise ValueError(f"{field} must be less than samples = {samples}, got {indices.max()}")
