"""The messages that service and client exchange, and that the journal keeps."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, SupportsIndex

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationInfo,
    model_validator,
)
from pydantic_core import core_schema

from bss_service.core.action import DIMENSION, NAMED_ACTIONS, Action
from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.calendar import Calendar, Tail
from bss_service.core.reward import Basis, Metric
from bss_service.core.table import MAX_STEP
from bss_service.protocol import frames

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_ROUNDING: Final = 1e-3  # a cosine or probability of half-precision training may exceed 1 by as much
JOINT: Final = "joint"  # what the joint head is called beside the modalities
MAX_COUNT: Final = 4096  # steps in one request
MAX_WAIT: Final = 600  # seconds that a request for an observation may be held
MAX_DETAIL: Final = 4096  # bytes of JSON that may come with an action
MAX_NESTING: Final = 32  # of free JSON: what is taken in must be readable again from within a snapshot
_WIRE: Final = {"wire": True}  # context of a validation that grants nothing but what the interface says
LOCAL_VERSION: Final = 0  # policy version of batches that a client drew by itself during an outage


class ArrayType:
    """Validates nested lists or NumPy arrays into an array of one dtype, number of axes and range.

    Infinite values are refused, and so is NaN unless `nan` allows it to mark what is not known.
    """

    def __init__(
        self,
        dtype: type[np.generic],
        axes: str,
        low: float | None = None,
        high: float | None = None,
        *,
        nan: bool = False,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.axes = axes
        self.nan = nan
        self.low = -np.inf if low is None else low
        self.high = np.inf if high is None else high

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(np.ndarray.tolist, when_used="json"),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        kind = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}[self.dtype.kind]
        nested: dict[str, Any] = {"type": kind}
        for _ in self.axes.split(","):
            nested = {"type": "array", "items": nested}
        return {**nested, "description": f"array of shape ({self.axes}), {self.dtype}"}

    def _validate(self, value: Any) -> np.ndarray:
        array = value if isinstance(value, np.ndarray) else self._of_list(value)
        if array.ndim != len(self.axes.split(",")):
            raise ValueError(f"must have shape ({self.axes}), got {array.shape}")
        if array.dtype.kind not in {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[self.dtype.kind] and array.size:
            raise ValueError(f"must hold {self.dtype} values, got {array.dtype}")
        if self.dtype.kind in "iu" and array.size:
            limits = np.iinfo(self.dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise ValueError(f"must hold {self.dtype} values, got {array.min()} to {array.max()}")
        with np.errstate(over="ignore"):  # an empty array may be of any dtype: it is made anew
            cast = array.astype(self.dtype, copy=False) if array.size else np.empty(array.shape, self.dtype)
        bad = ~np.isfinite(cast) & ~(self.nan & np.isnan(cast))
        if bad.any():
            where = np.argwhere(bad)[0]
            raise ValueError(f"must hold finite values, got {array[tuple(where)]} at {where.tolist()}")
        outside = (cast < self.low - _ROUNDING) | (cast > self.high + _ROUNDING)
        if outside.any():
            where = np.argwhere(outside)[0]
            raise ValueError(
                f"must lie in [{self.low:g}, {self.high:g}], got {array[tuple(where)]} at {where.tolist()}"
            )
        return cast

    def _of_list(self, value: Any) -> np.ndarray:
        if not isinstance(value, list):
            raise ValueError(f"must be an array of shape ({self.axes}), got {type(value).__name__}")
        if not _holds_numbers(value):
            raise ValueError(f"must hold {self.dtype} values, got something else")
        try:
            return np.array(value) if value else np.empty((0,) * len(self.axes.split(",")), self.dtype)
        except (ValueError, OverflowError):
            raise ValueError(f"must be an array of shape ({self.axes}), got rows of unequal length") from None


def _holds_numbers(value: list[Any]) -> bool:
    """Whether nested lists hold nothing but numbers and truth values: NumPy would make room for anything."""
    return all(_holds_numbers(item) if type(item) is list else type(item) in (int, float, bool) for item in value)


def similarities(axes: str) -> ArrayType:
    """Cosines between the heads' predictions."""
    return ArrayType(np.float32, axes, -1, 1)


