"""Internal: which rank of how many this process is, and which rows of each batch are its own."""

import os
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np

from bss_service.core.arrays import Int64
from trainer_client.errors import DoubleShardingError


class Placement(NamedTuple):
    """One of W data-parallel ranks; rank r owns the rows [r·G/W, (r+1)·G/W) of each batch."""

    rank: int
    world_size: int

    def rows(self, indices: Int64) -> Int64:
        """Its rows (G/W,) of a batch (G,)."""
        share = len(indices) // self.world_size
        return indices[self.rank * share : (self.rank + 1) * share]


def placement(rank: int | None = None, world_size: int | None = None) -> Placement:
    """Where this process is: as given, else what torch.distributed says, else RANK and WORLD_SIZE, else 0 of 1.

    world_size alone: how many there will be; until they are there the rank passes for 0.
    """
    if rank is not None and world_size is None:
        raise ValueError(f"rank must be given together with world_size, got {rank} alone")
    here = _ambient()
    if rank is not None and world_size is not None:
        place = Placement(rank, world_size)
    else:
        place = here if world_size in (None, here.world_size) else Placement(0, int(world_size or 0))
    if not 0 <= place.rank < place.world_size:
        raise ValueError(f"rank must be at least 0 and less than world_size = {place.world_size}, got {place.rank}")
    return place


def follower(batch_size: int) -> Placement:
    """As what a process asks for batches whose rank another one is.

    As one of as many ranks as there are rows, but never as rank 0: only that rank's asking has an interval drawn, which
    it does not do before it has reported. Not all as the same one, of which the service holds but a few.
    """
    return Placement(1 + _ambient().rank % (batch_size - 1), batch_size)


def check_world_size(world_size: int) -> None:
    """Raises ValueError where this process is not one of so many."""
    if (now := _ambient().world_size) != world_size:
        raise ValueError(
            f"world_size must be that of the process group, {now} by now, got {world_size}: create the sampler after "
            f"torch.distributed's process group, or give it world_size={now}"
        )


def is_launched() -> bool:
    """Whether torchrun or Lightning started this process: then its process group may come after the sampler."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ


def warn_if_stray(place: Placement, batch_size: int) -> None:
    """Say so where the environment alone makes this one rank of several: it may be left over from elsewhere."""
    if _ambient().world_size == 1 or _process_group():
        return
    warnings.warn(
        f"WORLD_SIZE is {place.world_size} in the environment, and there is no process group: this sampler "
        f"takes the share of rank {place.rank} of {place.world_size}, {batch_size // place.world_size} of the "
        f"{batch_size} samples of each batch. If this process trains alone, unset WORLD_SIZE and RANK; else create the "
        "sampler after torch.distributed.init_process_group, or give it rank and world_size",
        stacklevel=4,
    )


def _process_group() -> Any:
    """torch.distributed where it has a process group; a trainer without torch has none, and needs no torch here."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


def _ambient() -> Placement:
    if group := _process_group():
        return Placement(group.get_rank(), group.get_world_size())
    return Placement(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def positions(indices: Int64, batch: Int64) -> Int64 | None:
    """Where some of a batch's samples (k,) stand in it, each place once; None if it has not all of them."""
    places: dict[int, list[int]] = {}
    for place, sample in enumerate(batch.tolist()):
        places.setdefault(sample, []).insert(0, place)
    matched = [places[sample].pop() for sample in indices.tolist() if places.get(sample)]
    return np.array(matched, dtype=np.int64) if len(matched) == len(indices) else None


def double_sharding(sign: str) -> DoubleShardingError:
    """The error of batches that are about to be shared out once more, with what it was noticed by."""
    return DoubleShardingError(
        f"this sampler yields its rank's share of each batch already, but {sign}: keep the DataLoader out of "
        "Accelerate's prepare(…), and give Lightning's Trainer use_distributed_sampler=False"
    )
