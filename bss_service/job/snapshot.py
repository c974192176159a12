"""The whole state of a job as one message: what the store keeps so as not to replay from the start, and what users
carry from one service to another."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import pairwise
from operator import not_
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, JsonValue, model_validator

from bss_service.core.arrays import Bool, Float32, Float64, Int64, UInt8, UInt16, UInt32
from bss_service.core.observation import BEFORE_EVIDENCE, FIELDS, Observation
from bss_service.core.samples.dynamics import Dynamics, are_kept
from bss_service.core.samples.groups import Groups
from bss_service.core.samples.keys import Keys
from bss_service.core.samples.table import MAX_STEP, SampleTable
from bss_service.core.signals import Signals
from bss_service.errors import InvalidValueError
from bss_service.job.feedback import FeedbackLedger, Measured, StepSet
from bss_service.job.formats import snapshot_of_version_2, snapshot_of_version_3
from bss_service.job.history import History, Past
from bss_service.job.job import Job, new_incarnation
from bss_service.job.plans import Plan
from bss_service.policies import artefact
from bss_service.policies.artefact import NO_ARTEFACTS, AnyArtefact, Artefacts
from bss_service.policies.builtin.artefact import named
from bss_service.policies.versions import PolicyVersion, PolicyVersions, Remembered, make_policy
from bss_service.protocol import frames
from bss_service.protocol.actions import ActionRequest
from bss_service.protocol.arrays import ArrayType
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.message import Message, Step, is_none
from bss_service.protocol.policies import MAX_VERSIONS, PolicySpec
from bss_service.protocol.samples import MAX_KEY
from bss_service.protocol.training import LOCAL_VERSION, Trainer, Window
from bss_service.protocol.validation import ValidationReport

Number = Annotated[int, Field(ge=0, lt=2**63)]
Incarnation = Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")]
Bytes = Annotated[UInt8, ArrayType(np.uint8, "bytes")]
OBSERVATIONS = ArrayType(np.float32, "decisions, fields", -1, 1)


class TableState(Message):
    """Columns of the sample table; NaN where nothing is known."""

    latest: dict[str, Annotated[Float32, ArrayType(np.float32, "n", nan=True, per_head=True)]]
    average: dict[str, Annotated[Float32, ArrayType(np.float32, "n", 0, 1, nan=True, per_head=True)]]
    unknown: dict[str, Annotated[Bool, ArrayType(np.bool_, "n", per_head=True)]]
    dynamics: dict[str, Annotated[Float32, ArrayType(np.float32, "n", per_head=True)]] = Field(default_factory=dict)
    first_score: Annotated[Float32, ArrayType(np.float32, "n", -1, 1, nan=True)]
    times_measured: Annotated[UInt32, ArrayType(np.uint32, "n")]
    stamp: Annotated[UInt32, ArrayType(np.uint32, "n")]
    groups: Annotated[UInt16, ArrayType(np.uint16, "n")] | None = Field(default=None, exclude_if=lambda v: v is None)


class PlanState(Message):
    """A plan that reaches into the current epoch or the one before."""

    first_step: Step
    indices: Annotated[Int64, ArrayType(np.int64, "K, G", 0)]
    probabilities: Annotated[Float32, ArrayType(np.float32, "K, G", 0, 1)]
    policy_version: Number
    scored_until: Step
    probes: Annotated[Bool, ArrayType(np.bool_, "K, G")] | None = None
    masked: Annotated[Bool, ArrayType(np.bool_, "K, G, H")] | None = None
    pull: Annotated[float, Field(ge=0, le=3)] = 0.0


class VersionState(Message):
    """A policy version."""

    version: Number
    policy: PolicySpec
    first_step: Step


class PassState(Message):
    """A measuring pass that has not been learnt yet."""

    indices: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    values: Annotated[Float32, ArrayType(np.float32, "k, S", nan=True)]


class WaitingState(Message):
    """Feedback that has not been learnt yet, of w steps and ranks in a row: a frame can't hold many arrays."""

    step: Annotated[Int64, ArrayType(np.int64, "w", 0, MAX_STEP)]
    row: Annotated[Int64, ArrayType(np.int64, "w", 0)]
    rows: Annotated[Int64, ArrayType(np.int64, "w", 0)]  # k is their sum
    indices: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    values: Annotated[Float32, ArrayType(np.float32, "k, S", nan=True)]

    @classmethod
    def of(cls, waiting: Sequence[Measured], width: int) -> "WaitingState":
        """What waits, in this order."""
        return cls.model_construct(
            step=np.array([m.step for m in waiting], np.int64),
            row=np.array([m.row for m in waiting], np.int64),
            rows=np.array([len(m.indices) for m in waiting], np.int64),
            indices=np.concatenate([np.empty(0, np.int64), *(m.indices for m in waiting)]),
            values=np.concatenate([np.empty((0, width), np.float32), *(m.values for m in waiting)]),
        )

    def measured(self) -> list[Measured]:
        """The inverse of `of`."""
        ends = np.cumsum(self.rows)[:-1]
        columns = np.split(self.indices, ends), np.split(self.values, ends)
        return [Measured(*one) for one in zip(self.step.tolist(), self.row.tolist(), *columns, strict=False)]