def label_probabilities(axes: str) -> ArrayType:
    """Probabilities of the true label: the unimodal heads in the job's order, then the joint head."""
    return ArrayType(np.float32, axes, 0, 1)


def _check_nesting(value: Any) -> Any:
    if _is_deeper(value, MAX_NESTING):
        raise ValueError(f"must be nested at most {MAX_NESTING} deep, got more")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(_is_deeper(item, levels - 1) for item in items))


FreeJson = Annotated[dict[str, JsonValue], BeforeValidator(_check_nesting)]
Unit = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]  # so that the difference of two is finite
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]


class Message(BaseModel):
    """Base of all messages: unknown fields are refused, types are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)

    def to_frame(self) -> bytes:
        """The message as a frame."""
        return frames.encode(self.model_dump())

    @classmethod
    def from_frame(cls, data: bytes) -> Self:
        """Raises frames.FrameError, or pydantic.ValidationError naming the field."""
        return cls.from_wire(frames.decode(data))

    @classmethod
    def from_wire(cls, fields: Any) -> Self:
        """The message of what JSON or a frame held. Raises pydantic.ValidationError naming the field."""
        return cls.model_validate(fields, context=_WIRE)


class PolicySpec(Message):
    """A policy by name."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    parameters: FreeJson = {}


class BoxAction(Message):
    """The action as a vector; `fields` names its components in order."""

    kind: Literal["box"]
    dimension: Annotated[int, Field(ge=1, le=1000)]
    fields: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=1000)]


class DiscreteAction(Message):
    """One of the named actions; logit k is that of `names[k]`."""

    kind: Literal["discrete"]
    names: Annotated[list[Annotated[str, Field(max_length=100)]], Field(min_length=1, max_length=1000)]


class NetworkSpec(Message):
    """A multi-layer perceptron and the distribution that its last layer parametrises."""

    activation: Literal["tanh", "relu"]
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=8)]  # width of each layer
    distribution: Literal["gaussian", "squashed_gaussian", "categorical"]


class NormaliserSpec(Message):
    """How observations are scaled first: clip((o − mean)/√(variance + epsilon), ±clip)."""

    clip: Annotated[float, Field(gt=0, le=1e6)]
    epsilon: Annotated[float, Field(gt=0, le=1)]


class PolicyManifest(Message):
    """What an artefact, a trained policy as numbers, is; its numbers stand beside it.

    sha256: over all other fields, as JSON with sorted keys and without spaces, and over the tensors.
    """

    format: Literal["bss-policy/1"]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    observation_schema: Annotated[str, Field(pattern=SHA256_PATTERN)]  # core.observation.SCHEMA_HASH
    action_schema: Annotated[str, Field(pattern=SHA256_PATTERN)]  # core.action.ACTION_SCHEMA_HASH
    action: Annotated[BoxAction | DiscreteAction, Field(discriminator="kind")]
    network: NetworkSpec
    normaliser: NormaliserSpec | None = None
    training: dict[str, JsonValue] = {}  # the command, tasks and seeds
    evaluation: dict[str, JsonValue] | None = None  # figures
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]


class RewardSpec(Message):
    """How validation reports become the reward of an interval: basis + balance_weight·(γ·B_t − B_{t−1}).

    The basis is what the gain exceeds its expectation by, normalised (`surprise`: alike in every phase of training, for
    policies that learn within the run), or what the best value so far is exceeded by (`improvement`: adds up over the
    run, for policies trained over many).
    """

    metric: Metric = "loss"
    basis: Basis = "surprise"
    balance_weight: Annotated[float, Field(ge=0, le=10)] = 0.1
    discount: Unit = 1.0  # γ


