"""One training run of a suite, as a function of plain values. Training never sees the labels of the test set."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import torch

from bss_service.core.arrays import Int64
from bss_service.policies.shipped import shipped_acting_policy, shipped_judge, shipped_policy
from bss_service.protocol.policies import PolicySpec
from bss_service.testing import ServiceProcess
from envs.research.actors import likeliest
from envs.research.suite import public
from envs.research.suite.metrics import figures, predictions
from envs.research.suite.spec import LEARNING_RATE, LIKELIEST, Method, Task, Values, digest
from trainer_client.client import SchedulerClient
from trainer_client.reference.data import Data, Dataset, corrupt, load
from trainer_client.reference.recipes import Usual
from trainer_client.reference.training import UNIMODAL_WEIGHT, StepRecord, Trainer, TrainingConfig, job_spec
from trainer_client.sampler import ScheduledBatchSampler

KEPT_AS: Final = 1  # version of what is kept of a cell
TUNING_SEED: Final = 1000  # none of the paired ones
PLAIN: Final = Usual()
Kept = dict[str, Any]  # what a cell came to, as JSON values


@dataclass(frozen=True, slots=True)
class Cell:
    """A run to be made."""

    task: Task
    method: Method
    values: Values  # of what is tuned
    seed: int
    usual: Usual  # how it trains, but for its learning rate
    tested: bool  # whether the test set is looked at when training is over
    loaders: int = 0  # processes that decode a public set; nothing depends on it

    @property
    def identity(self) -> dict[str, Any]:
        """All that its result depends on."""
        task = {**self.task.harm, "samples": self.task.samples, **_data_identity(self.task)}
        method = self.method.model_dump(mode="json", exclude={"file", "tune", "as_many_as"})
        always = ("epochs", "batch_size", "optimiser")
        usual = {k: v for k, v in asdict(self.usual).items() if k in always or v != getattr(PLAIN, k)}
        usual.pop(LEARNING_RATE, None)
        return {
            "task": task,
            "method": method | {"file": self.method.file and digest(self.method.file)},
            "values": dict(self.values),
            "seed": self.seed,
            **usual,
            "tested": self.tested,
            "code": _code(),
        }


@dataclass(slots=True)
class Run:
    """A run whose training is over."""

    trainer: Trainer
    validation: list[float]  # accuracy after each epoch
    predicted: list[Int64]  # of the test samples, (k,), by the network of each epoch; none where it isn't looked at
    seconds: float  # of this process, or on a GPU of the clock


def run_cell(cell: Cell) -> Kept:
    """Train, choose the epoch by validation accuracy, and only then, where the cell says so, open the test set.

    Accuracies are shares. Seconds are the only figures that another run of the cell would not repeat; on a GPU, whose
    sums have no order, the others are repeated nearly.
    """
    torch.set_num_threads(1)
    cell.method.register()
    dataset, encoders = _given(cell)
    with SchedulerClient(_service().url) as client:
        run = _train(cell, dataset, encoders, client)
    kept: Kept = {
        "validation": run.validation,
        "epoch": int(np.argmax(run.validation)),
        "forward_samples": run.trainer.forward_samples - len(dataset.indices("test")),
        "extra_forward_samples": run.trainer.result.extra_forward_samples,
        "seconds": round(run.seconds, 3),
        "device": run.trainer.device.type,
    }
    return kept | _tested(cell, run, dataset) if cell.tested else kept


def blind(dataset: Data) -> Data:
    """The data set without the labels of its test samples, all of which are of the first class now."""
    labels = dataset.labels.copy()
    labels[dataset.indices("test")] = 0
    return dataset.with_labels(labels)


def _given(cell: Cell) -> tuple[Data, dict[str, str]]:
    """The samples of a seed, harmed as the task says, the same for every method; and encoders by modality."""
    if cell.task.public is not None:
        return public.load(cell.task)
    whole = _load(cell.task.data)
    training = np.random.default_rng([cell.seed, 1]).permutation(whole.indices("train"))
    part = whole.with_training(np.sort(training[: cell.task.samples]))
    return corrupt(part, seed=cell.seed, **cell.task.harm).dataset, dict(cell.task.encoders)  # type: ignore[arg-type]


def _train(cell: Cell, dataset: Data, encoders: Mapping[str, str], client: SchedulerClient) -> Run:
    """Train to the end, with predictions on test samples where the cell is tested, whose labels are not here."""
    method, usual = cell.method, cell.usual
    samples = len(dataset.indices("train"))
    if usual.batch_size > samples:
        raise ValueError(f"batch_size must be at most {samples}, the training samples, got {usual.batch_size}")
    parameters = method.tuned_policy(cell.values)
    if parameters.get("judge") == LIKELIEST:
        client.upload_judge(likeliest().data)
        parameters["judge"] = likeliest().sha256
    spec = job_spec(
        f"cell-{uuid4().hex}",
        dataset,
        batch_size=usual.batch_size,
        epochs=usual.epochs,
        seed=cell.seed,
        policy=PolicySpec(name=method.policy, parameters=parameters),
    )
    config = _config(cell, encoders)
    unseen = blind(dataset)
    ends = {spec.calendar().epoch_start(epoch + 1) for epoch in range(usual.epochs)}
    clock = time.perf_counter if config.device == "cuda" else time.process_time
    predicted: list[Int64] = []
    spent = 0.0
    with ScheduledBatchSampler(spec, client) as sampler:
        trainer = Trainer(unseen, sampler, config)

        def predict(record: StepRecord) -> None:
            nonlocal spent
            if cell.tested and record.batch.step + 1 in ends:
                began, passed = clock(), trainer.forward_samples
                predicted.append(predictions(trainer.model, unseen, "test", trainer.device, usual.logits))
                trainer.forward_samples = passed  # for the report's sake, and no part of the method
                spent += clock() - began

        began = clock()
        result = trainer.train(predict)
        seconds = clock() - began - spent
    client.delete_job(spec.name)
    return Run(trainer, [record.validation.accuracy for record in result.epochs], predicted, seconds)


def _config(cell: Cell, encoders: Mapping[str, str]) -> TrainingConfig:
    method, usual, decoded = cell.method, cell.usual, cell.task.public is not None
    common = {} if usual.unimodal_weight == UNIMODAL_WEIGHT else {"unimodal_weight": usual.unimodal_weight}
    rival = {} if method.rival is None else common | method.rival_parameters(cell.values)
    return TrainingConfig(
        epochs=usual.epochs,
        learning_rate=cell.values[LEARNING_RATE],
        optimiser=usual.optimiser,
        weight_decay=usual.weight_decay,
        decay_epochs=usual.decay_epochs,
        seed=cell.seed,
        workers=cell.loaders if decoded else 0,
        device="cuda" if decoded and torch.cuda.is_available() else "cpu",  # small networks are no faster on a GPU
        encoders=encoders,
        unimodal_weight=usual.unimodal_weight,
        logits=usual.logits,
        rival=method.rival,
        rival_parameters=rival,
        pull=method.pull,
        measure_first=method.measure_first,
    )


def _tested(cell: Cell, run: Run, dataset: Data) -> Kept:
    """Test accuracy of each epoch's network, and all figures of the one that is best on validation."""
    labels = dataset.labels[dataset.indices("test")]
    model = run.trainer.model
    model.load_state_dict(run.trainer.best_weights)
    return {
        "test": [float((predicted == labels).mean()) for predicted in run.predicted],
        "figures": figures(model, dataset, "test", run.trainer.device, cell.usual.logits),
    }


@cache
def _service() -> ServiceProcess:
    """The service of this process, which ends with it."""
    return ServiceProcess().start()


@cache
def _load(data: str) -> Dataset:
    return load(data)


def _data_identity(task: Task) -> dict[str, Any]:
    if task.public is not None:
        return {"data": f"{task.public}:{task.split}", "public": public.identity(task)}
    encoders = {"encoders": task.encoders} if task.encoders else {}
    return {"data": _file_identity(task.data), **encoders}


@cache
def _file_identity(data: str) -> str:
    name, _, views = Path(data).name.partition(":")
    if not name.endswith(".npz"):
        return data
    return f"{name}:{views} {digest(Path(data.removesuffix(f':{views}')))}"


@cache
def _code() -> Mapping[str, Any]:
    return {
        "kept_as": KEPT_AS,
        "trained": [shipped_judge().sha256, shipped_policy().sha256, shipped_acting_policy().sha256],
        **{package: version(package) for package in ("bss-scheduler", "torch", "numpy")},
    }
