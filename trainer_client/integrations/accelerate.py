"""Accelerate: a loader that needs no `prepare`, and a place in its checkpoints."""

from collections.abc import Iterator, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import DataLoaderStateMixin
from accelerate.state import GradientState
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from trainer_client.integrations.schedule import schedule
from trainer_client.sampler import ScheduledBatchSampler


class PreparedLoader(DataLoaderStateMixin):  # type: ignore[misc]  # Accelerate has no types
    """A scheduled DataLoader whose batches come on the accelerator's device; what `prepare` would make of it.

    It gives each process its own share already, so it is to be kept out of `prepare`, which leaves it alone. By it
    `accelerator.accumulate` knows the last batch of an epoch, whose step takes what gradients are left.
    """

    def __init__(self, loader: DataLoader[Any], sampler: ScheduledBatchSampler, accelerator: Accelerator) -> None:
        self.loader = loader
        self.gradient_state = GradientState()
        self._sampler, self._accelerator = sampler, accelerator

    def __iter__(self) -> Iterator[Any]:
        self.begin()
        try:
            for index, batch in self.loader:
                self.end_of_dataloader = self._sampler.is_last_batch
                yield index, send_to_device(batch, self._accelerator.device, non_blocking=True)
        finally:
            self.end()

    def __len__(self) -> int:
        return len(self.loader)


def schedule_prepared(
    loader: DataLoader[Any], accelerator: Accelerator, *, name: str, modalities: Sequence[str], **options: Any
) -> tuple[PreparedLoader, ScheduledBatchSampler]:
    """What `schedule` gives, for one process or many, in place of `accelerator.prepare(loader)`.

        loader, sampler = schedule_prepared(loader, accelerator, name="run-1", modalities=["audio", "video"])
        model, optimiser = accelerator.prepare(model, optimiser)
        for index, (audio, video, label) in loader:
            ...
            sampler.feedback(index, measure([audio_logits, video_logits], joint_logits, label))

    options: as for `schedule`. loader's batch_size is that of a process. The sampler's state is part of
    `accelerator.save_state` and `load_state`; leave `skip_first_batches` out: it would skip twice.
    """
    scheduled, sampler = schedule(
        loader,
        name=name,
        modalities=modalities,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        **options,
    )
    accelerator.register_for_checkpointing(sampler)
    return PreparedLoader(scheduled, sampler, accelerator), sampler