def _plain(value: Any, levels: int = MAX_NESTING) -> Any:
    """Mappings, sequences and NumPy's numbers, of a configuration perhaps, as what JSON could have held."""
    if isinstance(value, np.integer | np.floating):
        return value.item()
    if levels == 0 or isinstance(value, str | bytes):
        return value  # what is nested deeper is refused anyway
    if isinstance(value, Mapping):
        return {name: _plain(member, levels - 1) for name, member in value.items()}
    return [_plain(item, levels - 1) for item in value] if isinstance(value, Sequence) else value


class JobSpec(Message):
    """What a training job is. Fixed for the job's life, but for the policy, which can be swapped.

    In Python, though not on the wire, a policy may be given by its name alone, and all fields as a configuration holds
    them: tuples, NumPy's numbers, mappings and sequences such as OmegaConf's.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    samples: Annotated[int, Field(ge=1, lt=2**40)]  # n
    modalities: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(min_length=2, max_length=64)]
    batch_size: Annotated[int, Field(ge=1)]  # G, the global batch of one step, over all ranks
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    policy: PolicySpec = PolicySpec(name="uniform")
    interval: Annotated[int, Field(ge=1, lt=2**31)] | None = None  # steps between acts of the policy; null: one epoch
    lag: Annotated[int, Field(ge=0, lt=2**31)] = 0  # batches that the loader pulls ahead within an interval
    tail: Tail = "carry"  # of an epoch, where it does not fill a batch
    horizon: Annotated[int, Field(ge=1, lt=2**31)] | None = None  # steps of the whole run, if known
    patience: Annotated[float, Field(ge=0, le=3600)] = 30.0  # seconds to wait for feedback before an interval is drawn
    reward: RewardSpec = RewardSpec()

    if TYPE_CHECKING:  # what is taken is more than what the fields are

        def __init__(
            self,
            *,
            name: str,
            samples: SupportsIndex,
            modalities: Sequence[str],
            batch_size: SupportsIndex,
            policy: PolicySpec | Mapping[str, Any] | str = "uniform",
            **fields: Any,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _of_configuration(cls, fields: Any, info: ValidationInfo) -> Any:
        if info.mode == "json" or info.context == _WIRE:
            return fields
        plain = _plain(fields)
        if isinstance(plain, dict) and isinstance(plain.get("policy"), str):
            plain["policy"] = {"name": plain["policy"]}
        return plain

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size > self.samples:
            raise ValueError(f"batch_size must be at most samples = {self.samples}, got {self.batch_size}")
        if len({*self.modalities, JOINT}) <= len(self.modalities):
            raise ValueError(f"modalities must differ from one another and from {JOINT!r}, got {self.modalities}")
        return self

    def calendar(self) -> Calendar:
        """The job's arithmetic of steps, epochs and intervals."""
        return Calendar(self.samples, self.batch_size, self.tail, self.interval)


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
        _same_leading_axes(self, "similarity", axes=2, names=("loss", "measured", "probabilities"))
        _same_leading_axes(self, "similarity", axes=1, names=("step",))
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


class ModalityReport(Message):
    """One unimodal head on the validation set."""

    accuracy: Unit
    probability: Unit  # mean, of the true label


class ValidationReport(Message):
    """The model on the validation set after `step` steps; `modalities` has an entry for each of the job's."""

    step: Step
    loss: Loss
    accuracy: Unit  # of the joint head
    modalities: dict[str, ModalityReport]


class ValidationAnswer(Message):
    """`repeated`: a report of this step is known and stays; `late`: a later one is known and this is not used."""

    outcome: Literal["applied", "repeated", "late"]
    rewards: list[float | None] = []  # of the decisions whose plans ended with this report, in order


