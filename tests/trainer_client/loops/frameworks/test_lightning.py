"""Lightning's Trainer, which asks for the length once and plans by it."""

from itertools import count
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from tests.support.simulated import spec
from tests.trainer_client.support.lightning_quietly import QUIETLY
from trainer_client import JobSpec, ScheduledBatchSampler, SchedulerClient, WithIndex

pytestmark = QUIETLY
NUMBERS = count()
Batches = list[list[int]]


class Module(lightning.LightningModule):
    """A user's module: feedback after each step, and the sampler's state in the checkpoint."""

    def __init__(self, sampler: ScheduledBatchSampler, planned: int | None = None) -> None:
        super().__init__()
        self.model = torch.nn.Linear(1, 1)
        self.sampler, self.planned = sampler, planned
        self.came: Batches = []
        self.validated: list[int] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        index, (sample,) = batch
        loss = self.model(sample[:, None].float()).square()
        self.sampler.feedback(index, {"loss": loss.detach()[:, 0]})
        self.came.append(index.tolist())
        return loss.mean()

    def validation_step(self, batch: Any, _: int) -> None:
        """Nothing to see."""

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append(len(self.came))

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(self.parameters(), 1e-9)
        schedule = OneCycleLR(optimiser, 1e-9, total_steps=self.planned or self.trainer.estimated_stepping_batches)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sampler"] = self.sampler.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.sampler.load_state_dict(checkpoint["sampler"])


def job_of(samples: int = 48, batch_size: int = 6, **fields: Any) -> JobSpec:
    return spec(f"lightning-{next(NUMBERS)}", samples=samples, batch_size=batch_size, policy="uniform", lag=0, **fields)


def loaders(sampler: ScheduledBatchSampler, workers: int = 0) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """For training, and for validation."""
    data = WithIndex(TensorDataset(torch.arange(sampler.spec.samples)))
    return DataLoader(data, batch_sampler=sampler, num_workers=workers), DataLoader(data, batch_size=64)


def trainer(folder: Path, **options: Any) -> lightning.Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options = {"enable_checkpointing": False, **options}
    return lightning.Trainer(
        accelerator="cpu", devices=1, use_distributed_sampler=False, default_root_dir=folder, **quiet, **options
    )


@pytest.fixture
def whole(client: SchedulerClient) -> Batches:
    """The batches of three epochs without Lightning."""
    with ScheduledBatchSampler(job_of(), client) as sampler, pytest.warns(UserWarning, match="no feedback was given"):
        return [batch for _ in range(3) for batch in sampler]


@pytest.mark.parametrize(("tail", "steps", "workers"), [("drop", 150, 0), ("carry", 156, 0), ("carry", 156, 2)])
def test_every_epoch_has_all_its_batches_and_a_schedule_by_the_length_lasts(
    client: SchedulerClient, tmp_path: Path, tail: str, steps: int, workers: int
) -> None:
    with ScheduledBatchSampler(job_of(1000, 64, tail=tail), client) as sampler:
        train, val = loaders(sampler, workers)
        module = Module(sampler, planned=10 * len(train))
        trainer(tmp_path, max_epochs=10).fit(module, train, val)
        assert len(module.came) == sampler.batches_trained == steps == sampler.spec.calendar().epoch_start(10)
    samples = [i for batch in module.came for i in batch]
    assert len(set(samples[: 15 * 64])) == 15 * 64
    if tail == "carry":
        assert all(sorted(samples[1000 * e : 1000 * (e + 1)]) == list(range(1000)) for e in range(9))


def test_a_schedule_by_lightnings_own_estimate_lasts(client: SchedulerClient, tmp_path: Path) -> None:
    with ScheduledBatchSampler(job_of(1000, 64, tail="carry"), client) as sampler:
        module, engine = Module(sampler), trainer(tmp_path, max_epochs=3, num_sanity_val_steps=2)
        engine.fit(module, *loaders(sampler))
        assert engine.estimated_stepping_batches == 3 * 16
        assert len(module.came) == 46


BY_STEPS: dict[str, Any] = {"val_check_interval": 15, "check_val_every_n_epoch": None}


@pytest.mark.parametrize(
    ("tail", "options", "validated"),
    [
        ("drop", {}, [15, 30, 45]),
        ("drop", BY_STEPS, [15, 30, 45]),
        ("carry", BY_STEPS, [15, 30, 45]),
        ("carry", {}, [31]),  # Lightning's: it tells the end of an epoch by the length, and two of these are shorter
    ],
)
def test_validations_by_steps_come_with_any_tail(
    client: SchedulerClient, tmp_path: Path, tail: str, options: dict[str, Any], validated: list[int]
) -> None:
    with ScheduledBatchSampler(job_of(1000, 64, tail=tail), client) as sampler:
        module = Module(sampler)
        trainer(tmp_path, max_epochs=3, **options).fit(module, *loaders(sampler))
    assert module.validated == validated


@pytest.mark.parametrize("workers", [0, 2])
def test_limited_epochs_lose_no_batch(client: SchedulerClient, tmp_path: Path, whole: Batches, workers: int) -> None:
    """Five batches, the three that are left of the job's epoch, five …: fewer than planned, and each once."""
    with ScheduledBatchSampler(job_of(), client) as sampler:
        module = Module(sampler)
        trainer(tmp_path, max_epochs=4, limit_train_batches=5).fit(module, *loaders(sampler, workers))
    assert module.came == whole[:16]


@pytest.mark.parametrize(("stop", "workers"), [(3, 0), (8, 0), (11, 0), (11, 2)])
def test_a_fit_goes_on_from_a_checkpoint(
    client: SchedulerClient, tmp_path: Path, whole: Batches, stop: int, workers: int
) -> None:
    job = job_of()
    with ScheduledBatchSampler(job, client) as sampler:
        first = Module(sampler, planned=24)
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop, save_top_k=-1)
        trainer(tmp_path, max_steps=stop, enable_checkpointing=True, callbacks=[saves]).fit(
            first, *loaders(sampler, workers)
        )
    assert len(first.came) == stop
    with ScheduledBatchSampler(job, client) as sampler:
        second = Module(sampler, planned=24)
        trainer(tmp_path, max_epochs=3).fit(
            second, *loaders(sampler, workers), ckpt_path=tmp_path / f"step={stop}.ckpt"
        )
        assert sampler.batches_trained == 24
    assert first.came + second.came == whole
