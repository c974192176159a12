"""One training run of a suite, as a function of plain values. Training never sees the labels of the test set."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from bss_service.policies.shipped import shipped_acting_policy, shipped_judge, shipped_policy
from bss_service.protocol.policies import PolicySpec
from bss_service.testing import ServiceProcess
from envs.research.actors import likeliest
from envs.research.suite.metrics import accuracy, figures
from envs.research.suite.spec import LEARNING_RATE, LIKELIEST, Method, Task, Values, digest
from trainer_client.client import SchedulerClient
from trainer_client.reference.data import Dataset, corrupt, load
from trainer_client.reference.training import StepRecord, Trainer, TrainingConfig, job_spec
from trainer_client.sampler import ScheduledBatchSampler

KEPT_AS: Final = 1  # version of what is kept of a cell
TUNING_SEED: Final = 1000  # none of the paired ones
Kept = dict[str, Any]  # what a cell came to, as JSON values


@dataclass(frozen=True, slots=True)
class Cell:
    """A run to be made."""

    task: Task
    method: Method
    values: Values  # of what is tuned
    seed: int
    epochs: int
    batch_size: int
    optimiser: str
    tested: bool  # whether the test set is looked at when training is over

    @property
    def identity(self) -> dict[str, Any]:
        """All that its result depends on."""
        task = self.task.model_dump(exclude={"data"}) | {"data": _data_identity(self.task.data)}
        method = self.method.model_dump(mode="json", exclude={"file", "tune"})
        return {
            "task": task,
            "method": method | {"file": self.method.file and digest(self.method.file)},
            "values": dict(self.values),
            "seed": self.seed,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimiser": self.optimiser,
            "tested": self.tested,
            "code": _code(),
        }


def run_cell(cell: Cell) -> Kept:
    """Train, choose the epoch by validation accuracy, and only then, where the cell says so, open the test set.

    Accuracies are shares. The processor's seconds are the only figures that another run of the cell would not repeat.
    """
    torch.set_num_threads(1)
    cell.method.register()
    dataset = _given(cell)
    weights: list[dict[str, Tensor]] = []
    with SchedulerClient(_service().url) as client:
        trainer, validation, seconds = _train(cell, dataset, client, weights)
    kept: Kept = {
        "validation": validation,
        "epoch": int(np.argmax(validation)),
        "forward_samples": trainer.forward_samples - len(dataset.indices("test")),
        "extra_forward_samples": trainer.result.extra_forward_samples,
        "seconds": round(seconds, 3),
    }
    return kept | _tested(trainer, dataset, weights, kept["epoch"]) if cell.tested else kept


def blind(dataset: Dataset) -> Dataset:
    """The data set without the labels of its test samples, all of which are of the first class now."""
    labels = dataset.labels.copy()
    labels[dataset.indices("test")] = 0
    return replace(dataset, labels=labels)


def _given(cell: Cell) -> Dataset:
    """The samples of a seed, harmed as the task says: the same for every method."""
    whole = _load(cell.task.data)
    training = np.random.default_rng([cell.seed, 1]).permutation(whole.indices("train"))
    part = whole.with_training(np.sort(training[: cell.task.samples]))
    return corrupt(part, seed=cell.seed, **cell.task.harm).dataset  # type: ignore[arg-type]  # shares


def _train(
    cell: Cell, dataset: Dataset, client: SchedulerClient, weights: list[dict[str, Tensor]]
) -> tuple[Trainer, list[float], float]:
    """The trainer when all is done, validation accuracy after each epoch, and seconds of this process.

    weights: gets those after each epoch, where the test set is to be looked at.
    """
    method, values = cell.method, cell.values
    parameters = method.tuned_policy(values)
    if parameters.get("judge") == LIKELIEST:
        client.upload_judge(likeliest().data)
        parameters["judge"] = likeliest().sha256
    spec = job_spec(
        f"cell-{uuid4().hex}",
        dataset,
        batch_size=cell.batch_size,
        epochs=cell.epochs,
        seed=cell.seed,
        policy=PolicySpec(name=method.policy, parameters=parameters),
    )
    config = TrainingConfig(
        epochs=cell.epochs,
        learning_rate=values[LEARNING_RATE],
        optimiser=cell.optimiser,  # type: ignore[arg-type]  # checked by the suite
        seed=cell.seed,
        rival=method.rival,
        rival_parameters=method.rival_parameters(values),
        pull=method.pull,
        measure_first=method.measure_first,
    )
    ends = {spec.calendar().epoch_start(epoch + 1) for epoch in range(cell.epochs)}
    with ScheduledBatchSampler(spec, client) as sampler:
        trainer = Trainer(blind(dataset), sampler, config)

        def keep(record: StepRecord) -> None:
            if cell.tested and record.batch.step + 1 in ends:
                weights.append({name: value.detach().clone() for name, value in trainer.model.state_dict().items()})

        began = time.process_time()
        result = trainer.train(keep)
        seconds = time.process_time() - began
    client.delete_job(spec.name)
    return trainer, [record.validation.accuracy for record in result.epochs], seconds


def _tested(trainer: Trainer, dataset: Dataset, weights: list[dict[str, Tensor]], chosen: int) -> Kept:
    """Test accuracy of each epoch's network, and all figures of the chosen one."""
    test = []
    for epoch in weights:
        trainer.model.load_state_dict(epoch)
        test.append(accuracy(trainer.model, dataset, "test", trainer.device))
    trainer.model.load_state_dict(weights[chosen])
    return {"test": test, "figures": figures(trainer.model, dataset, "test", trainer.device)}


@cache
def _service() -> ServiceProcess:
    """The service of this process, which ends with it."""
    return ServiceProcess().start()


@cache
def _load(data: str) -> Dataset:
    return load(data)


@cache
def _data_identity(data: str) -> str:
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