class Scores(Message):
    """A part of a measuring pass over the training set, by the model as it is now."""

    indices: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    similarity: Annotated[Float32, similarities("k")]
    loss: Annotated[Float32, ArrayType(np.float32, "k")]
    probabilities: Annotated[Float32, label_probabilities("k, M + 1")] | None = None

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        _same_leading_axes(self, "indices", axes=1, names=("similarity", "loss", "probabilities"))
        return self


class ScoresAnswer(Message):
    """How many measurements were taken in."""

    accepted: int


class SwapRequest(Message):
    """Another policy for the job.

    `now`: from the first step not yet handed out, the rest of the interval drawn anew from what has not come in the
    epoch; `next_interval`: from the first step of the next interval to be drawn.

    shadow: it draws nothing. From the next plan on it acts beside the policy in force on the same observations, and
    what it would have done stands in the decision log; it never gets a reward. A later one takes its place.
    """

    policy: PolicySpec
    at: Literal["now", "next_interval"] = "next_interval"
    shadow: bool = False

    @model_validator(mode="after")
    def _a_shadow_waits(self) -> Self:
        if self.shadow and self.at == "now":
            raise ValueError("at must be 'next_interval' for a shadow, which draws nothing anew, got 'now'")
        return self


class PolicyAnswer(Message):
    """A job's policy and the first step that it draws. `changed` is false where a swap asked for what already is.

    Of a shadow, `policy_version` is its number among the job's shadows.
    """

    policy: PolicySpec
    policy_version: int
    first_step: int
    changed: bool = False
    shadow: bool = False


class PolicyRow(Message):
    """A policy that is installed; of one that can't be loaded, why."""

    name: str
    description: str = ""
    parameters: dict[str, JsonValue] = {}  # JSON Schema
    error: str | None = None


class PolicyList(Message):
    """What a job's policy can be: installed policies by name, and artefacts, which `artefact` runs, by name."""

    policies: list[PolicyRow]
    artefacts: list[PolicyManifest]


def _check_action(value: Any) -> Any:
    """The action as it came, if it is one; raises ValueError whose sentence holds what was wrong."""
    if isinstance(value, list):
        wrong = [v for v in value if type(v) not in (int, float) or not abs(v) <= _FLOAT32_MAX]
        if wrong or len(value) != DIMENSION:
            got = f"{wrong[0]!r:.40}" if wrong else len(value)
            raise ValueError(f"a vector must hold {DIMENSION} finite numbers, got {got}")
    elif isinstance(value, str):
        if value not in NAMED_ACTIONS:
            raise ValueError(f"must be one of {', '.join(NAMED_ACTIONS)}, got {value!r}")
    elif isinstance(value, dict):
        _action_of(value)
    else:
        raise ValueError(f"must be a vector, a name or the fields of an action, got {type(value).__name__}")
    return value


def _action_of(fields: dict[str, Any]) -> Action:
    wrong = [name for name, v in fields.items() if type(v) not in (int, float, str)]
    if wrong:
        raise ValueError(f"{wrong[0]} must be a number or a choice, got {fields[wrong[0]]!r}")
    try:
        return Action(**fields)
    except TypeError as error:
        raise ValueError(str(error).removeprefix("Action.__init__() ")) from None


def _check_detail(detail: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(detail, allow_nan=False))
    if size > MAX_DETAIL:
        raise ValueError(f"must have at most {MAX_DETAIL} bytes as JSON, got {size}")
    return detail


class ActionRequest(Message):
    """The action for the interval that begins at `first_step`, for a job under the policy `external`.

    action: a vector of DIMENSION numbers, of which those outside [−1, 1] are clipped; the name of an action; or fields
    of an action, the others as in plain shuffling. propensity: the probability, or density, with which it was picked.
    """

    first_step: Step
    action: Annotated[list[float] | str | dict[str, float | str], BeforeValidator(_check_action)]
    propensity: Annotated[float, Field(gt=0, le=_FLOAT32_MAX)] = 1.0
    detail: Annotated[FreeJson, AfterValidator(_check_detail)] = {}

    def resolved(self) -> Action:
        """The action itself."""
        if isinstance(self.action, list):
            return Action.from_vector(np.array(self.action))
        return NAMED_ACTIONS[self.action] if isinstance(self.action, str) else _action_of(self.action)


