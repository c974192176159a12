"""Jobs: what they are, and where they are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from operator import not_
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, SupportsIndex

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema, model_validator

from bss_service.core.action import GROUP, GROUPS
from bss_service.core.arrays import Float64, UInt16
from bss_service.core.calendar import Calendar, Tail
from bss_service.core.samples.groups import MAX_GROUPS
from bss_service.core.signals import BUILT_IN, LOSS, NAME, PAPER, PROBABILITY, Signal, Signals
from bss_service.core.validation.reward import Basis, Metric
from bss_service.protocol.arrays import ArrayType
from bss_service.protocol.message import MAX_NESTING, NAME_PATTERN, Message, OrNewer, Unit, is_none, known_fields
from bss_service.protocol.policies import PolicyAnswer, PolicySpec
from bss_service.protocol.training import MAX_GROWTHS, EarlierSize, JobSize, Trainer, check_rising
from bss_service.protocol.validation import ValidationReport

MAX_NAMED: Final = 1000  # groups that have names: these stand in each answer that has the spec
JOINT: Final = "joint"  # what the joint head is called beside the modalities
_NUMBER: Final = {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None}
_FLAG: Final = {"type": "boolean", "default": False}
_SIGNAL_SCHEMA: Final = {
    "anyOf": [
        {"type": "string", "enum": list(BUILT_IN), "description": "a built-in signal"},
        {
            "type": "object",
            "description": "a declaration",
            "properties": {
                "name": {"type": "string", "pattern": f"^{NAME}$"},
                "meaning": {"type": "string", "minLength": 1, "maxLength": 200},
                "low": _NUMBER,
                "high": _NUMBER,
                "per_head": _FLAG,
                "averaged": _FLAG,
                "whole": _FLAG,
                "kept": {"type": "boolean", "default": True},
            },
            "required": ["name", "meaning"],
            "additionalProperties": False,
        },
    ]
}


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


def _declared(value: Any, info: ValidationInfo) -> Any:
    """A signal by its name or its declaration."""
    if isinstance(value, str):
        if value not in BUILT_IN:
            raise ValueError(f"must be one of {', '.join(BUILT_IN)}, or a declaration, got {value!r}")
        return BUILT_IN[value]
    if not isinstance(value, Signal | dict):
        raise ValueError(f"must be the name of a signal or its declaration, got {type(value).__name__}")
    try:
        signal = value if isinstance(value, Signal) else Signal(**known_fields(Signal, value, info))
    except TypeError as error:
        raise ValueError(str(error).removeprefix("Signal.__init__() ")) from None
    built_in = BUILT_IN.get(signal.name, signal)
    if replace(signal, meaning=built_in.meaning) != built_in:
        raise ValueError(f"name {signal.name!r} is that of a built-in signal with another declaration")
    return built_in


def _named(signal: Signal) -> str | dict[str, Any]:
    """A built-in signal by its name, another by its declaration: of what came later, only what is not as it was."""
    if signal.name in BUILT_IN:
        return signal.name
    plain = Signal(signal.name, signal.meaning)
    return {
        field: value
        for field, value in asdict(signal).items()
        if field not in ("whole", "kept") or value != getattr(plain, field)
    }


SignalField = Annotated[
    Signal, BeforeValidator(_declared), PlainSerializer(_named, return_type=Any), WithJsonSchema(_SIGNAL_SCHEMA)
]


GroupNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=MAX_NAMED)
]


def _usual_signals(data: dict[str, Any]) -> list[Signal]:
    """What a job sends that declares nothing: those of the paper, as far as its heads give them."""
    pairs = data["unimodal_heads"] and len(data["modalities"]) > 1
    return list(PAPER) if pairs else [LOSS, PROBABILITY]


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
    """What a training job is. Fixed for its life, but for the policy, which can be swapped, and what is in `JobChange`:
    `earlier` follows from that.

    In Python, though not on the wire, a policy may be given by its name alone, and all fields as a configuration holds
    them: tuples, NumPy's numbers, mappings and sequences such as OmegaConf's.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    samples: Annotated[int, Field(ge=1, lt=2**40)]  # n, of the epochs since the job grew last
    modalities: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=64)]
    unimodal_heads: bool = True  # whether each modality has a head of its own, beside the joint one
    batch_size: Annotated[int, Field(ge=1)]  # G, the global batch of one step, over all ranks
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    policy: PolicySpec = PolicySpec(name="uniform")
    interval: Annotated[int, Field(ge=1, lt=2**31)] | None = None  # steps between acts of the policy; null: one epoch
    lag: Annotated[int, Field(ge=0, lt=2**31)] = 0  # batches that the loader pulls ahead within an interval
    tail: Tail = "drop"  # of an epoch, where it does not fill a batch; dropped, all epochs have as many batches
    horizon: Annotated[int, Field(ge=1, lt=2**31)] | None = None  # steps of the whole run, if known
    patience: Annotated[float, Field(ge=0, le=3600)] = 30.0  # seconds to wait for feedback before an interval is drawn
    reward: RewardSpec = RewardSpec()
    weighted: bool = False  # whether the trainer weighs its losses by a batch's weights; else it gets no probes
    signals: Annotated[list[SignalField], Field(min_length=1, max_length=64)] = Field(default_factory=_usual_signals)
    # How many groups its samples are of, or what they are called; null: none. Left out of messages where it is null.
    groups: Annotated[int, Field(ge=1, le=MAX_GROUPS)] | GroupNames | None = Field(
        default=None, exclude_if=lambda groups: groups is None
    )
    stream: Annotated[bool, Field(exclude_if=not_)] = False  # samples come in windows of up to `interval` steps
    # Epochs whose batches are kept behind the one that feedback has reached; null: all. Left out where it is null.
    keep_epochs: Annotated[int | None, Field(ge=1, lt=2**31, exclude_if=is_none)] = None
    earlier: Annotated[list[EarlierSize], Field(max_length=MAX_GROWTHS, exclude_if=not_)] = []  # sizes before it grew

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
        if info.mode == "json" or info.context:  # it came over the wire
            return fields
        plain = _plain(fields)
        if isinstance(plain, dict) and isinstance(plain.get("policy"), str):
            plain["policy"] = {"name": plain["policy"]}
        return plain

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        least = min([self.samples, *(size.samples for size in self.earlier)])
        if self.batch_size > least:
            raise ValueError(f"batch_size must be at most samples = {least}, got {self.batch_size}")
        check_rising(self.samples, self.earlier)
        if self.stream and (self.interval is None or self.earlier):
            raise ValueError("interval must be given for a stream, and earlier must not")
        if len({*self.modalities, JOINT}) <= len(self.modalities):
            raise ValueError(f"modalities must differ from one another and from {JOINT!r}, got {self.modalities}")
        names = [signal.name for signal in self.signals]
        if len(set(names)) < len(names):
            raise ValueError(f"signals must differ from one another, got {names}")
        if isinstance(self.groups, list) and len(set(self.groups)) < len(self.groups):
            raise ValueError(f"groups must differ from one another, got {self.groups}")
        return self

    @property
    def heads(self) -> list[str]:
        """The unimodal heads by their modalities, in order, and the joint head."""
        return [*self.modalities, JOINT] if self.unimodal_heads else [JOINT]

    def lacks(self, needs: Mapping[str, int]) -> list[str]:
        """Of the signals that something needs, those that the job does not have.

        needs: how many unimodal heads must have each signal, at least.
        """
        declared = {signal.name for signal in self.signals} | self._groups_of(needs)
        lacking = [name for name in needs if name not in declared]
        few = [name for name, heads in needs.items() if name in declared and heads >= len(self.heads)]
        return lacking + [f"{name} of {needs[name]} unimodal heads" for name in few]

    @property
    def group_names(self) -> tuple[str, ...]:
        """What its groups are called: by number, where they have no names."""
        return tuple(map(str, range(self.groups))) if isinstance(self.groups, int) else tuple(self.groups or ())

    def _groups_of(self, needs: Mapping[str, int]) -> set[str]:
        """Those of needs that are of groups, and that the job has."""
        wanted = [need for need in needs if need == GROUPS or need.startswith(GROUP)]
        if not wanted or self.groups is None:
            return set()
        return {GROUPS, *(GROUP + repr(name) for name in self.group_names)}.intersection(wanted)

    def measurements(self) -> Signals:
        """The job's signals, and their columns in an array of measurements."""
        return Signals(self.signals, len(self.heads))

    def calendar(self) -> Calendar:
        """The job's arithmetic of steps, epochs and intervals."""
        if self.stream and self.interval is not None:  # whatever the number of samples, which grows with each window
            return Calendar(self.interval * self.batch_size, self.batch_size, "drop", self.interval)
        earlier = tuple((size.samples, size.until) for size in self.earlier)
        return Calendar(self.samples, self.batch_size, self.tail, self.interval, earlier)

    @property
    def size(self) -> JobSize:
        """How many samples it has, and had."""
        return JobSize.model_construct(samples=self.samples, earlier=self.earlier)

    def sized(self, size: JobSize) -> "JobSpec":
        """The spec of a job that has grown so."""
        return self.model_copy(update={"samples": size.samples, "earlier": list(size.earlier)})

    def was(self, asked: "JobSpec") -> bool:
        """Whether it has, or had, as many samples as another says, of the same name."""
        if self.stream and asked.stream:
            return asked.samples <= self.samples
        before = len(asked.earlier)
        sizes = [*(size.samples for size in self.earlier), self.samples]
        return asked.earlier == self.earlier[:before] and asked.samples in sizes[before:]

    def differing(self, asked: "JobSpec") -> str | None:
        """The field in which it is not the job that another asks for, if any, but for what may be changed of it."""
        may_differ = JobChange.model_fields.keys() - {"samples"}
        may_differ |= {"samples", "earlier"} if self.was(asked) else set()
        names = (name for name in JobSpec.model_fields if name not in may_differ)
        return next((name for name in names if getattr(self, name) != getattr(asked, name)), None)


