"""A trainer without a model: what tests need to drive a job through the service."""

import numpy as np

from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Batches, Feedback, FeedbackRequest, StepsRequest
from bss_service.protocol.validation import ModalityReport, ValidationReport
from trainer_client.client import SchedulerClient


def spec(name: str, samples: int = 50, batch_size: int = 8, policy: str = "balance", **fields: object) -> JobSpec:
    """A small job of two modalities, whose epochs have all samples."""
    fields = {"tail": "carry", **fields}
    return JobSpec(
        name=name,
        samples=samples,
        modalities=["audio", "video"],
        batch_size=batch_size,
        policy=PolicySpec(name=policy),
        **fields,  # type: ignore[arg-type]
    )


def measured(step: int, indices: np.ndarray) -> Feedback:
    """What a model might measure of a batch (g,): a function of step and sample, the same in every run."""
    x = np.sin(indices * 12.9898 + step * 0.37) * 0.5 + 0.5
    return Feedback(
        step=np.array([step]),
        similarity=x[None].astype(np.float32),
        loss=(3 - 2 * x[None]).astype(np.float32),
        probability=np.repeat(x[None, :, None], 3, axis=2).astype(np.float32),
    )


def report(step: int) -> ValidationReport:
    """A validation after `step` steps; it improves, but not evenly."""
    progress = 1 - np.exp(-step / 40)
    return ValidationReport(
        step=step,
        loss=float(2 - progress + 0.1 * np.cos(step)),
        accuracy=float(progress),
        modalities={
            "audio": ModalityReport(accuracy=float(progress), probability=float(progress)),
            "video": ModalityReport(accuracy=float(progress / 2), probability=float(progress / 2)),
        },
    )


def train(client: SchedulerClient, job: JobSpec, steps: range, count: int = 3) -> list[Batches]:
    """Train the steps one after the other, validating at the end of each epoch; all answers with batches."""
    calendar = job.calendar()
    answers: list[Batches] = []
    step = steps.start
    while step < steps.stop:
        answer = client.steps(job.name, StepsRequest(start=step, count=min(count, steps.stop - step))).batches
        answers.append(answer)
        for k, indices in enumerate(answer.indices):
            client.feedback(job.name, FeedbackRequest(feedback=measured(step + k, indices)))
        step += len(answer.indices)
        if step == calendar.epoch_start(calendar.epoch_of(step)):
            client.validation(job.name, report(step))
    return answers


def order(answers: list[Batches]) -> np.ndarray:
    """All sample indices in the order in which they came."""
    return np.concatenate([answer.indices.reshape(-1) for answer in answers])


def take(client: SchedulerClient, name: str, steps: range) -> list[Batches]:
    """Fetch the batches of steps; an answer may hold fewer than asked for."""
    answers: list[Batches] = []
    step = steps.start
    while step < steps.stop:
        answers.append(client.steps(name, StepsRequest(start=step, count=steps.stop - step)).batches)
        step += len(answers[-1].indices)
    return answers


def versions(answers: list[Batches]) -> list[int]:
    """The policy version of each step."""
    return [version for answer in answers for version in answer.policy_version.tolist()]
