"""Lightning's and Hugging Face's trainers, with what comes for them."""

from itertools import count
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, WeightedRandomSampler
from transformers import TrainingArguments

from tests.support.services import Service
from tests.trainer_client.support.lightning_quietly import QUIETLY
from tests.trainer_client.support.plain import (
    BATCH,
    BATCHES,
    EPOCHS,
    JOB,
    SAMPLES,
    Data,
    Model,
    Run,
    accumulating_run,
    plain_run,
    same_weights,
)
from trainer_client import JobSpec, ScheduledBatchSampler, SchedulerClient, measure, measure_tokens
from trainer_client.integrations.lightning import BalanceScheduling as LightningScheduling
from trainer_client.integrations.schedule import schedule
from trainer_client.integrations.transformers import INDEX, BalanceScheduling

pytestmark = [
    *QUIETLY,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
NUMBERS = count()
Batches = list[list[int]]


@pytest.fixture(scope="module")
def plain(service: Service) -> Run:
    """The run that all others are held against."""
    with service.client() as client:
        return plain_run(client, f"plain-of-callbacks-{next(NUMBERS)}")


@pytest.fixture
def job(client: SchedulerClient) -> dict[str, Any]:
    return {"name": f"callbacks-{next(NUMBERS)}", "url": client, **JOB}


class Module(lightning.LightningModule):
    """A user's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.came: Batches = []
        self.fails_at: int | None = None

    def training_step(self, batch: Any, _: int) -> dict[str, Any]:
        index, inputs = batch
        if len(self.came) == self.fails_at:
            raise ArithmeticError("the loss is not finite")
        outputs = self.model(**inputs)
        self.came.append(index.tolist())
        return {"loss": outputs["loss"], "measured": measure([], outputs["logits"], inputs["labels"])}

    def validation_step(self, batch: Any, _: int) -> dict[str, Any]:
        return {"judged": ([], self.model(**batch)["logits"], batch["labels"])}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    job: dict[str, Any],
    folder: Path,
    module: Module,
    *,
    batch_size: int = BATCH,
    callbacks: tuple[Any, ...] = (),
    ckpt_path: Any = None,
    **options: Any,
) -> ScheduledBatchSampler:
    loader, sampler = schedule(DataLoader(Data(), batch_size=batch_size), **job)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=[LightningScheduling(sampler), *callbacks],
        **{"max_epochs": EPOCHS, **options},
    )
    with sampler:
        trainer.fit(module, loader, DataLoader(Data(), batch_size=16), ckpt_path=ckpt_path)
    return sampler


def test_lightning_trains_as_the_plain_loop_and_reports_but_for_the_sanity_check(
    client: SchedulerClient, job: dict[str, Any], plain: Run, tmp_path: Path
) -> None:
    module = Module()
    fit(job, tmp_path, module)
    assert module.came == plain.batches
    assert same_weights(module.model, plain.model)
    state = client.job(job["name"])
    assert state.fed_back_until == EPOCHS * BATCHES
    assert state.validation is not None
    assert (state.validation.step, state.validation.samples) == (EPOCHS * BATCHES, len(Data()))


@pytest.mark.parametrize("stop", [3, BATCHES + 3])
def test_lightning_goes_on_from_its_own_checkpoint_in_an_epoch(
    job: dict[str, Any], plain: Run, tmp_path: Path, stop: int
) -> None:
    first, second = Module(), Module()
    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop, save_top_k=-1)
    fit(job, tmp_path, first, callbacks=(saves,), max_steps=stop)
    fit(job, tmp_path, second, ckpt_path=tmp_path / f"step={stop}.ckpt")
    assert first.came + second.came == plain.batches
    assert same_weights(second.model, plain.model)


AT_ONCE, SHORT = 3, 9  # batches of a step; and a batch of which there are 6, 5 and 5 in an epoch


def accumulating(client: SchedulerClient, job: dict[str, Any], *, whole: bool, **fields: Any) -> tuple[Run, int]:
    """The plain loop that accumulates."""
    other = {**JOB, "name": f"{job['name']}-plain", "samples": SAMPLES, "batch_size": BATCH, **fields}
    return accumulating_run(client, JobSpec(**other), AT_ONCE, whole=whole)


def test_lightning_takes_a_step_with_the_gradients_left_at_the_end_of_a_short_epoch(
    client: SchedulerClient, job: dict[str, Any], tmp_path: Path
) -> None:
    module = Module()
    sampler = fit({**job, "tail": "carry"}, tmp_path, module, batch_size=SHORT, accumulate_grad_batches=AT_ONCE)
    run, steps = accumulating(client, job, whole=True, batch_size=SHORT, tail="carry")
    assert module.came == run.batches
    assert module.trainer.global_step == steps == 6
    assert same_weights(module.model, run.model)
    assert sampler.is_last_batch


def test_a_fit_that_fails_ends_the_sampler(client: SchedulerClient, job: dict[str, Any], tmp_path: Path) -> None:
    module = Module()
    module.fails_at = 5
    with pytest.raises(ArithmeticError):
        fit(job, tmp_path, module)
    assert client.job(job["name"]).steps_fed_back == 5


def test_a_loader_without_indices_is_told_so() -> None:
    with pytest.raises(TypeError, match=r"batch must be \(index, batch\), .* got a dict: loader, sampler = schedule"):
        LightningScheduling(None).on_train_batch_end(None, None, None, {"x": 1}, 0)  # type: ignore[arg-type]


class Watched(BalanceScheduling):
    """Keeps which samples came."""

    fails_at: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.came: Batches = []

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if len(self.came) == self.fails_at:
            raise ArithmeticError("the loss is not finite")
        if INDEX in inputs:
            self.came.append(inputs[INDEX].tolist())
        return super().compute_loss(model, inputs, *args, **kwargs)


def trainer_of(job: dict[str, Any], folder: Path, **options: Any) -> Watched:
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{
            "per_device_train_batch_size": BATCH,
            "num_train_epochs": EPOCHS,
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "save_strategy": "no",
            **options,
        },
    )
    return Watched(Model(), arguments, train_dataset=Data(), eval_dataset=Data(), scheduling=job)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_trainer_trains_as_the_plain_loop(
    client: SchedulerClient, job: dict[str, Any], plain: Run, tmp_path: Path, workers: int
) -> None:
    trainer = trainer_of(job, tmp_path, dataloader_num_workers=workers)
    trainer.train()
    assert same_weights(trainer.model, plain.model)
    assert client.job(job["name"]).fed_back_until == EPOCHS * BATCHES
    assert trainer.sampler is not None
    trainer.sampler.close()


@pytest.mark.parametrize("stop", [3, BATCHES + 3])
def test_the_trainer_goes_on_from_its_own_checkpoint_in_an_epoch(
    client: SchedulerClient, job: dict[str, Any], plain: Run, tmp_path: Path, stop: int
) -> None:
    first = trainer_of(job, tmp_path, max_steps=stop, save_strategy="steps", save_steps=stop)
    first.train()
    assert first.sampler is not None
    first.sampler.close()
    second = trainer_of(job, tmp_path)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == EPOCHS * BATCHES
    assert same_weights(second.model, plain.model)
    assert client.job(job["name"]).steps_fed_back == EPOCHS * BATCHES
    assert second.sampler is not None
    second.sampler.close()


def test_evaluations_are_reported_and_accumulated_gradients_are_ahead(
    client: SchedulerClient, job: dict[str, Any], tmp_path: Path
) -> None:
    trainer = trainer_of({**job, "interval": 4}, tmp_path, gradient_accumulation_steps=2, eval_strategy="epoch")
    trainer.compute_metrics = lambda judged: {
        "accuracy": float((judged.predictions.argmax(1) == judged.label_ids).mean())
    }
    trainer.train()
    assert trainer.sampler is not None
    assert trainer.sampler.spec.lag == 3
    trainer.sampler.close()
    state = client.job(job["name"])
    assert state.validation is not None
    assert state.validation.step == state.fed_back_until == EPOCHS * BATCHES


@pytest.mark.parametrize("stop", [2, 4])
def test_the_trainer_takes_a_step_with_the_gradients_left_of_an_epoch_that_goes_on_in_its_midst(
    client: SchedulerClient, job: dict[str, Any], tmp_path: Path, stop: int
) -> None:
    """Of 8 batches there are steps with 3, 3 and 2."""
    run, steps = accumulating(client, job, whole=False)
    options = {"gradient_accumulation_steps": AT_ONCE}
    first = trainer_of(job, tmp_path, max_steps=stop, save_strategy="steps", save_steps=stop, **options)
    first.train()
    assert first.sampler is not None
    first.sampler.close()
    second = trainer_of(job, tmp_path, **options)
    second.train(resume_from_checkpoint=True)
    assert first.came + second.came == run.batches
    assert (second.state.global_step, second.state.epoch) == (steps, EPOCHS)
    assert same_weights(second.model, run.model)
    assert second.sampler is not None
    second.sampler.close()


@pytest.mark.parametrize("stop", [None, 4])  # 4: at the end of the second epoch, by its length in the third
def test_the_trainer_takes_a_step_with_the_gradients_left_of_a_short_epoch(
    client: SchedulerClient, job: dict[str, Any], tmp_path: Path, stop: int | None
) -> None:
    job["tail"] = "carry"
    run, steps = accumulating(client, job, whole=False, batch_size=SHORT, tail="carry")
    options = {"gradient_accumulation_steps": AT_ONCE, "per_device_train_batch_size": SHORT}
    came: Batches = []
    if stop is not None:
        first = trainer_of(job, tmp_path, max_steps=stop, save_strategy="steps", save_steps=stop, **options)
        first.train()
        came = first.came
        assert first.sampler is not None
        first.sampler.close()
    second = trainer_of(job, tmp_path, **options)
    second.train(resume_from_checkpoint=stop is not None)
    assert came + second.came == run.batches
    assert second.state.global_step == steps == 6
    assert same_weights(second.model, run.model)
    assert second.sampler is not None
    second.sampler.close()


def test_the_trainer_takes_all_of_max_steps_also_where_some_epochs_are_shorter(
    job: dict[str, Any], tmp_path: Path
) -> None:
    job["tail"] = "carry"  # epochs of 6, 5 and 5 batches
    trainer = trainer_of(job, tmp_path, max_steps=17, per_device_train_batch_size=SHORT)
    trainer.train()
    assert trainer.state.global_step == len(trainer.came) == 17
    assert trainer.sampler is not None
    trainer.sampler.close()


def test_a_training_that_fails_gives_up_its_place_to_one_that_goes_on(
    job: dict[str, Any], plain: Run, tmp_path: Path
) -> None:
    first = trainer_of(job, tmp_path, save_strategy="steps", save_steps=3)
    first.fails_at = BATCHES + 3
    with pytest.raises(ArithmeticError):
        first.train()
    second = trainer_of(job, tmp_path)
    second.train(resume_from_checkpoint=True)  # from step 9
    assert first.came[:9] + second.came == plain.batches
    assert same_weights(second.model, plain.model)
    assert second.sampler is not None
    second.sampler.close()


def test_batches_of_another_size_are_refused(job: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="auto_find_batch_size must be False, got True"):
        trainer_of(job, tmp_path, auto_find_batch_size=True).train()


def test_an_order_that_was_made_for_a_reason_is_refused(job: dict[str, Any], tmp_path: Path) -> None:
    trainer = trainer_of(job, tmp_path)
    trainer._get_train_sampler = lambda *_: WeightedRandomSampler([1.0] * len(Data()), len(Data()))
    with pytest.raises(ValueError, match="loader must shuffle plainly, got a WeightedRandomSampler"):
        trainer.train()


def test_a_causal_models_sequences_are_measured() -> None:
    logits, labels = torch.arange(60.0).sin().reshape(2, 6, 5), torch.arange(12).reshape(2, 6) % 5
    measured = BalanceScheduling.measured(None, {"labels": labels}, (torch.zeros(()), logits))  # type: ignore[arg-type]
    expected = measure_tokens([], logits, labels, shift=True)
    assert all(torch.equal(torch.as_tensor(measured[name]), values) for name, values in expected.items())


def test_outputs_without_logits_are_told_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"outputs must have logits, .* override measured\(inputs, outputs\)"):
        BalanceScheduling.measured(None, {}, {"loss": torch.zeros(())})  # type: ignore[arg-type]
