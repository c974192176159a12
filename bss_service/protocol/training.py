"""What a training loop sends and gets: feedback, batches, measuring passes."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from bss_service.core.arrays import Float32, Int64
from bss_service.core.signals import Signals
from bss_service.core.table import MAX_STEP
from bss_service.protocol.arrays import ArrayType
from bss_service.protocol.message import Message, OrNewer, Step

MAX_COUNT: Final = 4096  # steps in one request
LOCAL_VERSION: Final = 0  # policy version of batches that a client drew by itself during an outage


class Feedback(Message):
    """What a trainer measured in F of its steps: one row a step, one column a sample of this rank's share.

    Signals come by name, each an array (F, G / W), or (F, G / W, H) where each head has one; or all in `values`, in the
    job's order. NaN (null in JSON), or a signal that is not there: it is not known.
    """

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, Annotated[Float32, ArrayType(np.float32, "F, G / W", nan=True, per_head=True)]]

    step: Annotated[Int64, ArrayType(np.int64, "F", 0, MAX_STEP)]
    values: Annotated[Float32, ArrayType(np.float32, "F, G / W, S", nan=True)] | None = None

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if len(self.step) > MAX_COUNT:
            raise ValueError(f"step must hold at most {MAX_COUNT} steps, got {len(self.step)}")
        return self

    def measurements(self, signals: Signals, share: int) -> Float32:
        """All of it, (F, share, S), for a job with these signals. Raises ValueError beginning with what is wrong."""
        return _measurements(self.values, self.__pydantic_extra__, signals, (len(self.step), share))


class Ranked(Message):
    """A message of one of W data-parallel ranks; rank r owns the rows [r·G/W, (r+1)·G/W) of each batch."""

    rank: Annotated[int, Field(ge=0)] = 0
    world_size: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _rank_exists(self) -> Self:
        if self.rank >= self.world_size:
            raise ValueError(f"rank must be less than world_size = {self.world_size}, got {self.rank}")
        return self


class FeedbackRequest(Ranked):
    """Feedback alone."""

    feedback: Feedback


class StepsRequest(Ranked):
    """The hot call: feedback for steps done, and the batches of up to `count` steps from `start` on."""

    start: Step
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    feedback: Feedback | None = None


FeedbackOutcome = Annotated[Literal["applied", "repeated", "late"], OrNewer]


class FeedbackAnswer(Message):
    """What became of the feedback of each step.

    `repeated`: it is counted already, and this changed nothing. `late`: it is counted, but its batch is more than an
    epoch old and its values are not used.
    """

    feedback: list[FeedbackOutcome]


class Batches(Message):
    """K global batches of consecutive steps. K may be less than was asked for, never less than 1."""

    start: int
    indices: Annotated[Int64, ArrayType(np.int64, "K, G")]
    probabilities: Annotated[Float32, ArrayType(np.float32, "K, G")]  # each draw's, in the plan that drew it
    policy_version: Annotated[Int64, ArrayType(np.int64, "K")]  # 0: drawn by the client during an outage
    epoch: Annotated[Int64, ArrayType(np.int64, "K")]
    scored_until: Annotated[Int64, ArrayType(np.int64, "K")]  # drawn from the feedback of all steps before this one


class StepsAnswer(FeedbackAnswer):
    """Answer of the hot call."""

    batches: Batches


class Scores(Message):
    """A part of a measuring pass over the training set, by the model as it is now; signals as in `Feedback`."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, Annotated[Float32, ArrayType(np.float32, "k", nan=True, per_head=True)]]

    indices: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    values: Annotated[Float32, ArrayType(np.float32, "k, S", nan=True)] | None = None

    def measurements(self, signals: Signals) -> Float32:
        """All of it, (k, S), for a job with these signals. Raises ValueError beginning with what is wrong."""
        return _measurements(self.values, self.__pydantic_extra__, signals, (len(self.indices),))


class ScoresAnswer(Message):
    """How many measurements were taken in."""

    accepted: int


class LocalBatches(Message):
    """Global batches that a client drew by itself while the service was out of reach, from step `start` on."""

    start: Step
    indices: Annotated[Int64, ArrayType(np.int64, "K, G", 0)]


class LocalBatchesAnswer(Message):
    """`repeated`: these very batches are already on record."""

    outcome: Annotated[Literal["applied", "repeated"], OrNewer]


def _measurements(
    values: Float32 | None, by_name: Mapping[str, Float32], signals: Signals, shape: tuple[int, ...]
) -> Float32:
    if values is not None and by_name:
        raise ValueError(f"values must stand alone, got {', '.join(by_name)} beside it")
    if values is None:
        values = signals.joined(by_name, shape)
    elif values.shape != (*shape, signals.width):
        raise ValueError(f"values must have shape {(*shape, signals.width)}, got {values.shape}")
    signals.check(values)
    return values