class LedgerState(Message):
    """The feedback ledger."""

    complete: Annotated[Int64, ArrayType(np.int64, "runs, 2", 0, MAX_STEP + 1)]  # of steps: first, first after
    first_missing: Step
    partial_steps: Annotated[Int64, ArrayType(np.int64, "p", 0)]
    partial_rows: Annotated[Bool, ArrayType(np.bool_, "p, G")]
    waiting: WaitingState


class PastState(Message):
    """Of the decisions that stand elsewhere in the store what has to be known to go on without them."""

    total: Number
    versions: Annotated[Int64, ArrayType(np.int64, "v, 4", 0)]  # number, acts, known rewards, rewards learned
    shadows: Annotated[Int64, ArrayType(np.int64, "s, 2", 0)]  # number, decisions watched
    gains: Annotated[Float64, ArrayType(np.float64, "g")]

    @classmethod
    def of(cls, past: Past) -> "PastState":
        """The message of what is known."""
        versions = [(v, count, past.rewards[v], past.learned[v]) for v, count in sorted(past.acts.items())]
        return cls.model_construct(
            total=past.total,
            versions=np.array(versions, np.int64).reshape(-1, 4),
            shadows=np.array(sorted(past.watched.items()), np.int64).reshape(-1, 2),
            gains=np.array(past.gains, np.float64),
        )

    def unpacked(self) -> Past:
        """The inverse of `of`."""
        numbers, acts, rewards, learned = self.versions.T.tolist()
        acted, rewarded, learnt = (dict(zip(numbers, column, strict=True)) for column in (acts, rewards, learned))
        watched = Counter(dict(self.shadows.tolist()))
        return Past(self.total, Counter(acted), Counter(rewarded), learnt, watched, self.gains.tolist())


class RememberedState(Message):
    """The state of a policy, or of a shadow, after some of its acts."""

    version: Number
    acts: Number
    learned: Number
    state: dict[str, JsonValue]

    @classmethod
    def of(cls, remembered: Remembered | None) -> "RememberedState | None":
        """None where none is."""
        return None if remembered is None else cls.model_construct(**asdict(remembered))

    def unpacked(self) -> Remembered:
        """The inverse of `of`."""
        return Remembered(self.version, self.acts, self.learned, self.state)


class NamesState(Message):
    """What a trainer calls its samples, from sample 0 on: the bytes of all in a row, as UTF-8."""

    text: Bytes
    lengths: Annotated[Int64, ArrayType(np.int64, "k", 1, 4 * MAX_KEY)]  # of each, in bytes

    @classmethod
    def of(cls, names: Sequence[str]) -> "NamesState | None":
        """None where there are none."""
        if not names:
            return None
        encoded = [name.encode() for name in names]
        text, lengths = np.frombuffer(b"".join(encoded), np.uint8), np.array([len(name) for name in encoded], np.int64)
        return cls.model_construct(text=text, lengths=lengths)

    def keys(self) -> list[str]:
        """The inverse of `of`. Raises ValueError where the bytes are no text."""
        text, ends = self.text.tobytes(), np.cumsum(self.lengths).tolist()
        return [text[start:end].decode() for start, end in pairwise([0, *ends])]


