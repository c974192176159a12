"""Evidence from end to end: a sampler, a loader with workers, a service that is killed, and what that tells."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from bss_cli.commands import app
from tests.support.mislabelled import LABELS, SAMPLES, WRONG, fields, logits, measured, report
from tests.support.services import Service
from trainer_client import (
    ConfusionMeter,
    JobSpec,
    ScheduledBatch,
    ScheduledBatchSampler,
    SchedulerClient,
    WithIndex,
    multimodal_loss,
    weighted,
)

EPOCHS = 5


def train(client: SchedulerClient, job: JobSpec, epochs: int, *, resume: bool = False) -> list[ScheduledBatch]:
    """A loop as a user writes it; all batches that it was given."""
    dataset = WithIndex(TensorDataset(torch.arange(SAMPLES), torch.from_numpy(LABELS)))
    batches = []
    with ScheduledBatchSampler(job, client, if_exists="resume" if resume else "fail") as sampler:
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=2)
        for _ in range(epochs):
            for index, (samples, labels) in loader:
                batch = sampler.batch_of(index)
                unimodal, joint = logits(samples.numpy(), batch.epoch)
                loss = weighted(multimodal_loss(unimodal, joint, labels, batch=batch), batch)
                assert torch.isfinite(loss)
                sampler.feedback(
                    index, {k: torch.from_numpy(v) for k, v in measured(samples.numpy(), batch.epoch).items()}
                )
                batches.append(batch)
            validate(sampler, batches[-1].step + 1)
        sampler.flush()
    return batches


def validate(sampler: ScheduledBatchSampler, step: int) -> None:
    known = report(step)
    meter = ConfusionMeter()
    clean = np.flatnonzero(~WRONG)
    meter.add(*logits(clean, 4), torch.from_numpy(LABELS[clean]))
    heads = {name: (head.accuracy, head.probability) for name, head in known.modalities.items()}
    sampler.validation(step=step, loss=known.loss, accuracy=known.accuracy, modalities=heads, confusion=meter)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(store=tmp_path_factory.mktemp("store") / "bss.db") as running:
        yield running


@pytest.fixture(scope="module")
def trained(service: Service) -> list[ScheduledBatch]:
    """The batches of a job "mislabelled" in a service that was killed after two epochs."""
    with SchedulerClient(service.url) as client:
        job = JobSpec(name="mislabelled", **fields())
        first = train(client, job, 2)
        service.kill()
        service.start()
        return first + train(client, job, EPOCHS - 2, resume=True)


def test_wrong_labels_are_left_out_and_looked_at_now_and_then(trained: list[ScheduledBatch]) -> None:
    last = trained[-SAMPLES // 8 :]
    indices = np.concatenate([batch.indices for batch in last])
    weights = np.concatenate([batch.weights for batch in last if batch.weights is not None])
    assert WRONG[indices[weights == 0]].mean() > 0.9
    assert WRONG[indices[weights > 0]].mean() < 0.05
    assert weights.mean() == pytest.approx(1)


def test_batches_are_the_same_bytes_afterwards_weights_too(trained: list[ScheduledBatch], service: Service) -> None:
    with SchedulerClient(service.url) as client:
        for batch in trained[-3:]:
            again = client.batches("mislabelled", batch.step, 1)
            assert again.weights is not None and batch.weights is not None
            assert again.indices.tobytes() == batch.indices.tobytes()
            assert again.weights.tobytes() == batch.weights.tobytes()


def test_suspects_come_as_json_and_as_csv(trained: list[ScheduledBatch], service: Service) -> None:
    with SchedulerClient(service.url) as client:
        listed = client.samples("mislabelled", "label", 20)
        told = client.sample("mislabelled", listed.samples[0].index).evidence
    assert WRONG[[row.index for row in listed.samples]].mean() >= 0.95
    assert told == listed.samples[0].evidence
    answer = httpx.get(f"{service.url}/v1/jobs/mislabelled/samples?order=label&limit=20&format=csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["index"]) for row in rows] == [row.index for row in listed.samples]
    assert told is not None
    assert rows[0]["predicted_audio"] == str(told.predicted["audio"])


@pytest.mark.parametrize("query", ["order=best", "limit=0", "limit=10001", "format=xml"])
def test_another_order_form_or_limit_is_refused_by_name(
    trained: list[ScheduledBatch], service: Service, query: str
) -> None:
    answer = httpx.get(f"{service.url}/v1/jobs/mislabelled/samples?{query}")
    assert answer.status_code == 422
    assert query.split("=")[0] in answer.json()["detail"]


def test_bss_suspects_lists_and_writes_them(trained: list[ScheduledBatch], service: Service, tmp_path: Path) -> None:
    names, out = tmp_path / "names.txt", tmp_path / "suspects.csv"
    names.write_text("\n".join(f"file-{number}.png" for number in range(SAMPLES)))
    environment = {"BSS_URL": service.url, "BSS_TOKEN": None, "COLUMNS": "100"}
    command = ["suspects", "mislabelled", "--limit", "5", "--csv", str(out), "--names", str(names)]
    told = CliRunner().invoke(app, command, env=environment)
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert len(rows) == 5
    for row in rows:
        assert row["name"] == f"file-{row['index']}.png"
        assert row["name"] in told.stdout
    assert "wrong labels      about 2" in told.stdout
    pairs = CliRunner().invoke(app, ["suspects", "mislabelled", "--pairs"], env=environment)
    assert "P(pair right)" in pairs.stdout
    names.write_text("one")
    wrong = CliRunner().invoke(app, command, env=environment)
    assert (wrong.exit_code, wrong.stderr) == (2, "error: --names must have a line for each of 96 samples, got 1\n")


def test_a_loop_that_forgets_the_weights_is_told(service: Service) -> None:
    job = JobSpec(name="forgetful", **fields())
    with SchedulerClient(service.url) as client, ScheduledBatchSampler(job, client) as sampler:
        loader = DataLoader(WithIndex(TensorDataset(torch.arange(SAMPLES))), batch_sampler=sampler)
        with pytest.raises(ValueError, match=r"weight 0, which this loop trained on: average its loss by weighted"):
            for epoch in range(EPOCHS):
                for index, (samples,) in loader:
                    values = measured(samples.numpy(), epoch)
                    sampler.feedback(index, {name: torch.from_numpy(array) for name, array in values.items()})
                validate(sampler, (epoch + 1) * SAMPLES // 8)
