"""What the runs came to, all of which can be written as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from demo.plan import Condition, Run

TOP: Final = 100  # suspects of a run that are kept
BINS: Final = 20  # of P(right) from 0 to 1
RIGHT, WRONG = "right label", "wrong label"


@dataclass(frozen=True, slots=True)
class Epoch:
    """Validation after an epoch."""

    epoch: int
    accuracy: float  # of the joint head
    left_out: float  # share of the training samples that the epoch was drawn without


@dataclass(frozen=True, slots=True)
class Suspect:
    """A training sample as the service lists it at the end of a run, and the truth, which the service never sees."""

    number: int  # among the job's samples
    right: float  # P(its label is right)
    given: int  # the class that it is labelled with
    likeliest: int  # the likeliest other class
    is_wrong: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A step as the trainer saw it."""

    step: int
    epoch: int
    policy_version: int
    at: float  # seconds since the first step's end


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run, from its trainer and from the service's own records of the job."""

    run: Run
    epochs: list[Epoch]
    best_epoch: int  # by validation accuracy
    test: float  # accuracy of the joint head with the weights of the best epoch
    seconds: float
    worst_wait_seconds: float
    batches: int
    suspects: list[Suspect]  # the TOP least likely right, the least first; none of an oracle
    beliefs: Mapping[str, list[int]]  # samples with RIGHT and WRONG labels: how many in each of BINS of P(right)
    steps: list[Step]  # of the swapped run only

    @property
    def found(self) -> int:
        """How many of the suspects really have a wrong label."""
        return sum(suspect.is_wrong for suspect in self.suspects)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the service answered to the swap, and where the job was then."""

    policy: str
    policy_version: int
    first_step: int
    handed_out: int  # steps that the service had handed out when it was asked
    trained: int  # steps whose feedback it had by then
    epoch: int
    epoch_start: int
    epoch_end: int


@dataclass(frozen=True, slots=True)
class SwapProof:
    """The swap as the service announced it and as the trainer's batches show it."""

    job: str
    announced: Announcement
    changed_at: int | None  # first step whose batch names the new version
    contiguous: bool  # the steps before and after follow on one another without a gap
    longest_step_seconds: float  # of the epoch of the swap, from one step's end to the next
    median_step_seconds: float  # of the whole run
    worst_wait_seconds: float

    @property
    def agrees(self) -> bool:
        """Whether the version changed at the very step that was announced."""
        return self.changed_at == self.announced.first_step and self.contiguous

    @property
    def in_the_middle(self) -> bool:
        """Whether that step lies within an epoch."""
        return self.announced.epoch_start < self.announced.first_step < self.announced.epoch_end


@dataclass(frozen=True, slots=True)
class DataFacts:
    """A data set in numbers."""

    training: int  # samples that a run trains on
    validation: int
    test: int
    classes: int
    licence: str


@dataclass(frozen=True, slots=True)
class Facts:
    """How the demo was made."""

    command: str
    date: str
    seconds: float
    cores: int
    load: float  # processes at work on the machine as the demo began, averaged over a minute
    machine: str
    versions: Mapping[str, str]
    data: Mapping[str, DataFacts]


@dataclass(frozen=True, slots=True)
class Results:
    """All that the table and the report tell."""

    facts: Facts
    runs: list[RunResult]
    swap: SwapProof
    swapped: RunResult

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted({r.run.seed for r in self.runs})

    @property
    def policies(self) -> list[str]:
        """The policies, in the order in which they were planned."""
        return list(dict.fromkeys(r.run.policy for r in self.runs))

    @property
    def conditions(self) -> list[Condition]:
        """The data sets and states of their labels, in the order in which they were planned."""
        return list(dict.fromkeys(r.run.condition for r in self.runs))

    def of(self, condition: Condition, policy: str) -> list[RunResult]:
        """The runs of a policy on a condition, by seed; none where it was not run."""
        matching = [r for r in self.runs if r.run.condition == condition and r.run.policy == policy]
        return sorted(matching, key=lambda r: r.run.seed)


def write_results(path: Path, results: Results, table: Sequence[Any]) -> None:
    """Write everything as JSON, with the rows of the table first."""
    content = {"table": [asdict(row) for row in table], **asdict(results)}
    path.write_text(json.dumps(content, allow_nan=False) + "\n")
