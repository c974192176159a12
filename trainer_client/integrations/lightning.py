"""Lightning: a callback that gives feedback and keeps the sampler's place in checkpoints."""

from collections.abc import Mapping
from typing import Any, Final

from lightning.pytorch.callbacks import Callback

from trainer_client.exchange.session import SOON
from trainer_client.logits.validation import ValidationMeter
from trainer_client.sampler import ScheduledBatchSampler

MEASURED: Final = "measured"
JUDGED: Final = "judged"


class BalanceScheduling(Callback):
    """For `Trainer(callbacks=[BalanceScheduling(sampler)], use_distributed_sampler=False)`, with a scheduled loader.

        loader, sampler = schedule(loader, name="run-1", modalities=["audio", "video"])
        trainer = Trainer(callbacks=[BalanceScheduling(sampler)], use_distributed_sampler=False)

        def training_step(self, batch, _):
            index, (audio, video, label) = batch
            ...
            return {"loss": loss, "measured": measure([audio_logits, video_logits], joint_logits, label)}

    What `training_step` returns as `measured` is fed back; without it the batch counts as not measured. If
    `validation_step` returns {"judged": (unimodal_logits, joint_logits, label)}, rank 0 reports each validation;
    the sanity check is passed over. Checkpoints hold the sampler's state, and `fit(ckpt_path=…)` goes on in the middle
    of an epoch. A run that ends by an exception ends the sampler in two seconds.

    With several processes start the script by torchrun, or let Lightning start them: then give `schedule` their number
    as world_size, since a loader's batches are those of a rank.
    """

    def __init__(self, sampler: ScheduledBatchSampler) -> None:
        self.sampler = sampler
        self._meter: ValidationMeter | None = None

    @property
    def state_key(self) -> str:
        """By which checkpoints tell it from other callbacks."""
        return "bss_scheduler"

    def state_dict(self) -> dict[str, Any]:
        """The sampler's."""
        return self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called before the loader's first batch is asked for."""
        self.sampler.load_state_dict(state_dict)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Lightning takes an epoch's last batch, whose step takes what gradients are left, for that of its length."""
        if self.sampler.is_last_batch:
            trainer.fit_loop.epoch_loop.batch_progress.increment_by(0, is_last_batch=True)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Feedback of the step."""
        index = _index(batch)
        self.sampler.feedback(index, outputs.get(MEASURED) if isinstance(outputs, Mapping) else None)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """A report begins."""
        self._meter = None

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Of the first loader, if there are several."""
        judged = outputs.get(JUDGED) if isinstance(outputs, Mapping) else None
        if judged is None or trainer.sanity_checking or dataloader_idx or not trainer.is_global_zero:
            return
        if self._meter is None:
            self._meter = ValidationMeter(self.sampler.spec.heads[:-1])
        self._meter.add(*judged)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """A report ends."""
        if self._meter is not None:
            self.sampler.validation(**self._meter.report())
        self._meter = None

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Nothing of the run is on its way any more."""
        self.sampler.flush()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The sampler ends with the run."""
        self.sampler.close(SOON)


def _index(batch: Any) -> Any:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            f"batch must be (index, batch), as a scheduled loader gives it, got a {type(batch).__name__}: "
            "loader, sampler = schedule(loader, …)"
        )
    return batch[0]
