"""A running service, and `bss` to ask it with."""

import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from bss_cli.commands import app
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Feedback, FeedbackRequest, StepsRequest
from bss_service.protocol.validation import ModalityReport, ValidationReport
from tests.support.services import Service
from trainer_client.client import SchedulerClient

BSS = str(Path(sys.executable).with_name("bss"))
INTERVAL = 8  # steps: an epoch of 64 samples in batches of 8
PATIENCE = 20  # seconds that a test waits for a process
NAMES = (f"run-{number}" for number in count())
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A running service's."""
    with Service() as service:
        yield service.url


@pytest.fixture
def client(url: str) -> Iterator[SchedulerClient]:
    with SchedulerClient(url) as client:
        yield client


@pytest.fixture
def bss(url: str) -> Run:
    """Runs `bss` here, in a terminal of 80 columns."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, env={"BSS_URL": url, "BSS_TOKEN": None, "COLUMNS": "80"})

    return run


@pytest.fixture
def job(client: SchedulerClient) -> str:
    """A new job with one batch handed out."""
    return begin(client, "uniform")


def begin(client: SchedulerClient, policy: str, **parameters: Any) -> str:
    """Create a job and take its first batch."""
    name = next(NAMES)
    spec = JobSpec(
        name=name,
        samples=64,
        modalities=["image", "text"],
        batch_size=8,
        policy=PolicySpec(name=policy, parameters=parameters),
    )
    client.create_job(spec)
    client.steps(name, StepsRequest(start=0))
    return name


def train(client: SchedulerClient, job: str, intervals: int) -> None:
    """Take, measure and validate the first so many intervals of a job."""
    random = np.random.default_rng(0)
    for step in range(intervals * INTERVAL):
        client.steps(job, StepsRequest(start=step))
        similarity, loss = random.random((2, 1, 8), dtype=np.float32)
        feedback = Feedback(step=np.array([step]), similarity=similarity, loss=loss)
        client.feedback(job, FeedbackRequest(feedback=feedback))
        if (step + 1) % INTERVAL == 0:
            client.validation(job, report(step + 1))


def report(step: int) -> ValidationReport:
    return ValidationReport(
        step=step,
        loss=1 / (1 + step),
        accuracy=0.62,
        modalities={
            "image": ModalityReport(accuracy=0.51, probability=0.4),
            "text": ModalityReport(accuracy=0.56, probability=0.5),
        },
    )
