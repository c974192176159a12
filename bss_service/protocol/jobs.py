"""Jobs: what they are, and where they are."""

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from bss_service.core.calendar import Calendar, Tail
from bss_service.core.reward import Basis, Metric
from bss_service.protocol.message import NAME_PATTERN, Message, Unit
from bss_service.protocol.policies import PolicyAnswer, PolicySpec
from bss_service.protocol.validation import ValidationReport

JOINT: Final = "joint"  # what the joint head is called beside the modalities


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


class JobSpec(Message):
    """What a training job is. Fixed for the job's life, but for the policy, which can be swapped."""

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