class ActionAnswer(Message):
    """`replaced`: another action for the interval was known; `repeated`: this very one was, and nothing changed."""

    outcome: Literal["applied", "replaced", "repeated"]
    first_step: int
    policy_version: int


class ObservationAnswer(Message):
    """What the policy sees that draws the next interval, as far as is known now.

    Once `awaits_action` is true, the vector is the one that the interval's decision will log.
    """

    first_step: int  # of the interval
    epoch: int
    policy: str
    policy_version: int
    trainer_waiting: bool  # rank 0 has asked for the interval
    action_set: bool
    awaits_action: bool  # the policy is `external`, the trainer waits, its feedback is in, and no action has come
    fields: list[str]
    schema_hash: str
    vector: Annotated[Float32, ArrayType(np.float32, "fields", -1, 1)]


class LocalBatches(Message):
    """Global batches that a client drew by itself while the service was out of reach, from step `start` on."""

    start: Step
    indices: Annotated[Int64, ArrayType(np.int64, "K, G", 0)]


class LocalBatchesAnswer(Message):
    """`repeated`: these very batches are already on record."""

    outcome: Literal["applied", "repeated"]


class JobState(Message):
    """Where a job is."""

    spec: JobSpec
    created: bool = False  # by this very request
    next_step: int  # the first step not yet handed out
    epoch: int  # that step's
    epoch_start: int  # its epoch's first step
    policy: PolicyAnswer  # in force at that step
    pending_policy: PolicyAnswer | None = None  # at the next interval
    shadow: PolicyAnswer | None = None  # the policy that watches
    steps_fed_back: int
    fed_back_until: int  # the feedback of all steps before this one is in, or waited for no longer
    samples_measured: int
    validation: ValidationReport | None = None  # the latest
    rewards: list[float | None] = []  # of the latest decisions, up to 20


class JobList(Message):
    """All jobs, by name; of those that can't be read, why."""

    jobs: list[JobState]
    unreadable: dict[str, str] = {}


class ShadowRow(Message):
    """What the policy that watched would have done; nothing was drawn by it, and no reward is its own."""

    shadow: int  # number among the job's shadows
    policy: str
    action: dict[str, float | str]
    propensity: float
    detail: dict[str, JsonValue]


class DecisionRow(Message):
    """One act of a policy: what it saw, what it chose, what came of it."""

    first_step: int
    end_step: int
    epoch: int
    policy_version: int
    policy: str
    observation: dict[str, float]
    action: dict[str, float | str]
    propensity: float
    detail: dict[str, JsonValue]
    gain: float | None
    reward: float | None
    shadow: ShadowRow | None = None


class DecisionLog(Message):
    """Decisions in order, from number `start` on."""

    start: int
    total: int
    decisions: list[DecisionRow]


class DrawRow(Message):
    """One time that a sample was drawn."""

    step: int
    probability: float
    policy_version: int


class SampleState(Message):
    """Why a sample is drawn as it is. Scores are those that the latest interval was drawn from; null: not known."""

    index: int
    similarity: float | None
    loss: float | None
    balance_score: float | None  # ŝ, moving average
    first_score: float | None
    probabilities: dict[str, float | None]  # of the true label, by modality and `joint`
    times_measured: int
    last_measured: int | None  # step
    draws: list[DrawRow]  # the latest, newest first


def _same_leading_axes(message: BaseModel, reference: str, axes: int, names: tuple[str, ...]) -> None:
    expected = getattr(message, reference).shape[:axes]
    for name in names:
        array = getattr(message, name)
        if array is not None and array.shape[:axes] != expected:
            raise ValueError(f"{name} must agree with {reference} in its first axes, {expected}, got {array.shape}")