class JobChange(Message):
    """What may change of a job after it was made; null: it stays.

    samples: more than it has, from the first epoch on of which nothing is drawn yet. Those that it had keep their
    numbers. It never has fewer. keep_epochs: batches of earlier epochs than these are removed, and do not come back.
    """

    horizon: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    patience: Annotated[float, Field(ge=0, le=3600)] | None = None
    samples: Annotated[int, Field(ge=1, lt=2**40)] | None = None
    keep_epochs: Annotated[int | None, Field(ge=1, lt=2**31, exclude_if=is_none)] = None  # an older service knows none

    def of(self, spec: JobSpec) -> JobSpec:
        """The spec with the change, but for `samples`, of which the job must say since when."""
        return spec.model_copy(update=self.model_dump(exclude_none=True, exclude={"samples"}))

    @classmethod
    def between(cls, spec: JobSpec, wanted: JobSpec) -> Self:
        """What changes one spec into another, as far as that can be, but for `samples`: a job grows when it is told."""
        fields = {name: getattr(wanted, name) for name in ("horizon", "patience", "keep_epochs")}
        return cls(**{name: value for name, value in fields.items() if value != getattr(spec, name)})


class SampleGroups(Message):
    """The group of each of a job's n samples, as a number less than how many there are."""

    groups: Annotated[UInt16, ArrayType(np.uint16, "n")]


