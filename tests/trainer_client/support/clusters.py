"""A small data set, and runs of the reference trainer on it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from trainer_client import JobSpec, PolicySpec, ScheduledBatchSampler, SchedulerClient
from trainer_client.reference.data import Dataset
from trainer_client.reference.training import StepRecord, Trainer, TrainingConfig, TrainingResult, job_spec

SAMPLES = 230
EPOCHS = 4
STEPS = 28


def clusters() -> Dataset:
    """Two noisy views of four clusters: 230 samples to train on, 60 to validate, 60 to test."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=350)
    centres = rng.normal(size=(2, 4, 6))
    views = [(centres[k, labels] + rng.normal(size=(350, 6))).astype(np.float32) for k in range(2)]
    split = np.repeat(np.array([0, 1, 2], dtype=np.uint8), [SAMPLES, 60, 60])
    return Dataset("clusters", {"left": views[0], "right": views[1]}, labels, split, tuple("abcd"))


def job(name: str, policy: str = "balance", parameters: dict[str, Any] | None = None, **fields: Any) -> JobSpec:
    """A job of `EPOCHS` epochs of 7 steps; every tenth sample or so is carried into the next epoch."""
    chosen = PolicySpec(name=policy, parameters=parameters or {})
    return job_spec(name, clusters(), batch_size=32, epochs=EPOCHS, policy=chosen, tail="carry", **fields)


@dataclass
class Run:
    """What a run of the reference trainer came to."""

    batches: list[list[int]] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    result: TrainingResult | None = None
    outages: int = 0

    def ended_like(self, other: "Run") -> bool:
        """Same batches, same weights, bit for bit."""
        same = [torch.equal(self.weights[name], other.weights[name]) for name in other.weights]
        return self.batches == other.batches and all(same)


def train(
    client: SchedulerClient,
    spec: JobSpec,
    at: dict[int, Any] | None = None,
    config: TrainingConfig | None = None,
    run: Run | None = None,
    **options: Any,
) -> Run:
    """Train to the end; `at` says what to do after which step, with the trainer. `run` goes on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of floats in the same order in every run
    run = run or Run()
    try:
        with ScheduledBatchSampler(spec, client, **options) as sampler:
            trainer = Trainer(clusters(), sampler, config or TrainingConfig(epochs=EPOCHS))

            def watch(record: StepRecord) -> None:
                run.batches.append(record.batch.indices.tolist())
                run.versions.append(record.batch.policy_version)
                if at and record.batch.step + 1 in at:
                    at[record.batch.step + 1](trainer)

            run.result = trainer.train(watch)
            run.outages = sampler.stats.outages
        run.weights = trainer.model.state_dict()
    finally:
        torch.set_num_threads(threads)
    return run