class Snapshot(Message):
    """State of a job. Batches of epochs long past are not in it: they stay with the service that handed them out.

    `artefacts` holds the bytes of those that the job's policies name, by sha256, in a snapshot that leaves the service;
    those of the store's own snapshots stand in the store once for all jobs. In a frame the observations of all
    decisions are one array. Formats 1 to 3 are read too.
    """

    format: Literal[4] = 4
    spec: JobSpec
    incarnation: Incarnation = ""
    origins: dict[Incarnation, Step] = Field(default_factory=dict)
    served: Step
    kept_from: Annotated[Step, Field(exclude_if=not_)] = 0
    table: TableState
    plans: list[PlanState]
    versions: Annotated[list[VersionState], Field(min_length=1)]
    past: Annotated[PastState | None, Field(exclude_if=is_none)] = None  # of decisions before these
    decisions: list[Decision]
    reports: list[ValidationReport]
    ledger: LedgerState
    passes: list[PassState]
    shadows: list[VersionState] = Field(default_factory=list)
    watching: bool = False  # whether the last of them does
    policy_state: Annotated[RememberedState | None, Field(exclude_if=is_none)] = None
    shadow_state: Annotated[RememberedState | None, Field(exclude_if=is_none)] = None
    artefacts: dict[str, Bytes] = Field(default_factory=dict)
    action: ActionRequest | None = None  # from outside, for the interval after the last plan
    trainers: list[Trainer] = Field(default_factory=list)
    window: Annotated[Window | None, Field(exclude_if=is_none)] = None  # of a stream
    names: Annotated[NamesState | None, Field(exclude_if=is_none)] = None  # by its trainer, of samples

    def to_frame(self) -> bytes:
        """The snapshot as a frame."""
        message = self.model_dump()
        vectors = [decision.pop("observation") for decision in message["decisions"]]
        return frames.encode({**message, "observations": np.array(vectors, np.float32).reshape(-1, len(FIELDS))})

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        written = message.get("format", 4)
        if written in (1, 2, 3):
            try:
                message = snapshot_of_version_3(message if written == 3 else snapshot_of_version_2(message))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(f"format {written} has other fields: {error!r}") from None
        return with_observations(message) if "observations" in message else message

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        signals = self.spec.measurements()
        self._check_table(signals)
        self._check_versions()
        self._check_plans()
        self._check_decisions()
        self._check_ledger(signals)
        self._check_names()
        if self.window is not None:
            _check_samples("window.samples", self.window.samples, self.spec.samples)
        for measuring in self.passes:
            _check_samples("passes.indices", measuring.indices, self.spec.samples)
            _check_values("passes.values", measuring.values, len(measuring.indices), signals)
        return self

    def _check_table(self, signals: Signals) -> None:
        n, averaged = self.spec.samples, [signal.name for signal in signals if signal.averaged]
        for group, names in (("latest", [signal.name for signal in signals if signal.kept]), ("average", averaged)):
            columns = getattr(self.table, group)
            if sorted(columns) != sorted(names):
                raise ValueError(f"table.{group} must hold {sorted(names)}, got {sorted(columns)}")
            for name in names:
                _check_shape(f"table.{group}.{name}", columns[name], (n, *signals.shape(name)))
        for name, column in self.table.latest.items():
            signals[name].check(column)
        if not set(self.table.unknown) <= set(averaged):
            raise ValueError(f"table.unknown must be of {averaged}, got {sorted(self.table.unknown)}")
        for name, mask in self.table.unknown.items():
            _check_shape(f"table.unknown.{name}", mask, (n, *signals.shape(name)))
        for name in ("first_score", "times_measured", "stamp"):
            _check_shape(f"table.{name}", getattr(self.table, name), (n,))
        if self.table.groups is not None:
            _check_shape("table.groups", self.table.groups, (n,))
            if (largest := int(self.table.groups.max())) >= (count := len(self.spec.group_names)):
                raise ValueError(f"table.groups must be less than spec.groups = {count}, got {largest}")
        if are_kept(signals):
            try:
                Dynamics.of_arrays(self.table.dynamics, n, signals.heads)
            except ValueError as error:
                raise ValueError(f"table.dynamics: {error}") from None
        elif self.table.dynamics:
            raise ValueError(f"table.dynamics must be empty for these signals, got {sorted(self.table.dynamics)}")

    def _check_versions(self) -> None:
        for field, versions in (("versions", self.versions), ("shadows", self.shadows)):
            numbers = [v.version for v in versions]
            if numbers != list(range(1, len(numbers) + 1)):
                raise ValueError(f"{field} must count up from 1, got {numbers}")
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
            _check_shape("plans.probabilities", plan.probabilities, plan.indices.shape)
            if plan.probes is not None:
                _check_shape("plans.probes", plan.probes, plan.indices.shape)
            if plan.masked is not None:
                _check_shape("plans.masked", plan.masked, (*plan.indices.shape, len(self.spec.heads)))
            _check_samples("plans.indices", plan.indices, self.spec.samples)
            self._check_version("plans.policy_version", plan.policy_version, LOCAL_VERSION)
            expected = plan.first_step + len(plan.indices)
        if self.kept_from > start:
            raise ValueError(f"kept_from must be at most the plans' first step {start}, got {self.kept_from}")
        if not start <= self.served <= expected:
            raise ValueError(f"served must lie within the plans, [{start}, {expected}], got {self.served}")
        if self.action is not None and self.action.first_step != expected:
            raise ValueError(f"action.first_step must follow the plans, {expected}, got {self.action.first_step}")

    def _check_decisions(self) -> None:
        for decision in self.decisions:
            self._check_version("decisions.policy_version", decision.policy_version, 1)
            if decision.end_step < decision.first_step:
                raise ValueError(
                    f"decisions.end_step must be at least first_step = {decision.first_step}, got {decision.end_step}"
                )
            if decision.shadow is not None and not 1 <= decision.shadow.shadow <= len(self.shadows):
                raise ValueError(
                    f"decisions.shadow.shadow must lie in [1, {len(self.shadows)}], got {decision.shadow.shadow}"
                )
        for report in self.reports:
            if list(report.modalities) != self.spec.heads[:-1]:
                raise ValueError(
                    f"reports must have the modalities {self.spec.heads[:-1]}, got {list(report.modalities)}"
                )
        steps = [report.step for report in self.reports]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"reports must be in order of step, got steps {steps}")

    def _check_ledger(self, signals: Signals) -> None:
        ledger, waiting = self.ledger, self.ledger.waiting
        _check_shape("ledger.partial_rows", ledger.partial_rows, (len(ledger.partial_steps), self.spec.batch_size))
        k = len(waiting.indices)
        _check_shape("ledger.waiting.row", waiting.row, waiting.step.shape)
        _check_shape("ledger.waiting.rows", waiting.rows, waiting.step.shape)
        if waiting.rows.max(initial=0) > self.spec.batch_size or waiting.rows.sum() != k:
            raise ValueError(f"ledger.waiting.rows must add up to the {k} samples, got {waiting.rows.sum()}")
        _check_samples("ledger.waiting.indices", waiting.indices, self.spec.samples)
        _check_values("ledger.waiting.values", waiting.values, k, signals)
        _check_shape("ledger.complete", ledger.complete, (len(ledger.complete), 2))
        if (np.diff(ledger.complete.reshape(-1)) <= 0).any():
            raise ValueError(f"ledger.complete must be runs in order and apart, got {ledger.complete.tolist()}")
        complete = ledger.complete[:, 1] - 1
        latest = max(int(steps.max(initial=-1)) for steps in (complete, ledger.partial_steps, waiting.step))
        if latest >= self.served:
            raise ValueError(f"ledger must hold steps before served = {self.served}, got step {latest}")

    def _check_names(self) -> None:
        if self.names is None:
            return
        text, lengths = self.names.text, self.names.lengths
        if len(lengths) > self.spec.samples or lengths.sum() != len(text):
            raise ValueError(
                f"names.lengths must be of at most {self.spec.samples} samples and add up to the {len(text)} bytes of "
                f"names.text, got {len(lengths)} that add up to {lengths.sum()}"
            )
        Keys.of(self.names.keys())

    def _check_version(self, field: str, version: int, least: int) -> None:
        if not least <= version <= len(self.versions):
            raise ValueError(f"{field} must lie in [{least}, {len(self.versions)}], got {version}")


