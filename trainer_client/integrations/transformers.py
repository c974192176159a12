"""Hugging Face's Trainer, TRL's SFTTrainer among them: a mixin that schedules, feeds back, reports and resumes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from bss_service.protocol.jobs import JobSpec
from trainer_client.exchange.session import SOON
from trainer_client.integrations.schedule import IndexedCollate, check_dataset, check_order
from trainer_client.logits.measurement import Measurement, measure
from trainer_client.logits.sequences import measure_tokens
from trainer_client.sampler import ScheduledBatchSampler
from trainer_client.samples.with_index import WithIndex

INDEX: Final = "bss_index"  # of the batch's samples, beside the model's inputs
WHERE: Final = ("if_exists", "on_outage", "groups")  # what is the sampler's, and not the job's
STATE: Final = "bss_scheduler.pt"  # in the folder of a checkpoint


class BalanceScheduling(Trainer):
    """A Trainer whose batches the scheduler chooses; to be mixed into others: `class Mine(BalanceScheduling, Other)`.

        trainer = BalanceScheduling(model, args, train_dataset=train_set, scheduling={"name": "run-1"})

    scheduling: fields of the JobSpec but for samples and batch_size; and `url`, `if_exists`, `on_outage`, `groups`.
    Without others the job has one modality, "input", and no unimodal heads. Everything else is the Trainer's: collator,
    workers, columns, precision, processes.

    A step's outputs are measured by `measured`, which subclasses may override: logits (g, c) as classes, (g, T, V) as
    tokens of a causal model. Its order must be a plain one: for prompts that are to repeat, as GRPO's, there is
    `trainer_client.integrations.trl`. Each evaluation with an `eval_accuracy` among its metrics is reported, where the
    job has no unimodal heads.
    `train(resume_from_checkpoint=…)` goes on in the middle of an epoch. A run that ends by an exception ends the
    sampler in two seconds. Raises ValueError for `auto_find_batch_size`.
    """

    def __init__(self, *args: Any, scheduling: Mapping[str, Any], **kwargs: Any) -> None:
        self._scheduling = dict(scheduling)
        self._scheduled: Any = None  # the loader
        self.sampler: ScheduledBatchSampler | None = None  # once training has begun
        super().__init__(*args, **kwargs)
        self.add_callback(_Checkpoints(lambda: None if self.sampler is None else self._state()))

    def measured(self, inputs: Mapping[str, Any], outputs: Any) -> Measurement:
        """The signals of a step, of the model's inputs and outputs. Raises ValueError where these have no logits."""
        labels, logits = inputs.get("labels"), _logits(outputs)
        if labels is None or logits is None:
            raise ValueError(
                "outputs must have logits, and inputs labels, to be measured: override measured(inputs, outputs)"
            )
        if logits.ndim == 3:
            return measure_tokens([], logits, labels, shift=True)
        return measure([], logits, labels)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's, scheduled; each process gets its own share, so it is not prepared."""
        if self._scheduled is None:
            if self.args.auto_find_batch_size:
                raise ValueError("auto_find_batch_size must be False, got True: the batches of a job have one size")
            loader = super().get_train_dataloader()
            check_dataset(loader.dataset)
            self._check_order(loader)
            self.sampler = self._make_sampler(loader)
            self._scheduled = self._loader(loader, self.sampler)
        return self._scheduled  # type: ignore[no-any-return]  # or what looks like one

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's; of a training step the feedback too."""
        index = inputs.pop(INDEX, None)
        if index is None or self.sampler is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        given = dict(inputs)  # the Trainer may take the labels out
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.sampler.feedback(index, self.measured(given, outputs))
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The Trainer's, and a report of it."""
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        sampler, has_both = self.sampler, {"eval_loss", "eval_accuracy"} <= metrics.keys()
        if sampler is not None and has_both and len(sampler.spec.heads) == 1 and self.is_world_process_zero():
            sampler.validation(loss=metrics["eval_loss"], accuracy=metrics["eval_accuracy"])
        return metrics

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; with a checkpoint from where it was."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir or "")  # type: ignore[no-untyped-call]
        if folder:
            self.args.ignore_data_skip = True  # the sampler stands behind those batches
            self.get_train_dataloader()
            self._restore(torch.load(Path(folder) / STATE, weights_only=True))
        try:
            outcome = super().train(resume_from_checkpoint, *args, **kwargs)
        except BaseException:
            if self.sampler is not None:
                self.sampler.close(SOON)
            self._scheduled = None  # trained again, it is with another sampler
            raise
        assert self.sampler is not None
        self.sampler.flush(SOON)
        return outcome

    # Inside; what trainers have otherwise whose samples repeat.

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """The Trainer's, which takes an epoch to have the steps of the longest: `max_steps` may need more of them."""
        epochs, *others = super().set_initial_training_values(args, dataloader)
        shortest = max(1, len(dataloader) - 1)
        steps = max(1, -(-shortest // args.gradient_accumulation_steps))
        return (max(epochs, -(-args.max_steps // steps)), *others)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """The Trainer's, which takes all epochs to be of one length."""
        epochs, steps = super()._init_training_state(*args, **kwargs)
        return max(epochs, int(self.state.epoch or 0)), steps

    def _run_epoch(self, **epoch: Any) -> None:  # type: ignore[override]  # by name, as the Trainer calls it
        """The Trainer's, which tells the last accumulation of an epoch by the length: that of what is left of it."""
        left, at_once = self._left(), self.args.gradient_accumulation_steps
        epoch |= {"steps_in_epoch": left, "num_update_steps_per_epoch": -(-left // at_once)}
        super()._run_epoch(**epoch)  # type: ignore[no-untyped-call]

    def _left(self) -> int:
        """Batches of the loader until the epoch's end."""
        assert self.sampler is not None
        step = self.sampler.next_step
        calendar = self.sampler.spec.calendar()
        return calendar.epoch_start(calendar.epoch_of(step) + 1) - step

    def _make_sampler(self, loader: DataLoader[Any]) -> ScheduledBatchSampler:
        options = dict(self._scheduling)
        where: dict[str, Any] = {name: options.pop(name) for name in WHERE if name in options}
        url, world = options.pop("url", None), self.args.world_size
        return ScheduledBatchSampler(
            self._spec(loader, options), url, rank=self.args.process_index, world_size=world, **where
        )

    def _check_order(self, loader: DataLoader[Any]) -> None:
        """Raises ValueError for an order that was made for a reason."""
        batches = getattr(loader.batch_sampler, "batch_sampler", loader.batch_sampler)  # of several processes
        check_order(getattr(batches, "sampler", None))

    def _spec(self, loader: DataLoader[Any], options: dict[str, Any]) -> JobSpec:
        if "interval" in options:  # what the loader and the Trainer pull ahead
            options.setdefault("lag", self._ahead(loader) + self.args.gradient_accumulation_steps + 1)
        batch_size = self.args.per_device_train_batch_size * max(1, self.args.n_gpu) * self.args.world_size
        usual = {"modalities": ["input"], "unimodal_heads": False, "batch_size": batch_size, "seed": self.args.seed}
        return JobSpec(samples=len(loader.dataset), **{**usual, **options})  # type: ignore[arg-type]

    def _ahead(self, loader: DataLoader[Any]) -> int:
        return loader.num_workers * (loader.prefetch_factor or 0)

    def _loader(self, loader: DataLoader[Any], sampler: ScheduledBatchSampler) -> Any:
        return DataLoader(
            WithIndex(loader.dataset),
            batch_sampler=sampler,
            collate_fn=_WithIndexColumn(loader.collate_fn),
            **self._workers(loader),
        )

    def _workers(self, loader: DataLoader[Any]) -> dict[str, Any]:
        names = ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers", "worker_init_fn")
        return {name: getattr(loader, name) for name in names}

    def _state(self) -> dict[str, Any]:
        """Of a checkpoint."""
        assert self.sampler is not None
        return self.sampler.state_dict()

    def _restore(self, state: Mapping[str, Any]) -> None:
        assert self.sampler is not None
        self.sampler.load_state_dict(state)


class _Checkpoints(TrainerCallback):
    """Writes the sampler's state beside the Trainer's."""

    def __init__(self, state: Callable[[], Mapping[str, Any] | None]) -> None:
        self._state = state

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero and (saved := self._state()) is not None:
            torch.save(saved, Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE)


class _WithIndexColumn:
    """The Trainer's collation, and the samples' indices (g,) as one more column."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = IndexedCollate(collate)

    def __call__(self, samples: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        indices, columns = self._collate(samples)
        return {**columns, INDEX: indices}


def _logits(outputs: Any) -> Tensor | None:
    """Those of a model's outputs: by name, else the first that follows the loss."""
    if isinstance(outputs, Mapping):
        logits = outputs.get("logits")
    else:
        logits = outputs[1] if isinstance(outputs, tuple | list) and len(outputs) > 1 else None
    return logits if isinstance(logits, Tensor) else None
