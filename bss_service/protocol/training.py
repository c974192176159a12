"""What a training loop sends and gets: feedback, batches, measuring passes."""

import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.samples.table import MAX_STEP
from bss_service.core.signals import Signals
from bss_service.protocol.arrays import ArrayType
from bss_service.protocol.message import NAME_PATTERN, Message, OrNewer, Step, is_none

MAX_COUNT: Final = 4096  # steps in one request
MAX_GROWTHS: Final = 1000  # of a job, but for those of one epoch, which are one
PLACE_SECONDS: Final = 30.0  # that a trainer holds its rank's place after it was last heard of
LOCAL_VERSION: Final = 0  # policy version of batches that a client drew by itself during an outage
UNKNOWN_BATCH: Final = -1  # in place of a batch's checksum


class Feedback(Message):
    """What a trainer measured in F of its steps: one row a step, one column a sample of this rank's share.

    Signals come by name, each an array (F, G / W), or (F, G / W, H) where each head has one; or all in `values`, in the
    job's order. NaN (null in JSON), or a signal that is not there: it is not known. checksum: `batch_checksum` of the
    global batch that was trained on in each step, -1 where it is not known; another one than the job's is refused.
    """

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, Annotated[Float32, ArrayType(np.float32, "F, G / W", nan=True, per_head=True)]]

    step: Annotated[Int64, ArrayType(np.int64, "F", 0, MAX_STEP)]
    values: Annotated[Float32, ArrayType(np.float32, "F, G / W, S", nan=True)] | None = None
    checksum: Annotated[Int64, ArrayType(np.int64, "F", UNKNOWN_BATCH, 2**32 - 1)] | None = None

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if len(self.step) > MAX_COUNT:
            raise ValueError(f"step must hold at most {MAX_COUNT} steps, got {len(self.step)}")
        if self.checksum is not None and len(self.checksum) != len(self.step):
            raise ValueError(f"checksum must be one of each of the {len(self.step)} steps, got {len(self.checksum)}")
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


class Trainer(Ranked):
    """A process that trains as one of the ranks, and holds that place in its job."""

    client: Annotated[str, Field(pattern=NAME_PATTERN)]  # drawn anew by each that takes a place
    host: Annotated[str, Field(max_length=255)]
    process: Annotated[int, Field(ge=0, lt=2**63)]
    machine: Annotated[str, Field(max_length=255)] = ""  # where equal, process numbers are of one system; "": not known
    group: Annotated[str, Field(max_length=255)] = ""  # what its fellow ranks share, and those of another run do not
    left: bool = False  # it has given up the place, which is free

    def is_fellow_of(self, other: "Trainer") -> bool:
        """Whether the two may be ranks of the same run."""
        return (self.world_size, self.group) == (other.world_size, other.group)


class AttachRequest(Trainer):
    """Take a place, or keep it.

    resume: the run goes on with what an earlier one was handed out. instead_of: clients that hold places, and that the
    caller knows to have ended.
    """

    resume: bool = False
    instead_of: Annotated[list[Annotated[str, Field(pattern=NAME_PATTERN)]], Field(max_length=4096)] = []


class AttachAnswer(Message):
    """The place is the caller's for `PLACE_SECONDS` from its latest call; it has to call more often."""

    next_step: int  # of the job, the first not yet handed out
    steps_fed_back: int
    fed_back_until: int  # the feedback of all steps before this one is in, or waited for no longer


class FeedbackRequest(Ranked):
    """Feedback alone."""

    feedback: Feedback
    client: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None  # refused where another holds the rank's place


class StepsRequest(Ranked):
    """The hot call: feedback for steps done, and the batches of up to `count` steps from `start` on."""

    start: Step
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    feedback: Feedback | None = None
    client: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None  # refused where another holds the rank's place


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
    # Of the samples' losses, 1 on average over a batch; 0: a probe, to be measured and not trained on. null: 1 each.
    weights: Annotated[Float32, ArrayType(np.float32, "K, G", 0)] | None = None
    # Of each head's loss besides, the joint head's last; null: 1 each.
    modality_weights: Annotated[Float32, ArrayType(np.float32, "K, G, H", 0)] | None = None
    # How strongly a trainer that can is to pull its heads towards what they said of a sample before; null: not at all.
    pull: Annotated[Float32, ArrayType(np.float32, "K", 0)] | None = None


def batch_checksum(
    indices: Int64, probes: Bool | None = None, masked: Bool | None = None, pull: float | np.float32 = 0.0
) -> int:
    """CRC-32 of a global batch: its indices (G,) as little-endian int64, and of what sets it apart from a plain one.

    That is, where there are any, which rows are probes (G,), of weight 0; which heads' losses do not count (G, H), of
    modality weight 0; and the pull, as float32; each a byte a flag.
    """
    checksum = zlib.crc32(np.ascontiguousarray(indices, dtype="<i8").data)
    for flags in (probes, masked):
        if flags is not None and flags.any():
            checksum = zlib.crc32(np.ascontiguousarray(flags, dtype=np.uint8).data, checksum)
    return zlib.crc32(np.float32(pull).tobytes(), checksum) if pull else checksum


class EarlierSize(Message):
    """How many samples a job had before it grew."""

    samples: Annotated[int, Field(ge=1, lt=2**40)]
    until: Annotated[int, Field(ge=0, lt=2**31)]  # the first epoch that has more; 0: nothing was drawn from so many


class JobSize(Message):
    """How many samples a job has, and had: those of an epoch are the ones below its number."""

    samples: Annotated[int, Field(ge=1, lt=2**40)]
    earlier: Annotated[list[EarlierSize], Field(max_length=MAX_GROWTHS)] = []

    @model_validator(mode="after")
    def _rises(self) -> Self:
        check_rising(self.samples, self.earlier)
        return self


def check_rising(samples: int, earlier: Sequence[EarlierSize]) -> None:
    """Raises ValueError where a job would have shrunk, or grown twice at once."""
    for before, after in pairwise(earlier):
        if not (before.samples < after.samples and before.until < after.until):
            raise ValueError(f"earlier must rise, got {before.model_dump()} before {after.model_dump()}")
    if earlier and earlier[-1].samples >= samples:
        raise ValueError(f"earlier must hold fewer samples than {samples}, got {earlier[-1].samples}")


class StepsAnswer(FeedbackAnswer):
    """Answer of the hot call."""

    batches: Batches
    policy_error: str | None = None  # why plain shuffling stands in for the policy in the interval drawn last
    size: Annotated[JobSize | None, Field(exclude_if=is_none)] = None  # of a job that has grown


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


class LocalBatchesRequest(LocalBatches):
    """The same, from a client that holds a place, perhaps: what was handed out to others it can't replace."""

    client: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None


class LocalBatchesAnswer(Message):
    """`repeated`: these very batches are already on record."""

    outcome: Annotated[Literal["applied", "repeated"], OrNewer]


class Window(Message):
    """The samples that a trainer has read ahead of a stream: from step `first_step` on they come, and no others.

    They are a whole number of batches. One may stand in it more than once; it comes as often.
    """

    first_step: Step
    samples: Annotated[Int64, ArrayType(np.int64, "w", 0)]


class WindowAnswer(Message):
    """`repeated`: this very window is there already, or was. `replaced`: of the one before nothing was drawn."""

    outcome: Annotated[Literal["applied", "replaced", "repeated"], OrNewer]
    end_step: int  # the first step after it


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