def frozen(job: Job) -> Job:
    """A job for `snapshot_of` to read that stays as it is, at little cost: only its table changes, by planning."""
    held = copy.copy(job)
    ledger = job.ledger
    held.ledger = replace(
        ledger,
        complete=ledger.complete.copy(),
        partial={step: rows.copy() for step, rows in ledger.partial.items()},
        waiting={step: list(measured) for step, measured in ledger.waiting.items()},
    )
    held.history = job.history.copy()
    held.versions, held.shadows = copy.copy(job.versions), copy.copy(job.shadows)
    held.versions.versions, held.shadows.versions = list(job.versions.versions), list(job.shadows.versions)
    step, history = job.planned_until, job.history
    learned = history.learned(job.versions.in_force(step).version)
    held.versions.remembered = job.versions.remember(step, history.decisions_of, learned)
    held.shadows.remembered = job.shadows.remember(job.history.watched)
    held.passes = list(job.passes)
    held.keys = copy.copy(job.keys)
    return held


def take_snapshot(job: Job) -> Snapshot:
    """The state of a job as it is now, which stays while the job goes on."""
    held = frozen(job)
    held.table = job.table.copy()
    return snapshot_of(held)


def snapshot_of(job: Job) -> Snapshot:
    """The state of a job that nobody changes as long as the snapshot is in use: they share their arrays."""
    table = job.table
    columns: dict[str, Any] = {field.name: getattr(table, field.name) for field in fields(SampleTable)}
    del columns["signals"]
    columns["latest"] = {name: column.astype(np.float32, copy=False) for name, column in table.latest.items()}
    columns["dynamics"] = {} if table.dynamics is None else table.dynamics.to_arrays()
    columns["groups"] = None if table.groups is None else table.groups.numbers
    return Snapshot.model_construct(
        format=4,
        spec=job.spec,
        incarnation=job.incarnation,
        origins=job.origins,
        served=job.served,
        kept_from=job.kept_from,
        table=TableState.model_construct(None, **columns),
        plans=[_plan_state(plan) for plan in job.plans],
        versions=[_version_state(v) for v in job.versions.versions],
        shadows=[_version_state(v) for v in job.shadows.versions],
        watching=job.shadows.watching,
        policy_state=RememberedState.of(job.versions.remembered),
        shadow_state=RememberedState.of(job.shadows.remembered),
        artefacts={},
        past=PastState.of(job.history.past) if job.history.past.total else None,
        decisions=job.history.decisions,
        reports=job.history.reports,
        ledger=_ledger_state(job.ledger, job.signals.width),
        passes=[PassState.model_construct(indices=indices, values=values) for indices, values in job.passes],
        action=job.action,
        trainers=list(job.trainers.values()),
        window=job.window,
        names=NamesState.of(job.keys.names),
    )


