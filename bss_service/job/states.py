"""The parts of a snapshot: what is known of samples, plans, policies, decisions and feedback, as messages."""

from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, JsonValue, field_validator, model_validator

from bss_service.core.action import Action
from bss_service.core.arrays import Bool, Float32, Int64, UInt8, UInt32
from bss_service.core.table import MAX_STEP
from bss_service.job.feedback import Measured
from bss_service.protocol import ArrayType, Loss, Message, PolicySpec, Step, Unit

Number = Annotated[int, Field(ge=0, lt=2**63)]
Gain = Annotated[float, Field(ge=-1e39, le=1e39)]  # the difference of two losses of float32
Reward = Annotated[
    float, Field(ge=-11, le=1e39)
]  # at most ten times the balance term, and a surprise or an improvement
Losses = Annotated[Float32, ArrayType(np.float32, "n", nan=True)]
Shares = Annotated[Float32, ArrayType(np.float32, "n", 0, 1, nan=True)]
Bytes = Annotated[UInt8, ArrayType(np.uint8, "bytes")]
Cosines = Annotated[Float32, ArrayType(np.float32, "n", -1, 1, nan=True)]


class TableState(Message):
    """Columns of the sample table; NaN where nothing is known."""

    similarity: Cosines
    loss: Losses
    similarity_ema: Shares
    loss_ema: Shares
    first_score: Cosines
    probabilities: Annotated[Float32, ArrayType(np.float32, "n, M + 1", 0, 1, nan=True)]
    times_measured: Annotated[UInt32, ArrayType(np.uint32, "n")]
    stamp: Annotated[UInt32, ArrayType(np.uint32, "n")]


class PlanState(Message):
    """A plan that reaches into the current epoch or the one before."""

    first_step: Step
    indices: Annotated[Int64, ArrayType(np.int64, "K, G", 0)]
    probabilities: Annotated[Float32, ArrayType(np.float32, "K, G", 0, 1)]
    policy_version: Number
    scored_until: Step

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        if self.indices.shape != self.probabilities.shape:
            raise ValueError(f"probabilities must have shape {self.indices.shape}, got {self.probabilities.shape}")
        return self


class VersionState(Message):
    """A policy version."""

    version: Number
    policy: PolicySpec
    first_step: Step


class ChoiceState(Message):
    """What a policy chose."""

    action: dict[str, float | str]
    propensity: Annotated[float, Field(gt=0)]
    detail: dict[str, JsonValue]

    @field_validator("action")
    @classmethod
    def _is_an_action(cls, action: dict[str, float | str]) -> dict[str, float | str]:
        try:
            Action(**action)  # type: ignore[arg-type]
        except TypeError as error:
            raise ValueError(str(error)) from None
        return action


class ShadowState(ChoiceState):
    """What a shadow would have chosen."""

    number: Number


class DecisionState(ChoiceState):
    """A decision; its observation stands in the snapshot's array of observations."""

    first_step: Step
    end_step: Step
    epoch: Number
    policy_version: Number
    learned: Number
    gain: Gain | None
    reward: Reward | None
    rewarded_at: Step | None
    shadow: ShadowState | None = None

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.end_step < self.first_step:
            raise ValueError(f"end_step must be at least first_step = {self.first_step}, got {self.end_step}")
        return self


class ReportState(Message):
    """A validation report."""

    step: Step
    loss: Loss
    accuracy: Unit
    accuracies: list[Unit]
    probabilities: list[Unit]


class WaitingState(Message):
    """Feedback that has not been learnt yet, of w steps and ranks in a row: a frame can't hold many arrays."""

    step: Annotated[Int64, ArrayType(np.int64, "w", 0, MAX_STEP)]
    row: Annotated[Int64, ArrayType(np.int64, "w", 0)]
    rows: Annotated[Int64, ArrayType(np.int64, "w", 0)]  # k is their sum
    indices: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    similarity: Annotated[Float32, ArrayType(np.float32, "k", -1, 1)]
    loss: Annotated[Float32, ArrayType(np.float32, "k")]
    probabilities: Annotated[Float32, ArrayType(np.float32, "k, M + 1", 0, 1, nan=True)]

    @classmethod
    def of(cls, waiting: Sequence[Measured], heads: int) -> "WaitingState":
        """What waits, in this order."""

        def joined(name: str, dtype: type[np.generic], *shape: int) -> Any:
            return np.concatenate([np.empty((0, *shape), dtype), *(getattr(m, name) for m in waiting)])

        return cls.model_construct(
            step=np.array([m.step for m in waiting], np.int64),
            row=np.array([m.row for m in waiting], np.int64),
            rows=np.array([len(m.indices) for m in waiting], np.int64),
            indices=joined("indices", np.int64),
            similarity=joined("similarity", np.float32),
            loss=joined("loss", np.float32),
            probabilities=joined("probabilities", np.float32, heads),
        )

    def measured(self) -> list[Measured]:
        """The inverse of `of`."""
        ends = np.cumsum(self.rows)[:-1]
        columns = [np.split(c, ends) for c in (self.indices, self.similarity, self.loss, self.probabilities)]
        return [Measured(*one) for one in zip(self.step.tolist(), self.row.tolist(), *columns, strict=False)]


class _WaitingOfOne(Message):
    """The same of one step and rank."""

    step: Step
    row: Number
    indices: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    similarity: Annotated[Float32, ArrayType(np.float32, "k", -1, 1)]
    loss: Annotated[Float32, ArrayType(np.float32, "k")]
    probabilities: Annotated[Float32, ArrayType(np.float32, "k, M + 1", 0, 1, nan=True)]


class LedgerState(Message):
    """The feedback ledger."""

    complete: Annotated[Bool, ArrayType(np.bool_, "steps")]
    first_missing: Step
    partial_steps: Annotated[Int64, ArrayType(np.int64, "p", 0)]
    partial_rows: Annotated[Bool, ArrayType(np.bool_, "p, G")]
    waiting: WaitingState

    @field_validator("waiting", mode="before")
    @classmethod
    def _as_once_written(cls, waiting: Any) -> Any:
        """Snapshots of format 1 have a list with one object for each step and rank."""
        if not isinstance(waiting, list):
            return waiting
        known = [_WaitingOfOne.model_validate(one) for one in waiting]
        heads = known[0].probabilities.shape[1] if known else 1
        return WaitingState.of([Measured(**dict(one)) for one in known], heads)
