"""What the runs came to, all of which can be written as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bss_service.protocol.decisions import Decision
from demo.plan import Condition, Run

JOINT: Final = "joint"  # name of the head that sees every modality
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
EVERYONE, RIGHT, WRONG = "all", "right label", "wrong label"


@dataclass(frozen=True, slots=True)
class Epoch:
    """Validation after an epoch."""

    epoch: int
    steps: int  # trained so far
    policy_version: int
    loss: float
    accuracy: Mapping[str, float]  # of each unimodal head and of `joint`


@dataclass(frozen=True, slots=True)
class ScoreBands:
    """Balance scores of the training samples as an epoch was drawn from them."""

    epoch: int
    quantiles: Mapping[str, list[float]]  # of a group of samples: QUANTILES of their scores


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
    best_epoch: int  # by validation accuracy of the joint head
    test: Mapping[str, float]  # accuracy of each head with the weights of the best epoch
    seconds: float  # of the trainer, the demo's own snapshots left out
    extra_forward_samples: int
    worst_wait_seconds: float
    batches: int
    decisions: list[Decision]
    bands: list[ScoreBands]
    scores: list[float | None]  # (n,) latest balance score of each training sample
    wrong_label: list[bool]  # (n,)
    steps: list[Step]  # of the swapped run only


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
class Facts:
    """How the demo was made."""

    command: str
    date: str
    seconds: float
    cores: int
    machine: str
    versions: Mapping[str, str]
    training_samples: int
    validation_samples: int
    test_samples: int
    licence: str


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
        """The states of the data, in the order in which they were planned."""
        return list(dict.fromkeys(r.run.condition for r in self.runs))

    @property
    def heads(self) -> list[str]:
        """The unimodal heads in the data set's order, then the joint one."""
        return list(self.runs[0].test)

    def of(self, condition: Condition, policy: str) -> list[RunResult]:
        """The runs of a policy on a condition, by seed."""
        matching = [r for r in self.runs if r.run.condition == condition and r.run.policy == policy]
        return sorted(matching, key=lambda r: r.run.seed)


def write_results(path: Path, results: Results, table: Sequence[Any]) -> None:
    """Write everything as JSON, with the rows of the table first."""
    content = {"table": [asdict(row) for row in table], **asdict(results)}
    path.write_text(json.dumps(content, allow_nan=False, default=_as_json) + "\n")


def _as_json(decision: Decision) -> dict[str, Any]:
    return decision.model_dump(mode="json")
