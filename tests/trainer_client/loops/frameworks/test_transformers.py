"""transformers' Trainer, whose users override get_train_dataloader."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.support.simulated import spec
from trainer_client import DoubleSkipError, JobExistsError, JobSpec, ScheduledBatchSampler, SchedulerClient, WithIndex

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
NUMBERS = count()
STATE = "sampler.pt"  # in the folder of a checkpoint
Batches = list[list[int]]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squared: torch.Tensor = self.layer(x[:, None]).square()[:, 0]
        return squared


def collated(samples: list[Any]) -> dict[str, torch.Tensor]:
    index, data = zip(*samples, strict=True)
    return {"index": torch.tensor(index), "x": torch.stack([x for (x,) in data]).float()}


class Scheduled(Trainer):
    """A user's: the loader with the sampler, and feedback with each loss."""

    def __init__(self, sampler: ScheduledBatchSampler, *, prepares: bool, workers: int = 0, **options: Any) -> None:
        super().__init__(Model(), callbacks=[KeepsSampler(sampler)], **options)
        self.sampler, self.prepares, self.workers = sampler, prepares, workers
        self.came: Batches = []

    def get_train_dataloader(self) -> Any:
        data = WithIndex(TensorDataset(torch.arange(self.sampler.spec.samples)))
        loader: DataLoader[Any] = DataLoader(
            data, batch_sampler=self.sampler, collate_fn=collated, num_workers=self.workers
        )
        return self.accelerator.prepare(loader) if self.prepares else loader

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> Any:
        loss = model(inputs["x"])
        self.sampler.feedback(inputs["index"], {"loss": loss.detach()})
        self.came.append(inputs["index"].tolist())
        return loss.mean()


class KeepsSampler(TrainerCallback):
    """Writes the sampler's state beside the Trainer's."""

    def __init__(self, sampler: ScheduledBatchSampler) -> None:
        self.sampler = sampler

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        torch.save(self.sampler.state_dict(), Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    options = {"num_train_epochs": 3, "save_strategy": "no", "gradient_accumulation_steps": 1, **options}
    return TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, remove_unused_columns=False, **options
    )


def job_of(samples: int = 48, batch_size: int = 6, **fields: Any) -> JobSpec:
    return spec(f"transformers-{next(NUMBERS)}", samples=samples, batch_size=batch_size, policy="uniform", **fields)


@pytest.fixture
def whole(client: SchedulerClient) -> Batches:
    """The batches of three epochs without transformers."""
    with ScheduledBatchSampler(job_of(), client) as sampler, pytest.warns(UserWarning, match="no feedback was given"):
        return [batch for _ in range(3) for batch in sampler]


@pytest.mark.parametrize(("prepares", "workers"), [(True, 0), (True, 2), (False, 0)])
def test_epochs_follow_in_turn(
    client: SchedulerClient, tmp_path: Path, whole: Batches, prepares: bool, workers: int
) -> None:
    with ScheduledBatchSampler(job_of(), client) as sampler:
        trainer = Scheduled(sampler, prepares=prepares, workers=workers, args=arguments(tmp_path))
        trainer.train()
        assert trainer.state.global_step == sampler.batches_trained == 24
    assert trainer.came == whole


@pytest.mark.parametrize(("tail", "steps"), [("drop", 150), ("carry", 156)])
def test_every_epoch_has_all_its_batches(client: SchedulerClient, tmp_path: Path, tail: str, steps: int) -> None:
    with ScheduledBatchSampler(job_of(1000, 64, tail=tail), client) as sampler:
        trainer = Scheduled(sampler, prepares=True, args=arguments(tmp_path, num_train_epochs=10))
        trainer.train()
        assert trainer.state.global_step == sampler.batches_trained == steps


def test_gradients_may_be_accumulated(client: SchedulerClient, tmp_path: Path, whole: Batches) -> None:
    with ScheduledBatchSampler(job_of(), client) as sampler:
        trainer = Scheduled(sampler, prepares=True, args=arguments(tmp_path, gradient_accumulation_steps=3))
        trainer.train()
        assert trainer.state.global_step == 9  # of 3, 3 and 2 batches an epoch
    assert trainer.came == whole


def stopped(client: SchedulerClient, job: JobSpec, folder: Path, stop: int, **options: Any) -> Batches:
    with ScheduledBatchSampler(job, client) as sampler:
        saving = arguments(folder, max_steps=stop, save_strategy="steps", save_steps=stop)
        trainer = Scheduled(sampler, args=saving, **options)
        trainer.train()
    assert len(trainer.came) == stop
    return trainer.came


@pytest.mark.parametrize(
    ("stop", "prepares", "workers"),
    [(3, True, 0), (8, True, 0), (11, True, 0), (11, True, 2), (8, False, 0), (3, False, 2)],
)
def test_a_run_goes_on_from_a_checkpoint_with_ignore_data_skip(
    client: SchedulerClient, tmp_path: Path, whole: Batches, prepares: bool, workers: int, stop: int
) -> None:
    job, options = job_of(), {"prepares": prepares, "workers": workers}
    came = stopped(client, job, tmp_path, stop, **options)
    checkpoint = tmp_path / f"checkpoint-{stop}"
    with ScheduledBatchSampler(job, client) as sampler:
        sampler.load_state_dict(torch.load(checkpoint / STATE, weights_only=True))
        trainer = Scheduled(sampler, args=arguments(tmp_path, ignore_data_skip=True), **options)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        assert trainer.state.global_step == sampler.batches_trained == 24
    assert came + trainer.came == whole


@pytest.mark.parametrize("prepares", [True, False], ids=["prepared", "left alone"])
def test_without_it_the_second_skip_is_refused(client: SchedulerClient, tmp_path: Path, prepares: bool) -> None:
    job = job_of()
    stopped(client, job, tmp_path, 3, prepares=prepares)
    checkpoint = tmp_path / "checkpoint-3"
    with ScheduledBatchSampler(job, client) as sampler:
        sampler.load_state_dict(torch.load(checkpoint / STATE, weights_only=True))
        trainer = Scheduled(sampler, prepares=prepares, args=arguments(tmp_path))
        with pytest.raises(DoubleSkipError, match="give transformers' TrainingArguments ignore_data_skip=True"):
            trainer.train(resume_from_checkpoint=str(checkpoint))
        assert trainer.came == []


def test_a_resumed_run_without_the_samplers_state_is_refused(client: SchedulerClient, tmp_path: Path) -> None:
    job = job_of()
    stopped(client, job, tmp_path, 3, prepares=True)
    with ScheduledBatchSampler(job, client) as sampler:
        trainer = Scheduled(sampler, prepares=True, args=arguments(tmp_path, ignore_data_skip=True))
        with pytest.raises(JobExistsError, match="or load_state_dict of its checkpoint"):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
