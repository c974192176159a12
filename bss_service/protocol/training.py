"""What a training loop sends and gets: feedback, batches, measuring passes."""

from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.table import MAX_STEP
from bss_service.protocol.arrays import ArrayType, label_probabilities, similarities
from bss_service.protocol.message import Message, Step, check_same_leading_axes

MAX_COUNT: Final = 4096  # steps in one request


LOCAL_VERSION: Final = 0  # policy version of batches that a client drew by itself during an outage


class Feedback(Message):
    """What a trainer measured in F of its steps: one row a step, one column a sample of this rank's share.

    Samples with measured = false were trained on but not measured; their values are not used.
    """

    step: Annotated[Int64, ArrayType(np.int64, "F", 0, MAX_STEP)]
    similarity: Annotated[Float32, similarities("F, G / W")]
    loss: Annotated[Float32, ArrayType(np.float32, "F, G / W")]
    probabilities: Annotated[Float32, label_probabilities("F, G / W, M + 1")] | None = None
    measured: Annotated[Bool, ArrayType(np.bool_, "F, G / W")] | None = None  # default: all

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        check_same_leading_axes(self, "similarity", axes=2, names=("loss", "measured", "probabilities"))
        check_same_leading_axes(self, "similarity", axes=1, names=("step",))
        if len(self.step) > MAX_COUNT:
            raise ValueError(f"step must hold at most {MAX_COUNT} steps, got {len(self.step)}")
        return self


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


FeedbackOutcome = Literal["applied", "repeated", "late"]


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
    """A part of a measuring pass over the training set, by the model as it is now."""

    indices: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    similarity: Annotated[Float32, similarities("k")]
    loss: Annotated[Float32, ArrayType(np.float32, "k")]
    probabilities: Annotated[Float32, label_probabilities("k, M + 1")] | None = None

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        check_same_leading_axes(self, "indices", axes=1, names=("similarity", "loss", "probabilities"))
        return self


class ScoresAnswer(Message):
    """How many measurements were taken in."""

    accepted: int


class LocalBatches(Message):
    """Global batches that a client drew by itself while the service was out of reach, from step `start` on."""

    start: Step
    indices: Annotated[Int64, ArrayType(np.int64, "K, G", 0)]


class LocalBatchesAnswer(Message):
    """`repeated`: these very batches are already on record."""

    outcome: Literal["applied", "repeated"]
