"""A signal of a user's own, declared, measured and used outside these packages, through a real loader and service."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from bss_service.job.snapshot import Snapshot
from tests.support.services import Service
from trainer_client import (
    EVIDENCE,
    ConfusionMeter,
    JobSpec,
    ScheduledBatchSampler,
    SchedulerClient,
    Signal,
    WithIndex,
    measure,
)

SAMPLES, CLASSES = 48, 3

# What a user writes: the declaration, its producer, and its use.

ENTROPY = Signal("entropy", "of the joint head's prediction, in nats", low=0.0, averaged=True)


def measure_with_entropy(
    unimodal: Sequence[torch.Tensor], joint: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    entropy = torch.distributions.Categorical(logits=joint.detach()).entropy()
    return measure(unimodal, joint, labels) | {"entropy": entropy}


def most_uncertain(client: SchedulerClient, job: str, count: int) -> list[int]:
    table = Snapshot.from_frame(client.snapshot(job)).table
    return np.argsort(-table.latest["entropy"])[:count].tolist()


def test_a_signal_is_declared_produced_and_used_outside_the_package(service: Service, job_name: str) -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(SAMPLES, 3, CLASSES)
    dataset = WithIndex(TensorDataset(logits, torch.randint(CLASSES, (SAMPLES,))))
    signals = ["loss", "probability", ENTROPY]
    job = JobSpec(name=job_name, samples=SAMPLES, modalities=["audio", "video"], batch_size=8, signals=signals, lag=4)
    expected = torch.distributions.Categorical(logits=logits[:, 2]).entropy().numpy()
    with service.client() as client, ScheduledBatchSampler(job, client) as sampler:
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=2)
        for _ in range(2):
            for index, (heads, labels) in loader:
                audio, video, joint = heads.unbind(1)
                sampler.feedback(index, measure_with_entropy([audio, video], joint, labels))
        sampler.flush()
        next(iter(loader))  # the third epoch's plan has learnt what was fed back of the first
        shown = client.sample(job_name, 7).signals
        assert most_uncertain(client, job_name, 5) == np.argsort(-expected)[:5].tolist()
    assert shown["entropy"] == np.float32(expected[7])
    assert list(shown["probability"]) == ["audio", "video", "joint"]  # type: ignore[arg-type]
    assert "similarity" not in shown


def test_a_job_that_declares_evidence_keeps_how_its_labels_were_judged(service: Service, job_name: str) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(SAMPLES, 3, CLASSES), torch.randint(CLASSES, (SAMPLES,))
    dataset = WithIndex(TensorDataset(logits, labels))
    job = JobSpec(name=job_name, samples=SAMPLES, modalities=["audio", "video"], batch_size=8, signals=EVIDENCE)
    with service.client() as client, ScheduledBatchSampler(job, client) as sampler:
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=2)
        for _ in range(3):
            for index, (heads, label) in loader:
                audio, video, joint = heads.unbind(1)
                sampler.feedback(index, measure([audio, video], joint, label))
            meter = ConfusionMeter()
            meter.add([logits[:, 0], logits[:, 1]], logits[:, 2], labels)
            heads_seen = {"audio": (0.5, 0.5), "video": (0.5, 0.5)}
            sampler.validation(loss=1.0, accuracy=0.5, modalities=heads_seen, confusion=meter)
        sampler.flush()
        assert client.job(job_name).validation.confusion is None  # it is not for show
        next(iter(loader))  # the plan of the fourth epoch has learnt from the first three
        snapshot = Snapshot.from_frame(client.snapshot(job_name))
        dynamics = snapshot.table.dynamics
    assert [report.confusion is not None for report in snapshot.reports] == [False, True, True]
    confusion = snapshot.reports[-1].confusion
    assert confusion is not None
    np.testing.assert_allclose(np.bincount(confusion.label, confusion.mass), np.bincount(labels), rtol=1e-4)
    summed = torch.softmax(logits.sum(1), 1)
    np.testing.assert_array_equal(dynamics["label"], labels)
    np.testing.assert_array_equal(dynamics["visits"], np.full(SAMPLES, 3))
    np.testing.assert_array_equal(dynamics["predicted_class"], logits[:, :2].argmax(2))
    np.testing.assert_array_equal(dynamics["hits"] == 3, summed.argmax(1) == labels)
    np.testing.assert_allclose(dynamics["summed_probability"], summed[range(SAMPLES), labels], atol=1e-3)
