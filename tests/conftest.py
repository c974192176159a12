"""What many tests share: hypothesis profiles, the golden vectors, and a training loop in memory."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: two workers of pytest share the cores already

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import hypothesis
import numpy as np
import pytest

from bss_service.job.events import (
    ActionSet,
    Event,
    FeedbackReceived,
    JobEvent,
    JobGrown,
    LocalBatchesAdopted,
    PlanDrawn,
    PolicySwapped,
    ScoresReceived,
    StepsServed,
    ValidationReported,
)
from bss_service.job.job import Job
from bss_service.job.snapshot import take_snapshot
from bss_service.journal.transaction import Entry
from bss_service.policies import base
from bss_service.protocol.actions import ActionRequest
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicyAnswer, PolicySpec, SwapRequest
from bss_service.protocol.training import Feedback, LocalBatches, Ranked, Scores
from bss_service.protocol.validation import ValidationReport
from tests.support.simulated import measured, report

A = TypeVar("A")

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)  # the same each time
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@dataclass(frozen=True)
class Golden:
    """Logits, and what the published code makes of them: ../shared/golden/README.md."""

    unimodal: np.ndarray  # (2, n, c)
    joint: np.ndarray  # (n, c)
    labels: np.ndarray  # (n,)
    joint_weight: float
    unimodal_weight: float
    probabilities: np.ndarray  # (n,)
    order: np.ndarray  # (n,)
    pacing: np.ndarray  # (60,)


@pytest.fixture(scope="session", params=["cremad", "ks"])
def golden(request: pytest.FixtureRequest) -> Golden:
    shared = Path(os.environ.get("BSS_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "golden" / f"{request.param}.npz"
    if not path.exists():
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"no golden vectors at {path}: the variable BSS_SHARED names the folder that holds them")
    with np.load(path) as stored:
        return Golden(
            unimodal=np.stack([stored["m1"], stored["m2"]]),
            joint=stored["mm"],
            labels=stored["y"],
            joint_weight={"cremad": 0.1, "ks": 1.0}[request.param],
            unimodal_weight={"cremad": 0.9, "ks": 1.0}[request.param],
            probabilities=stored["spl_probabilities"],
            order=stored["cl_order"],
            pacing=stored["pacing"],
        )


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[base.Policy]], None]:
    """Make a policy class findable by name, as an installed package would."""

    def install(name: str, policy: type[base.Policy]) -> None:
        monkeypatch.setitem(base._installed(), name, SimpleNamespace(load=lambda: policy))

    return install


class Trainer:
    """A training loop in memory. It keeps the batches that it got, and the events that the service would journal."""

    def __init__(self, policy: str = "uniform", /, *, job: Job | None = None, **spec: Any) -> None:
        parameters = spec.pop("parameters", {})
        world = {"samples": 10, "batch_size": 4, "modalities": ["audio", "video"], "tail": "carry", **spec}
        self.job = job or Job(JobSpec(name="run", policy=PolicySpec(name=policy, parameters=parameters), **world))
        self.batches: dict[int, np.ndarray] = {}
        self.journal: list[Event] = []

    def apply(self, event: JobEvent[A]) -> A:
        """Apply an event; its answer."""
        applied = event.apply(self.job)
        if applied.entry is not None:
            self.journal.append(applied.entry)
        return applied.answer

    def take(self, steps: int = 1) -> None:
        """Get the next batches."""
        for step in range(self.job.served, self.job.served + steps):
            if step >= self.job.planned_until:
                self.apply(PlanDrawn())
            self.apply(StepsServed(step + 1))
            self.batches[step] = self.batch(step)

    def batch(self, step: int) -> np.ndarray:
        """The samples of a step, as the job has them, (G,)."""
        return self.job.batches(step, step + 1).indices[0]

    def feed(self, *steps: int, rank: int = 0, world_size: int = 1) -> list[str]:
        """Send what was measured of steps; what became of it."""
        share = self.job.spec.batch_size // world_size
        outcomes = []
        for step in steps:
            rows = self.batches[step][rank * share : (rank + 1) * share]
            outcomes += self.send(measured(step, rows), rank, world_size)
        return outcomes

    def send(self, feedback: Feedback, rank: int = 0, world_size: int = 1) -> list[str]:
        """Send feedback; what became of it."""
        sender = Ranked(rank=rank, world_size=world_size)
        return list(self.apply(FeedbackReceived.of(self.job, sender, feedback)).feedback)

    def measure(self, scores: Scores) -> None:
        """Send a part of a measuring pass."""
        self.apply(ScoresReceived.of(self.job, scores))

    def grow(self, samples: int) -> None:
        """Have more samples."""
        self.apply(JobGrown(samples))

    def validate(self, message: ValidationReport | None = None) -> str:
        """Send a report, by default on the model as it is now; what became of it."""
        return self.apply(ValidationReported(message or report(self.job.served))).outcome

    def swap(self, policy: str, at: str = "now", shadow: bool = False, **parameters: Any) -> PolicyAnswer:
        """Change the policy, or the one that watches."""
        request = SwapRequest(policy=PolicySpec(name=policy, parameters=parameters), at=at, shadow=shadow)
        self.job.check_swap(request, {})
        return self.apply(PolicySwapped(request))

    def act(self, action: Any, **fields: Any) -> str:
        """Set the action of the next interval from outside; what became of it."""
        request = ActionRequest(first_step=self.job.planned_until, action=action, **fields)
        return self.apply(ActionSet(request)).outcome

    def adopt(self, start: int, batches: Sequence[np.ndarray]) -> bool:
        """Train on batches of one's own and report them; whether they were news."""
        local = LocalBatches(start=start, indices=np.array(batches))
        if self.apply(LocalBatchesAdopted(local)).outcome == "repeated":
            return False
        kept = {step: batch for step, batch in self.batches.items() if step < start}
        self.batches = kept | {start + k: batch for k, batch in enumerate(local.indices)}
        return True

    def train(self, steps: int) -> None:
        """The plain loop: get a batch, send what was measured, validate at the end of each epoch."""
        for _ in range(steps):
            self.take()
            self.feed(self.job.served - 1)
            if self.job.calendar.epoch_of(self.job.served) > self.job.calendar.epoch_of(self.job.served - 1):
                self.validate()

    def epochs(self) -> list[list[int]]:
        """The samples of all batches so far, epoch by epoch."""
        samples = np.concatenate([self.batches[step] for step in sorted(self.batches)]).tolist()
        runs = self.job.calendar.segments(0, len(self.batches))
        return [samples[start:stop] for _, start, stop in runs]

    def state(self) -> bytes:
        """All that the job holds."""
        return take_snapshot(self.job).to_frame()


def replayed(job: Job, journal: Sequence[Event]) -> bytes:
    """The state of a job after the events of a journal, each read from its entry again."""
    trainer = Trainer(job=job)
    for number, event in enumerate(journal):
        trainer.apply(Entry.of(number, event).event(job.spec))
    return trainer.state()
