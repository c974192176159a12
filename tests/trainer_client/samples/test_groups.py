"""One argument gives a job the groups of its samples."""

from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bss_service.protocol.jobs import JobSpec
from trainer_client import ScheduledBatchSampler, SchedulerClient
from trainer_client.integrations.schedule import schedule
from trainer_client.samples.groups import declared

NUMBERS = count()
SPEC = JobSpec(name="run", samples=4, modalities=["x"], batch_size=2)
LABELS = np.array([0] * 180 + [1] * 20)
BALANCED: dict[str, Any] = {"name": "fixed", "parameters": {"coverage": "draw", "group_balance": 1.0}}


@pytest.mark.parametrize(
    ("groups", "known", "count", "numbers"),
    [
        ([0, 2, 1, 0], None, 3, [0, 2, 1, 0]),
        (torch.tensor([0, 1, 1, 0]), None, 2, [0, 1, 1, 0]),
        (["web", "books", "web", "code"], None, ["books", "code", "web"], [2, 0, 2, 1]),
        (["web", "books", "web", "web"], ["web", "books", "code"], ["web", "books", "code"], [0, 1, 0, 0]),
        ([0, 0, 1, 0], ["web", "books", "code"], ["web", "books", "code"], [0, 0, 1, 0]),
    ],
)
def test_groups_are_numbers_or_names(groups: Any, known: Any, count: Any, numbers: list[int]) -> None:
    spec, made = declared(SPEC.model_copy(update={"groups": known}), groups)
    assert (spec.groups, made.tolist(), made.dtype) == (count, numbers, np.uint16)


@pytest.mark.parametrize(
    ("groups", "known", "error", "sentence"),
    [
        ([0, 1], None, ValueError, r"groups must be one of each of the 4 samples, got shape \(2,\)"),
        ([0, 1, 2, -1], None, ValueError, r"groups must lie in \[0, 2\], got -1 to 2"),
        ([0, 1, 2, 3], 3, ValueError, r"groups must lie in \[0, 2\], got 0 to 3"),
        ([0, 1, 2, 2**16], None, ValueError, r"groups must lie in \[0, 65535\], got 0 to 65536"),
        ([0.5, 1, 2, 3], None, TypeError, "groups must be whole numbers or names, got float64"),
        (["a", "b", "c", "d"], ["a", "b", "c"], ValueError, "groups must be of a, b, c, got 'd'"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: Any, known: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        declared(SPEC.model_copy(update={"groups": known}), groups)


def drawn_by(sampler: ScheduledBatchSampler, loader: DataLoader[Any] | None = None) -> list[int]:
    samples: list[int] = []
    for batch in sampler if loader is None else (index.tolist() for index, _ in loader):
        samples += batch
        sampler.skip(batch)
    return samples


def test_a_scheduled_loader_balances_classes_by_one_argument(client: SchedulerClient) -> None:
    loader, sampler = schedule(
        DataLoader(TensorDataset(torch.arange(200)), batch_size=20),
        name=f"groups-{next(NUMBERS)}",
        modalities=["x"],
        url=client,
        groups=LABELS,
        policy=BALANCED,
    )
    with sampler:
        assert LABELS[drawn_by(sampler, loader)].mean() == pytest.approx(0.5, abs=0.2)
        assert client.job(sampler.spec.name).spec.groups == 2


@pytest.mark.parametrize("if_exists", ["new", "resume"])
def test_a_run_brings_its_groups_however_it_takes_its_place(client: SchedulerClient, if_exists: Any) -> None:
    spec = JobSpec(
        name=f"groups-{next(NUMBERS)}", samples=200, modalities=["x"], batch_size=20, policy=BALANCED, interval=5
    )
    for number in range(2):
        groups = LABELS if number == 0 else 1 - LABELS
        with ScheduledBatchSampler(spec, client, if_exists=if_exists, groups=groups, rank=0, world_size=1) as sampler:
            iterator = iter(sampler)
            for _ in range(5):
                sampler.skip(next(iterator))
            assert client.set_groups(sampler.spec.name, groups.astype(np.uint16)).outcome == "repeated"


def test_several_ranks_send_them_once_and_draw_together(client: SchedulerClient) -> None:
    spec = JobSpec(name=f"groups-{next(NUMBERS)}", samples=200, modalities=["x"], batch_size=20, policy=BALANCED)
    ranks = [ScheduledBatchSampler(spec, client, rank=rank, world_size=2, groups=LABELS) for rank in (0, 1)]
    first, second = (next(iter(rank)) for rank in ranks)
    together = client.batches(spec.name, 0).indices[0].tolist()
    assert first + second == together
    for rank in ranks:
        rank.close(0.1)