def portable(job: Job) -> Snapshot:
    """The same with all decisions in it, also those that have left memory, for another service.

    A policy's state is not: whoever takes it in lets the policy act again, and finds out that it acts alike.
    """
    history = job.history
    past = Past(gains=history.past.gains)
    whole = replace(history, decisions=history.between(0, history.total), past=past, leaving=[])
    held = copy.copy(job)
    held.history, held.versions, held.shadows = whole, copy.copy(job.versions), copy.copy(job.shadows)
    held.versions.remembered = held.shadows.remembered = None
    return snapshot_of(held)


def with_artefacts(snapshot: Snapshot, artefacts: Artefacts) -> Snapshot:
    """The snapshot with those of these artefacts in it that its policies name, for another service."""
    hashes = sorted(named(policies_of(snapshot)) & set(artefacts))
    carried = {sha256: np.frombuffer(artefacts[sha256].data, np.uint8) for sha256 in hashes}
    return snapshot.model_copy(update={"artefacts": carried})


def moved(snapshot: Snapshot, name: str) -> Snapshot:
    """The snapshot for a job of its own under a name, which goes on from the one that it was taken of."""
    known = {snapshot.incarnation: snapshot.served} if snapshot.incarnation else {}
    return snapshot.model_copy(
        update={
            "spec": snapshot.spec.model_copy(update={"name": name}),
            "artefacts": {},
            "incarnation": new_incarnation(),
            "origins": snapshot.origins | known,
        }
    )


