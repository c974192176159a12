"""What many tests share: hypothesis profiles, the golden vectors, and a training loop in memory."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest

from bss_service.job.job import Job
from bss_service.job.snapshot import take_snapshot
from bss_service.policies import base
from bss_service.protocol import (
    ActionRequest,
    FeedbackRequest,
    JobSpec,
    LocalBatches,
    PolicyAnswer,
    PolicySpec,
    SwapRequest,
)
from tests.support.simulated import measured, report

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
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
    """A training loop in memory. It keeps the batches that it got, and the journal that the service would write."""

    def __init__(self, policy: str = "uniform", /, *, job: Job | None = None, **spec: Any) -> None:
        parameters = spec.pop("parameters", {})
        world = {"samples": 10, "batch_size": 4, **spec}
        policy_spec = PolicySpec(name=policy, parameters=parameters)
        self.job = job or Job(JobSpec(name="run", modalities=["audio", "video"], policy=policy_spec, **world))
        self.batches: dict[int, np.ndarray] = {}
        self.journal: list[tuple[str, dict[str, Any]]] = []

    def take(self, steps: int = 1) -> None:
        """Get the next batches."""
        for _ in range(steps):
            step = self.job.served
            if step >= self.job.planned_until:
                plan = self.job.plan()
                self.journal.append(("plan", {"first_step": plan.first_step, "checksum": plan.checksum()}))
            self.batches[step] = self.job.serve(step, 1).indices[0]
            self.journal.append(("serve", {"until": step + 1}))

    def feed(self, *steps: int, rank: int = 0, world_size: int = 1) -> list[str]:
        """Send what was measured of steps; what became of it."""
        share = self.job.spec.batch_size // world_size
        outcomes = []
        for step in steps:
            rows = self.batches[step][rank * share : (rank + 1) * share]
            request = FeedbackRequest(rank=rank, world_size=world_size, feedback=measured(step, rows))
            outcomes += self.job.feedback(request)
            self.journal.append(("feedback", request.model_dump()))
        return outcomes

    def validate(self) -> str:
        """Send a report on the model as it is now; what became of it."""
        message = report(self.job.served)
        self.journal.append(("validation", message.model_dump()))
        return self.job.validate(message).outcome

    def swap(self, policy: str, at: str = "now", **parameters: Any) -> PolicyAnswer:
        """Change the policy."""
        request = SwapRequest(policy=PolicySpec(name=policy, parameters=parameters), at=at)
        self.journal.append(("swap", request.model_dump()))
        return self.job.swap(request)

    def act(self, action: Any, **fields: Any) -> str:
        """Set the action of the next interval from outside; what became of it."""
        request = ActionRequest(first_step=self.job.planned_until, action=action, **fields)
        self.journal.append(("action", request.model_dump()))
        return self.job.act(request).outcome

    def adopt(self, start: int, batches: Sequence[np.ndarray]) -> bool:
        """Train on batches of one's own, and tell the service."""
        local = LocalBatches(start=start, indices=np.array(batches))
        if not self.job.adopt(local):
            return False
        self.journal.append(("local", local.model_dump()))
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
        length = self.job.calendar.epoch_positions
        return [samples[start : start + length] for start in range(0, len(samples), length)]

    def state(self) -> bytes:
        """All that the job knows."""
        return take_snapshot(self.job).to_frame()
