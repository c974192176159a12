"""The reference training loop: a late-fusion network whose samples the scheduler chooses."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bss_service.core.arrays import Int64
from bss_service.core.signals import EVIDENCE
from bss_service.protocol.jobs import JobSpec
from trainer_client.exchange.outage import OnOutage
from trainer_client.exchange.prefetch import ScheduledBatch
from trainer_client.logits.confusion import ConfusionMeter
from trainer_client.logits.losses import Pull, multimodal_loss, weighted
from trainer_client.logits.measurement import measure
from trainer_client.reference.checkpoint import read_checkpoint, write_checkpoint
from trainer_client.reference.data import Data
from trainer_client.reference.evaluation import Evaluation, Logits, evaluate, measuring_pass
from trainer_client.reference.model import LateFusion, build_model
from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals import Heads, Rival, Run, create_rival
from trainer_client.sampler import ScheduledBatchSampler
from trainer_client.samples.with_index import WithIndex

Optimiser = Literal["adam", "sgd"]
UNIMODAL_WEIGHT: Final = 0.5  # λ of the joint loss: the paper's form
DECAY: Final = 0.1  # of the learning rate, where it decays


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a run trains; with the job's spec, all that its result depends on."""

    epochs: int = 25
    learning_rate: float = 1e-3
    optimiser: Optimiser = "adam"
    weight_decay: float = 0.0  # of the optimiser, as part of the gradient
    decay_epochs: int | None = None  # the rate is a tenth after every so many; None: it stays
    seed: int = 0  # of the initial weights
    workers: int = 0
    device: str = "cpu"
    fusion: str = "concat"  # or sum, film, gated
    encoders: Mapping[str, str] = field(default_factory=dict)  # by modality; the others are small
    unimodal_weight: float = UNIMODAL_WEIGHT  # λ of ℓ = (1 − λ)·CE_joint + λ·Σ_j CE_j; a rival has its own
    logits: Logits = "joint"  # which predict in validation and test; or "sum", or "unimodal"
    rival: str | None = None  # another method, by name, on the scheduler's batches
    rival_parameters: Mapping[str, Any] = field(default_factory=dict)  # its hyper-parameters
    pull: bool = False  # whether heads are drawn towards what they said before, where the policy asks for it
    measure_first: bool = False  # a measuring pass over the training set before the first step
    checkpoint: Path | None = None  # written after every epoch, and every `checkpoint_every` steps
    checkpoint_every: int = 0
    on_outage: OnOutage = "wait"

    def __post_init__(self) -> None:
        """Raises ValueError for a wrong weight, decay or rival, a wrong parameter of it, or a pull beside it."""
        if not 0 <= self.unimodal_weight <= 1:
            raise ValueError(f"unimodal_weight must be at least 0 and at most 1, got {self.unimodal_weight}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if self.decay_epochs is not None and self.decay_epochs < 1:
            raise ValueError(f"decay_epochs must be at least 1, got {self.decay_epochs}")
        if self.rival is None:
            return
        create_rival(self.rival, self.rival_parameters)
        if self.pull:
            raise ValueError(f"pull must be off beside a rival, whose loss knows none, got rival {self.rival!r}")


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch came to."""

    epoch: int
    step: int  # steps trained so far
    policy_version: int  # of the epoch's last batch
    validation: Evaluation


@dataclass(slots=True)
class TrainingResult:
    """What a run came to. The test set is looked at once, with the weights of the best validation epoch."""

    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = -1
    test: Evaluation | None = None
    seconds: float = 0.0
    extra_forward_samples: int = 0  # passed through the model for the scheduler's sake alone
    worst_wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a watcher of the loop is told after each step."""

    batch: ScheduledBatch
    loss: Tensor  # of the batch, on the device


class Samples(TorchDataset[tuple[list[Tensor], Tensor]]):
    """The training samples of a data set, numbered from 0."""

    def __init__(self, dataset: Data) -> None:
        self._dataset, self._indices = dataset, dataset.indices("train")
        self._labels = torch.from_numpy(dataset.labels)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> tuple[list[Tensor], Tensor]:
        index = self._indices[number : number + 1]
        return [values[0] for values in self._dataset.inputs(index)], self._labels[index[0]]


class Trainer:
    """One run: model, optimiser, scheduled sampler, and where it is."""

    def __init__(self, dataset: Data, sampler: ScheduledBatchSampler, config: TrainingConfig) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.config = config
        self.device = torch.device(config.device)
        self.model = build_model(dataset, config.seed, config.fusion, config.encoders).to(self.device)
        self.rival = self._rival()
        groups = self.model.parameters() if self.rival is None else self.rival.parameter_groups()
        self.optimiser = _optimiser(groups, config)
        self.passes = Passes(dataset, self.device, sampler.spec.batch_size)
        self.pull = _pull(dataset) if config.pull else None
        self.step = 0
        self.policy_version = 0  # of the latest batch
        self.result = TrainingResult()
        self.best_weights: dict[str, Tensor] = {}
        self.forward_samples = 0  # counted by the model itself, whoever calls it
        self.model.register_forward_hook(self._count_forward)
        self._expected_forward_samples = 0  # those that training and evaluation need anyway
        self._stop = False

    def stop(self) -> None:
        """End after the current step, with a checkpoint; safe to call from a signal handler.

        A wait for the scheduler ends too, and the sampler with it.
        """
        self._stop = True
        self.sampler.interrupt()

    def train(self, watch: Callable[[StepRecord], None] = lambda record: None) -> TrainingResult:
        """Train to the end, or until `stop` is called; goes on from the checkpoint if there is one."""
        started = time.monotonic()
        loader = self._loader()
        if self.config.checkpoint is not None and self.config.checkpoint.exists():
            self.load_state_dict(read_checkpoint(self.config.checkpoint))
        else:
            self._begin()
        while not self._stop and len(self.result.epochs) < self.config.epochs:
            self._epoch(len(self.result.epochs), loader, watch)
        self._save()
        if len(self.result.epochs) == self.config.epochs:
            self._test()
        self.result.seconds += time.monotonic() - started
        self.result.worst_wait_seconds = self.sampler.stats.worst_wait_seconds
        self.result.extra_forward_samples = self.forward_samples - self._expected_forward_samples
        return self.result

    def _rival(self) -> Rival | None:
        """The rival, which may have changed the model's heads."""
        if self.config.rival is None:
            return None
        rival = create_rival(self.config.rival, self.config.rival_parameters)
        rival.start(
            Run(
                model=self.model,
                samples=len(self.dataset.indices("train")),
                classes=len(self.dataset.classes),
                epochs=self.config.epochs,
                seed=self.config.seed,
                fresh=self._fresh_model,
                optimiser=partial(_optimiser, config=self.config),
            )
        )
        return rival

    def _fresh_model(self) -> LateFusion:
        """Another network like the one at the start, whose forward passes are counted too."""
        config = self.config
        model = build_model(self.dataset, config.seed, config.fusion, config.encoders).to(self.device)
        model.register_forward_hook(self._count_forward)
        return model

    def _loader(self) -> "DataLoader[Any]":
        return DataLoader(
            WithIndex(Samples(self.dataset)),
            batch_sampler=self.sampler,
            num_workers=self.config.workers,
            persistent_workers=self.config.workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def _begin(self) -> None:
        """Before the first step: the measuring pass if one is wanted, and a report for the first gain to start from."""
        if self.config.measure_first:
            train = self.dataset.indices("train")
            measured = measuring_pass(self.model, self.dataset, train, self.device, self.config.unimodal_weight)
            self.sampler.scores(np.arange(len(train)), measured)
        self._report(self._validate())

    def _epoch(self, epoch: int, loader: "DataLoader[Any]", watch: Callable[[StepRecord], None]) -> None:
        """Train what is left of an epoch and, unless stopped before its last step, close it."""
        end = self.sampler.spec.calendar().epoch_start(epoch + 1)
        if self.step < end:
            self._set_rate(epoch)
            if self.rival is not None:
                self.rival.begin_epoch(epoch, self.passes)
            self.model.train()
            for index, (inputs, labels) in loader:
                batch = self.sampler.batch_of(index)
                loss = self._train_step(batch, index, inputs, labels)
                self.policy_version = batch.policy_version
                self.step = batch.step + 1
                watch(StepRecord(batch, loss))
                if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                    self._save()
                if self._stop:
                    break
            if self.step < end:
                return
        validation = self._validate()
        self._report(validation)
        self.result.epochs.append(EpochRecord(epoch, self.step, self.policy_version, validation))
        self._keep_best(validation)
        self._save()

    def _set_rate(self, epoch: int) -> None:
        """As of the epoch alone, so that who resumes within it comes to the same."""
        if self.config.decay_epochs is not None:
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.learning_rate * DECAY ** (epoch // self.config.decay_epochs)

    def _train_step(self, batch: ScheduledBatch, index: Tensor, inputs: list[Tensor], labels: Tensor) -> Tensor:
        rows = None if self.rival is None else self.rival.rows(batch)
        if rows is not None:
            inputs, labels = [x[rows] for x in inputs], labels[rows]
        inputs = [x.to(self.device, non_blocking=True) for x in inputs]
        labels = labels.to(self.device, non_blocking=True)
        self._expected_forward_samples += len(labels)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            unimodal, joint, features = self.model(inputs)
        part = batch if rows is None else batch.part(rows.numpy())
        loss = self._update(Heads(unimodal, joint, features, part), labels, batch, rows)
        measured: Mapping[str, Tensor] = measure(unimodal, joint, labels, unimodal_weight=self.config.unimodal_weight)
        if rows is not None:
            measured = {name: _spread(values, rows, len(index), torch.nan) for name, values in measured.items()}
        self.sampler.feedback(index, measured)
        return loss

    def _update(self, heads: Heads, labels: Tensor, batch: ScheduledBatch, rows: Tensor | None) -> Tensor:
        """One update of the weights by the rows of a batch that are trained on; the loss, detached."""

        def weigh(losses: Tensor) -> Tensor:
            return weighted(_spread(losses, rows, len(batch.indices)), batch)

        if self.rival is not None:
            return self.rival.step(heads, labels, weigh, self.optimiser)
        losses = multimodal_loss(
            heads.unimodal,
            heads.joint,
            labels,
            unimodal_weight=self.config.unimodal_weight,
            batch=batch,
            pull=self.pull,
        )
        loss = weigh(losses)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()

    def _validate(self) -> Evaluation:
        indices = self.dataset.indices("validation")
        self._expected_forward_samples += len(indices)
        self._confusion = ConfusionMeter()
        return self._evaluated(indices, self._confusion)

    def _evaluated(self, indices: Int64, confusion: ConfusionMeter | None = None) -> Evaluation:
        weight, logits = self.config.unimodal_weight, self.config.logits
        return evaluate(self.model, self.dataset, indices, self.device, weight, confusion, logits)

    def _report(self, report: Evaluation) -> None:
        self.sampler.validation(
            step=self.step,
            loss=report.loss,
            accuracy=report.accuracy,
            modalities=report.modalities,
            confusion=self._confusion,
        )

    def _keep_best(self, validation: Evaluation) -> None:
        best = max((r.validation.accuracy for r in self.result.epochs[:-1]), default=-1.0)
        if validation.accuracy > best:
            self.result.best_epoch = self.result.epochs[-1].epoch
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _test(self) -> None:
        last = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.best_weights or last)
        indices = self.dataset.indices("test")
        self._expected_forward_samples += len(indices)
        self.result.test = self._evaluated(indices)
        self.model.load_state_dict(last)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on."""
        return {
            "step": self.step,
            "policy_version": self.policy_version,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "sampler": self.sampler.state_dict(),
            "pull": {} if self.pull is None else self.pull.state_dict(),
            "rival": None if self.rival is None else {"name": self.config.rival, "memory": self.rival.state_dict()},
            "best_weights": self.best_weights,
            "best_epoch": self.result.best_epoch,
            "epochs": [asdict(record) for record in self.result.epochs],
            "seconds": self.result.seconds,
            "forward_samples": [self.forward_samples, self._expected_forward_samples],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises ValueError for that of another rival."""
        rival = state.get("rival") or {"name": None}  # a checkpoint of an earlier version has none
        if rival["name"] != self.config.rival:
            raise ValueError(f"rival must be {rival['name']}, as in the checkpoint, got {self.config.rival}")
        if self.rival is not None:
            self.rival.load_state_dict(rival["memory"])
        self.step = state["step"]
        self.policy_version = state["policy_version"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.sampler.load_state_dict(state["sampler"])
        if self.pull is not None:
            self.pull.load_state_dict(state.get("pull", {}))  # a checkpoint of an earlier version has none
        self.best_weights = {name: value.to(self.device) for name, value in state["best_weights"].items()}
        self.result.best_epoch = state["best_epoch"]
        self.result.epochs = [
            EpochRecord(**{**record, "validation": Evaluation(**record["validation"])}) for record in state["epochs"]
        ]
        self.result.seconds = state["seconds"]
        self.forward_samples, self._expected_forward_samples = state["forward_samples"]

    def _save(self) -> None:
        if self.config.checkpoint is not None:
            write_checkpoint(self.config.checkpoint, self.state_dict())

    def _count_forward(self, module: torch.nn.Module, inputs: tuple[list[Tensor]], output: object) -> None:
        self.forward_samples += len(inputs[0][0])


def job_spec(name: str, dataset: Data, *, batch_size: int, epochs: int, **fields: Any) -> JobSpec:
    """The job of a run over a data set's training samples; `fields` are those of JobSpec.

    It sends all of evidence, and weighs its losses.
    """
    fields = {"signals": EVIDENCE, "weighted": True, **fields}
    samples = len(dataset.indices("train"))
    spec = JobSpec(name=name, samples=samples, modalities=list(dataset.modalities), batch_size=batch_size, **fields)
    return spec.model_copy(update={"horizon": spec.calendar().epoch_start(epochs)})


def _pull(dataset: Data) -> Pull:
    return Pull(len(dataset.indices("train")), len(dataset.classes), heads=len(dataset.modalities) + 1)


def _optimiser(parameters: Iterable[Any], config: TrainingConfig) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)


def _spread(values: Tensor, rows: Tensor | None, samples: int, absent: float = 0.0) -> Tensor:
    """Values (k, …) of the rows of a batch as those of all its samples, (g, …)."""
    if rows is None:
        return values
    spread = values.new_full((samples, *values.shape[1:]), absent)
    return spread.index_copy(0, rows.to(values.device), values)