def policies_of(snapshot: Snapshot) -> list[PolicySpec]:
    """All policies that the job had."""
    return [snapshot.spec.policy, *(v.policy for v in (*snapshot.versions, *snapshot.shadows))]


def artefacts_in(snapshot: Snapshot) -> dict[str, AnyArtefact]:
    """The artefacts in a snapshot; raises artefact.ArtefactError.

    Those that don't fit this code are left out unless the job is going to draw with them.
    """
    needed = named(_still_to_draw(snapshot))
    carried = {}
    for sha256, data in snapshot.artefacts.items():
        try:
            read = artefact.read_any(data.tobytes())
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


def check_versions(snapshot: Snapshot) -> None:
    """Raises InvalidValueError where a snapshot has more policies than any job: each is looked at time and again."""
    for field in ("versions", "shadows"):
        if (count := len(getattr(snapshot, field))) > MAX_VERSIONS:
            raise InvalidValueError(f"{field} must be at most {MAX_VERSIONS}, got {count}", field=field, value=count)


def check_whole(snapshot: Snapshot) -> None:
    """Raises InvalidValueError for a snapshot of a store, which has but the latest decisions in it, or none at all of
    those that have made a policy's state what it is.
    """
    if snapshot.past is not None:
        raise InvalidValueError(
            f"past must be null: the first {snapshot.past.total} decisions stand in the store that this is of",
            field="past",
            value=snapshot.past.total,
        )
    for field in ("policy_state", "shadow_state"):
        if (state := getattr(snapshot, field)) is not None:
            raise InvalidValueError(
                f"{field} must be null: nobody could tell that the policy has come to it",
                field=field,
                value=state.state,
            )


def restore(snapshot: Snapshot, artefacts: Artefacts = NO_ARTEFACTS) -> Job:
    """The job of a snapshot; raises errors.BssError where a policy that is to draw can't be made or acts otherwise.

    artefacts: those that its policies name and that are not in it.
    """
    available = {**artefacts, **artefacts_in(snapshot)}
    for spec in _still_to_draw(snapshot):
        make_policy(spec, available)
    job = unpacked(snapshot, available)
    job.restore_policy()
    return job


def unpacked(snapshot: Snapshot, artefacts: Artefacts) -> Job:
    """The job of a snapshot, whose policies are yet to be brought to their state."""
    job = Job(snapshot.spec, artefacts)
    job.incarnation, job.origins = snapshot.incarnation, dict(snapshot.origins)
    job.table = _table(snapshot.table, job.signals)
    if snapshot.table.groups is not None:
        job.table.groups = Groups(snapshot.table.groups, snapshot.spec.group_names)
    job.plans = [
        Plan.of_fields(plan.first_step, {field.name: getattr(plan, field.name) for field in fields(Plan)})
        for plan in snapshot.plans
    ]
    job.planned_until = job.plans[-1].end_step if job.plans else 0
    job.served, job.kept_from = snapshot.served, snapshot.kept_from
    job.versions.versions = _policy_versions(snapshot.versions)
    job.shadows.versions = _policy_versions(snapshot.shadows)
    job.shadows.watching = snapshot.watching
    job.versions.remembered = None if snapshot.policy_state is None else snapshot.policy_state.unpacked()
    job.shadows.remembered = None if snapshot.shadow_state is None else snapshot.shadow_state.unpacked()
    past = Past() if snapshot.past is None else snapshot.past.unpacked()
    job.history = History(snapshot.spec.reward, list(snapshot.decisions), list(snapshot.reports), past)
    job.passes = [(measuring.indices, measuring.values) for measuring in snapshot.passes]
    job.action, job.window = snapshot.action, snapshot.window
    job.keys = Keys() if snapshot.names is None else Keys.of(snapshot.names.keys())
    job.trainers = {trainer.rank: trainer for trainer in snapshot.trainers}
    _restore_ledger(job.ledger, snapshot.ledger)
    return job


