"""torchtitan: a scheduled DataLoader with the methods of its `BaseDataLoader`."""

import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch.distributed.checkpoint.stateful import Stateful
from torch.utils.data import DataLoader

from trainer_client.sampler import ScheduledBatchSampler

SAMPLER: Final = "sampler"


class ScheduledDataLoader(Stateful):
    """What a scheduled DataLoader gives, epoch after epoch; its state has a place in distributed checkpoints.

        loader, sampler = schedule(loader, name="run-1", modalities=["text"], **rank_in(mesh, "dp"))
        dataloader = ScheduledDataLoader(loader, sampler)
        dcp.save({"model": model, "dataloader": dataloader}, checkpoint_id=folder)

    It gives (index, batch); `sampler.feedback(index, …)` is for the training step. The state is the same in every
    process, so that a run may go on with another number of data-parallel ranks.
    """

    def __init__(self, loader: DataLoader[Any], sampler: ScheduledBatchSampler) -> None:
        self.loader, self.sampler = loader, sampler

    def __iter__(self) -> Iterator[Any]:
        """Batches without end; it ends when the sampler was interrupted."""
        goes_on = True
        while goes_on:
            goes_on = False
            for batch in self.loader:
                goes_on = True
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """The sampler's, in one piece: a distributed checkpoint takes lists and dictionaries apart."""
        packed = io.BytesIO()
        torch.save(self.sampler.state_dict(), packed)
        return {SAMPLER: packed.getvalue()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state; from an empty one at the start."""
        if state_dict:
            self.sampler.load_state_dict(torch.load(io.BytesIO(state_dict[SAMPLER]), weights_only=True))

    def close(self) -> None:
        """Send what is queued, and end the sampler."""
        self.sampler.close()
