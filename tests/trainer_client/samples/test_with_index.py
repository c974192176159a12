"""What must be given as the index of a batch."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.simulated import spec
from trainer_client import ScheduledBatchSampler, SchedulerClient, WithIndex
from trainer_client.samples.with_index import rows_of


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([3, 1]),
        torch.tensor([3, 1], dtype=torch.int32),
        [3, 1],
        (3, 1),
        np.array([3, 1], np.uint16),
        [torch.tensor(3), torch.tensor(1)],
    ],
    ids=repr,
)
def test_whatever_holds_integers_is_an_index(index: Any) -> None:
    rows = rows_of(index)
    assert (rows.dtype, rows.tolist()) == (np.int64, [3, 1])


def test_one_sample_is_a_batch_of_one() -> None:
    assert rows_of(torch.tensor(7)).tolist() == [7]


@pytest.mark.parametrize(
    ("index", "got"),
    [
        (torch.zeros(8, 3), r"float32 of shape \(8, 3\)"),
        (torch.zeros(8), r"float32 of shape \(8,\)"),
        (torch.zeros(8, 1, dtype=torch.int64), r"int64 of shape \(8, 1\)"),
        (torch.ones(8, dtype=torch.bool), r"bool of shape \(8,\)"),
        ([torch.zeros(8, 3), torch.zeros(8)], "a list of Tensor"),
        ([torch.zeros(8, 3), torch.zeros(8, 3)], "a list of Tensor"),
        ([torch.zeros(8, 3, requires_grad=True)], "a list of Tensor"),
        ({"audio": torch.zeros(8, 3)}, "a dict"),
        (("a", "b"), "a tuple of str"),
        (None, "a NoneType"),
    ],
)
def test_anything_else_is_answered_with_the_line_that_is_missing(index: Any, got: str) -> None:
    with pytest.raises(
        TypeError, match=rf"index must be the integers .* got {got}: .*DataLoader\(WithIndex\(dataset\)"
    ):
        rows_of(index)


def test_a_loop_without_with_index_is_told_so(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        next(iter(sampler))
        for forgotten in (torch.rand(8, 3), [torch.rand(8, 3), torch.rand(8)]):
            with pytest.raises(TypeError, match="WithIndex"):
                sampler.feedback(forgotten)  # type: ignore[arg-type]


def test_each_sample_comes_with_its_index() -> None:
    samples: Any = ["a", "b", "c"]
    assert WithIndex(samples).__getitems__([2, 0]) == [(2, "c"), (0, "a")]
    assert WithIndex(samples)[1] == (1, "b")