class GroupsAnswer(Message):
    """The plans from `first_step` on are drawn by these groups; `repeated`: they were known."""

    outcome: Annotated[Literal["applied", "repeated"], OrNewer]
    first_step: int


class ShareEstimate(Message):
    """A share of the samples, estimated: most likely, and the ends of its interval."""

    share: Unit
    low: Unit
    high: Unit


class EvidenceState(Message):
    """What the latest interval was drawn by, as far as it comes of evidence."""

    step: int  # first of the interval
    wrong_labels: ShareEstimate
    wrong_pairs: ShareEstimate
    left_out: int  # samples
    weakest_modality: str | None  # by accuracy of its head in the latest validation


class JobState(Message):
    """Where a job is."""

    spec: JobSpec
    incarnation: str | None = None  # drawn at its creation: by it a job is told from others of its name
    origins: dict[str, int] = {}  # earlier incarnations, of whose steps those before this one are this job's too
    created: bool = False  # by this very request
    next_step: int  # the first step not yet handed out
    epoch: int  # that step's
    epoch_start: int  # its epoch's first step
    policy: PolicyAnswer  # in force at that step
    pending_policy: PolicyAnswer | None = None  # at the next interval
    shadow: PolicyAnswer | None = None  # the policy that watches
    kept_from: int = 0  # the batches of earlier steps are kept no longer
    steps_fed_back: int
    fed_back_until: int  # the feedback of all steps before this one is in, or waited for no longer
    samples_measured: int
    validation: ValidationReport | None = None  # the latest
    rewards: list[float | None] = []  # of the latest decisions, up to 20
    trainers: list[Trainer] = []  # who took each rank's place last
    evidence: EvidenceState | None = None  # of jobs that send what it is read from, once something was
    has_groups: bool = False  # whether the groups of its samples were sent, of which the spec says how many there are


class JobList(Message):
    """All jobs, by name; of those that can't be read, why."""

    jobs: list[JobState]
    unreadable: dict[str, str] = {}
    heard: dict[
        str, float
    ] = {}  # seconds since a trainer last asked for batches; of jobs where one has since the start

    def to_json(self) -> bytes:
        """As JSON, job by job: a thread that does so lets others go on between two, and not within one long call."""
        rest = self.model_dump_json(exclude={"jobs"}).encode()
        jobs = b",".join([state.model_dump_json().encode() for state in self.jobs])
        return b'{"jobs":[%b],%b' % (jobs, rest[1:])


SeriesOf = Literal["validation", "decisions", "pace"]
MAX_POINTS: Final = 2000  # of a series
MAX_VERSIONS: Final = 500  # of policies, in one answer


class Series(Message):
    """One line of a plot."""

    name: str
    head: str | None = None  # a modality, or "joint"; null: of no head
    unit: str  # "1" of a share, a probability or a number without one
    values: Annotated[Float64, ArrayType(np.float64, "x", nan=True)]  # null: not known


class SeriesAnswer(Message):
    """Lines over the same steps, or over seconds since 1970 where they are of the pace.

    Of more rows than were asked for, each stretch is shown by each line's least and greatest value, at its two ends.
    """

    of: SeriesOf
    unit: Literal["step", "s"]  # of x
    x: Annotated[Float64, ArrayType(np.float64, "x")]
    rows: int  # before they were thinned out
    series: list[Series]
    versions: list[PolicyAnswer]  # the latest policies of the job, in order, each from its first step on
    shadows: list[PolicyAnswer]


class AccessAnswer(Message):
    """What a caller may do: `read` looks, `train` also does what a trainer does, `admin` all."""

    scope: Literal["read", "train", "admin"]