def _table(state: TableState, signals: Signals) -> SampleTable:
    """A table of its own, each column as narrow as the table has it."""
    n, like = len(state.stamp), SampleTable.empty(0, signals)
    columns: dict[str, Any] = {name: column for name, column in state if name != "groups"}
    columns["latest"] = {name: column.astype(like.latest[name].dtype) for name, column in state.latest.items()}
    columns["dynamics"] = None if like.dynamics is None else Dynamics.of_arrays(state.dynamics, n, signals.heads)
    return SampleTable(signals=signals, **columns).copy()


def with_observations(message: Mapping[str, Any]) -> dict[str, Any]:
    """Each decision with its observation, which is a row of the array of all."""
    decisions = message.get("decisions")
    vectors = _observations(message["observations"])
    rest = {name: value for name, value in message.items() if name != "observations"}
    if not isinstance(decisions, list) or not all(isinstance(decision, dict) for decision in decisions):
        return rest
    if vectors.shape == (len(decisions), BEFORE_EVIDENCE):
        vectors = np.pad(vectors, ((0, 0), (0, len(FIELDS) - BEFORE_EVIDENCE)))  # nothing was known of the rest
    _check_shape("observations", vectors, (len(decisions), len(FIELDS)))
    joined = [
        {**decision, "observation": Observation(vector.copy(), decision.get("first_step", 0), decision.get("epoch", 0))}
        for decision, vector in zip(decisions, vectors, strict=True)
    ]
    return {**rest, "decisions": joined}


def _observations(value: Any) -> Float32:
    try:
        return OBSERVATIONS.validated(value)
    except ValueError as error:
        raise ValueError(f"observations {error}") from None


def _still_to_draw(snapshot: Snapshot) -> list[PolicySpec]:
    planned_until = snapshot.plans[-1].first_step + len(snapshot.plans[-1].indices) if snapshot.plans else 0
    versions = PolicyVersions(snapshot.spec, _policy_versions(snapshot.versions))
    return [v.spec for v in versions.still_to_draw(planned_until)]


def _plan_state(plan: Plan) -> PlanState:
    return PlanState.model_construct(None, **{field.name: getattr(plan, field.name) for field in fields(Plan)})


def _version_state(version: PolicyVersion) -> VersionState:
    return VersionState(version=version.version, policy=version.spec, first_step=version.first_step)


def _policy_versions(versions: Sequence[VersionState]) -> list[PolicyVersion]:
    return [PolicyVersion(v.version, v.policy, v.first_step) for v in versions]


def _ledger_state(ledger: FeedbackLedger, width: int) -> LedgerState:
    partial = sorted(ledger.partial.items())
    return LedgerState.model_construct(
        complete=ledger.complete.runs(),
        first_missing=ledger.first_missing,
        partial_steps=np.array([step for step, _ in partial], dtype=np.int64),
        partial_rows=np.array([rows for _, rows in partial], np.bool_).reshape(-1, ledger.batch_size),
        waiting=WaitingState.of([m for step in sorted(ledger.waiting) for m in ledger.waiting[step]], width),
    )


def _restore_ledger(ledger: FeedbackLedger, state: LedgerState) -> None:
    ledger.complete = StepSet.of_runs(state.complete)
    ledger.partial = {
        step: rows.copy() for step, rows in zip(state.partial_steps.tolist(), state.partial_rows, strict=True)
    }
    for m in state.waiting.measured():
        ledger.waiting.setdefault(m.step, []).append(m)
    ledger.first_missing = state.first_missing


def _check_shape(field: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{field} must have shape {expected}, got {array.shape}")


def _check_samples(field: str, indices: Int64, samples: int) -> None:
    if indices.size and int(indices.max()) >= samples:
        raise ValueError(f"{field} must be less than samples = {samples}, got {indices.max()}")


def _check_values(field: str, values: Float32, rows: int, signals: Signals) -> None:
    _check_shape(field, values, (rows, signals.width))
    signals.check(values)
