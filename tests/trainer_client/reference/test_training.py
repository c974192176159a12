"""The reference trainer against a real service, on a small set of vectors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bss_service.job.snapshot import Snapshot
from tests.support.services import Service
from tests.trainer_client.support.clusters import EPOCHS, clusters
from trainer_client import JobExistsError, PolicySpec, ScheduledBatchSampler, SchedulerClient
from trainer_client.reference import training
from trainer_client.reference.checkpoint import read_checkpoint
from trainer_client.reference.data import Dataset
from trainer_client.reference.evaluation import Evaluation, Logits, predicting
from trainer_client.reference.training import StepRecord, Trainer, TrainingConfig, TrainingResult, job_spec


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return clusters()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of floats in the same order in every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(
    client: SchedulerClient,
    dataset: Dataset,
    name: str,
    policy: str | PolicySpec = "balance",
    config: TrainingConfig | None = None,
    stop_at: int | None = None,
    **fields: object,
) -> tuple[TrainingResult, dict[str, torch.Tensor], list[StepRecord]]:
    """Train, at most up to a step; the result, the final weights and what a watcher saw."""
    epochs = fields.pop("epochs", EPOCHS)
    policy = PolicySpec(name=policy) if isinstance(policy, str) else policy
    spec = job_spec(name, dataset, batch_size=32, epochs=epochs, policy=policy, **fields)
    seen: list[StepRecord] = []
    with ScheduledBatchSampler(spec, client) as sampler:
        trainer = Trainer(dataset, sampler, config or TrainingConfig(epochs=EPOCHS))

        def watch(record: StepRecord) -> None:
            seen.append(record)
            if record.batch.step + 1 == stop_at:
                trainer.stop()

        result = trainer.train(watch)
    return result, trainer.model.state_dict(), seen


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns(client: SchedulerClient, dataset: Dataset, job_name: str) -> None:
    result, _, _ = run(client, dataset, job_name, "uniform")
    assert result.test is not None
    assert result.test.accuracy > 0.6  # chance is 0.25


@pytest.mark.parametrize("stop_at", [3, 7, 10, 21, 28])  # epochs end at 7, 14, 21 and 28
@pytest.mark.parametrize("policy", ["balance", "bandit"])
def test_a_run_stopped_in_an_epoch_ends_with_the_same_weights(
    client: SchedulerClient, dataset: Dataset, job_name: str, tmp_path: Path, policy: str, stop_at: int
) -> None:
    whole, expected, _ = run(client, dataset, f"{job_name}-whole", policy)
    config = TrainingConfig(epochs=EPOCHS, checkpoint=tmp_path / "run.pt")
    stopped, _, _ = run(client, dataset, f"{job_name}-parts", policy, config, stop_at)
    resumed, weights, seen = run(client, dataset, f"{job_name}-parts", policy, config)
    assert len(stopped.epochs) == stop_at // 7
    assert [record.batch.step for record in seen] == list(range(stop_at, 28))
    assert equal(weights, expected)
    assert (resumed.epochs, resumed.best_epoch) == (whole.epochs, whole.best_epoch)
    whole_log, parts_log = client.decisions(f"{job_name}-whole"), client.decisions(f"{job_name}-parts")
    assert [row.reward for row in parts_log.decisions] == [row.reward for row in whole_log.decisions]


def test_a_run_killed_after_its_checkpoint_ends_with_the_same_weights(
    client: SchedulerClient, dataset: Dataset, job_name: str, tmp_path: Path
) -> None:
    _, expected, _ = run(client, dataset, f"{job_name}-whole")
    config = TrainingConfig(epochs=EPOCHS, checkpoint=tmp_path / "run.pt", checkpoint_every=5)
    run(client, dataset, f"{job_name}-parts", config=config, stop_at=5)
    earlier = (tmp_path / "run.pt").read_bytes()
    run(client, dataset, f"{job_name}-parts", config=config, stop_at=12)  # what came after step 5 is lost
    (tmp_path / "run.pt").write_bytes(earlier)
    _, weights, _ = run(client, dataset, f"{job_name}-parts", config=config)
    assert equal(weights, expected)


def test_the_rate_is_a_tenth_after_so_many_epochs_also_over_a_stop(
    client: SchedulerClient, dataset: Dataset, tmp_path: Path, job_name: str
) -> None:
    rates: list[float] = []

    def trained(stop_at: int | None) -> None:
        config = TrainingConfig(epochs=4, learning_rate=0.01, decay_epochs=1, checkpoint=tmp_path / "checkpoint")
        spec = job_spec(job_name, dataset, batch_size=32, epochs=4)
        with ScheduledBatchSampler(spec, client) as sampler:
            trainer = Trainer(dataset, sampler, config)

            def watch(record: StepRecord) -> None:
                rates.append(trainer.optimiser.param_groups[0]["lr"])
                if record.batch.step + 1 == stop_at:
                    trainer.stop()

            trainer.train(watch)

    trained(stop_at=9)  # of 7 an epoch
    trained(stop_at=None)
    assert rates == pytest.approx([0.01 * 0.1**epoch for epoch in range(4) for _ in range(7)])


@pytest.mark.parametrize(("logits", "predicted"), [("joint", [1, 0, 0]), ("sum", [0, 0, 1]), ("unimodal", [0, 1, 1])])
def test_logits_that_predict(logits: Logits, predicted: list[int]) -> None:
    left = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    right = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    joint = torch.tensor([[0.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
    assert predicting([left, right], joint, logits).argmax(1).tolist() == predicted


def test_a_used_job_is_not_joined_without_a_checkpoint(
    client: SchedulerClient, dataset: Dataset, job_name: str, tmp_path: Path
) -> None:
    run(client, dataset, job_name, stop_at=2)
    with pytest.raises(JobExistsError, match="has handed out 7 steps to an earlier run"):
        run(client, dataset, job_name)
    lost = TrainingConfig(epochs=EPOCHS, checkpoint=tmp_path / "not-there.pt")
    with pytest.raises(JobExistsError):
        run(client, dataset, job_name, config=lost)


def test_loader_workers_change_nothing(client: SchedulerClient, dataset: Dataset, job_name: str) -> None:
    _, alone, _ = run(client, dataset, f"{job_name}-0")
    _, workers, _ = run(client, dataset, f"{job_name}-2", config=TrainingConfig(epochs=EPOCHS, workers=2))
    assert equal(alone, workers)


@pytest.mark.parametrize("policy", ["balance", "balance_code", "self_paced", "bandit"])
def test_scores_from_training_logits_cost_no_forward_pass(
    client: SchedulerClient, dataset: Dataset, job_name: str, policy: str
) -> None:
    result, _, _ = run(client, dataset, job_name, policy)
    assert result.extra_forward_samples == 0
    assert client.job(job_name).samples_measured > 200


def test_a_trainer_pulls_only_when_told_to_and_remembers_it_over_a_stop(
    client: SchedulerClient, dataset: Dataset, job_name: str, tmp_path: Path
) -> None:
    policy = PolicySpec(name="fixed", parameters={"coverage": "epoch", "pull": 1.5})
    _, plain, _ = run(client, dataset, f"{job_name}-plain", "uniform")
    _, unmoved, _ = run(client, dataset, f"{job_name}-unmoved", policy)
    assert equal(unmoved, plain)
    _, pulled, _ = run(client, dataset, f"{job_name}-pulled", policy, TrainingConfig(epochs=EPOCHS, pull=True))
    assert not equal(pulled, plain)
    config = TrainingConfig(epochs=EPOCHS, pull=True, checkpoint=tmp_path / "run.pt")
    run(client, dataset, f"{job_name}-parts", policy, config, stop_at=10)
    _, resumed, _ = run(client, dataset, f"{job_name}-parts", policy, config)
    assert equal(resumed, pulled)


def test_a_measuring_pass_is_counted(client: SchedulerClient, dataset: Dataset, job_name: str) -> None:
    result, _, _ = run(client, dataset, job_name, "curriculum", TrainingConfig(epochs=EPOCHS, measure_first=True))
    assert result.extra_forward_samples == 230


def test_every_interval_is_rewarded(client: SchedulerClient, dataset: Dataset, job_name: str) -> None:
    run(client, dataset, job_name, "bandit")
    log = client.decisions(job_name)
    assert len(log.decisions) == EPOCHS
    assert all(row.gain is not None and row.reward is not None for row in log.decisions)


class TestTheBestEpoch:
    """Where the accuracy of every checkpoint is written down: before the first step, and after each epoch."""

    VALIDATION = (0.9, 0.4, 0.7, 0.7, 0.6)
    TEST = (0.1, 0.9, 0.2, 0.95, 0.8)

    @pytest.fixture
    def looked(self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, torch.Tensor]]]:
        """Which split was evaluated, and with which weights."""
        looked: list[tuple[str, dict[str, torch.Tensor]]] = []

        def evaluate(model: torch.nn.Module, _: Dataset, indices: np.ndarray, *rest: object) -> Evaluation:
            split = next(name for name in ("validation", "test") if np.array_equal(indices, dataset.indices(name)))
            looked.append((split, {name: value.clone() for name, value in model.state_dict().items()}))
            validated = sum(name == "validation" for name, _ in looked) - 1
            accuracy = (self.VALIDATION if split == "validation" else self.TEST)[validated]
            return Evaluation(loss=1.0, accuracy=accuracy, modalities=dict.fromkeys(dataset.modalities, (0.5, 0.5)))

        monkeypatch.setattr(training, "evaluate", evaluate)
        return looked

    def test_is_the_first_that_is_best_on_validation_and_its_weights_are_tested(
        self, client: SchedulerClient, dataset: Dataset, job_name: str, looked: list[Any]
    ) -> None:
        result, last, _ = run(client, dataset, job_name, config=TrainingConfig(epochs=4), epochs=4)
        assert result.best_epoch == 1
        assert [split for split, _ in looked] == [*5 * ["validation"], "test"]
        (_, best), (_, tested) = looked[2], looked[-1]
        assert equal(best, tested)
        assert not equal(best, last)

    def test_is_reported_with_the_steps_that_were_trained(
        self, client: SchedulerClient, dataset: Dataset, job_name: str, looked: list[Any]
    ) -> None:
        run(client, dataset, job_name, config=TrainingConfig(epochs=4), epochs=4)
        reports = Snapshot.from_frame(client.snapshot(job_name)).reports
        steps = [client.job(job_name).spec.calendar().epoch_start(epoch) for epoch in range(5)]
        assert [(report.step, report.accuracy) for report in reports] == [*zip(steps, self.VALIDATION, strict=True)]


def test_a_checkpoint_holds_nothing_that_can_execute(
    client: SchedulerClient, dataset: Dataset, job_name: str, tmp_path: Path
) -> None:
    config = TrainingConfig(epochs=EPOCHS, checkpoint=tmp_path / "run.pt")
    run(client, dataset, job_name, config=config, stop_at=4)
    assert read_checkpoint(tmp_path / "run.pt")["step"] == 4


@pytest.mark.gpu
def test_it_learns_on_a_gpu(client: SchedulerClient, dataset: Dataset, job_name: str) -> None:
    result, _, _ = run(client, dataset, job_name, config=TrainingConfig(epochs=EPOCHS, device="cuda"))
    assert result.test is not None
    assert result.test.accuracy > 0.6


def test_killing_the_service_changes_nothing(dataset: Dataset, start_service: type[Service]) -> None:
    service = start_service()
    with service.client() as client:
        _, expected, undisturbed = run(client, dataset, "undisturbed")
        spec = job_spec("disturbed", dataset, batch_size=32, epochs=EPOCHS, policy=PolicySpec(name="balance"))
        came: list[StepRecord] = []
        with ScheduledBatchSampler(spec, client, prefetch=2) as sampler:
            trainer = Trainer(dataset, sampler, TrainingConfig(epochs=EPOCHS))

            def watch(record: StepRecord) -> None:
                came.append(record)
                if record.batch.step in (4, 17):
                    service.kill()
                    service.start()

            trainer.train(watch)
    assert [r.batch.indices.tolist() for r in came] == [r.batch.indices.tolist() for r in undisturbed]
    assert equal(trainer.model.state_dict(), expected)
