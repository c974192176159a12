"""An existing DataLoader, turned into one whose batches the scheduler chooses."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from bss_service.protocol.jobs import JobSpec
from trainer_client.client import SchedulerClient
from trainer_client.exchange.attachment import IfExists
from trainer_client.exchange.outage import OnOutage
from trainer_client.exchange.placement import placement
from trainer_client.sampler import ScheduledBatchSampler
from trainer_client.samples.groups import GroupsOf
from trainer_client.samples.with_index import WithIndex

Loader = TypeVar("Loader", bound=DataLoader[Any])
PLAIN: Final = (RandomSampler, SequentialSampler, DistributedSampler)  # whose order may be lost
KEPT: Final = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory_device",
    "in_order",
    "snapshot_every_n_steps",  # of torchdata's
)


class IndexedCollate:
    """Makes of samples with their indices the indices (g,) and what `collate` makes of the samples."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[tuple[int, Any]]) -> tuple[Tensor, Any]:
        indices, data = zip(*samples, strict=True)
        return torch.tensor(indices, dtype=torch.int64), self.collate(list(data))


def schedule(
    loader: Loader,
    *,
    name: str,
    modalities: Sequence[str],
    url: str | SchedulerClient | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    if_exists: IfExists = "fail",
    on_outage: OnOutage = "wait",
    follows: bool = False,
    groups: GroupsOf | None = None,
    **job: Any,
) -> tuple[Loader, ScheduledBatchSampler]:
    """A DataLoader with the same data set, workers, `collate_fn` and memory, whose batches the scheduler chooses.

        loader, sampler = schedule(loader, name="run-1", modalities=["audio", "video"])
        for index, (audio, video, label) in loader:
            ...
            sampler.feedback(index, measure([audio_logits, video_logits], joint_logits, label))

    Returns it and its sampler; it gives the samples' indices (g,) with each batch. Of a DataLoader or a torchdata
    StatefulDataLoader over a map-style data set that shuffles plainly, or not at all: the sampler, its `shuffle` and
    `drop_last` count no more. Its batch_size is that of a rank.

    name, modalities, and job: fields of the JobSpec; samples, batch_size, and with an `interval` the `lag`, are the
    loader's. The others are as for ScheduledBatchSampler. Call it before a framework prepares the loader, and once the
    process group is there, or under torchrun; or say by world_size how many processes there will be, where a framework
    starts them later. Raises TypeError or ValueError for a loader that it can't take, saying what to do.
    """
    _check(loader)
    place = placement(rank, world_size)
    if "interval" in job:
        job.setdefault("lag", loader.num_workers * (loader.prefetch_factor or 0))
    spec = JobSpec(
        name=name,
        samples=len(loader.dataset),  # type: ignore[arg-type]
        modalities=modalities,
        batch_size=int(loader.batch_size or 0) * place.world_size,
        **job,
    )
    sampler = ScheduledBatchSampler(
        spec,
        url,
        rank=rank,
        world_size=place.world_size,
        if_exists=if_exists,
        on_outage=on_outage,
        follows=follows,
        groups=groups,
    )
    kept = {name: getattr(loader, name) for name in KEPT if hasattr(loader, name)}
    collate = IndexedCollate(loader.collate_fn)
    scheduled = type(loader)(WithIndex(loader.dataset), batch_sampler=sampler, collate_fn=collate, **kept)
    return scheduled, sampler


def _check(loader: Any) -> None:
    """Raises TypeError or ValueError for what can't be turned into a scheduled loader."""
    kind = type(loader)
    if kind is not DataLoader and f"{kind.__module__.split('.')[0]}.{kind.__name__}" != "torchdata.StatefulDataLoader":
        raise TypeError(
            f"loader must be a DataLoader of torch or a StatefulDataLoader of torchdata, got a {kind.__module__}."
            f"{kind.__name__}: schedule it before a framework prepares it"
        )
    if isinstance(loader.batch_sampler, ScheduledBatchSampler):
        raise ValueError("loader must not be scheduled yet, got one with a ScheduledBatchSampler")
    check_dataset(loader.dataset)
    if loader.batch_size is None:
        got = "batch_size=None" if loader.batch_sampler is None else f"a {type(loader.batch_sampler).__name__}"
        raise ValueError(f"loader must make batches by batch_size alone, got {got}, whose batches would be lost")
    check_order(loader.sampler)


def check_dataset(dataset: Any) -> None:
    """Raises TypeError unless samples can be asked for by number."""
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"loader must have a map-style data set, with a length, got a {type(dataset).__name__}: a stream is "
            "scheduled by trainer_client.integrations.streams.ScheduledStream, in place of the loader"
        )
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise TypeError(f"loader must have a map-style data set, with a length, got a {type(dataset).__name__}")


def check_order(sampler: Any) -> None:
    """Raises ValueError for an order that was made for a reason."""
    if not isinstance(sampler, PLAIN):
        raise ValueError(
            f"loader must shuffle plainly, got a {type(sampler).__name__}, whose choice would be lost: give it "
            "shuffle=True instead"
        )
