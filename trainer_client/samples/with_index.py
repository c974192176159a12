"""A dataset whose samples say which they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from bss_service.core.arrays import Int64


class WithIndex(Dataset[tuple[int, Any]]):
    """A dataset that gives each sample together with its index, so that feedback finds its batch."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, Any]]:
        """All samples of a batch in one call, where the dataset can do that."""
        batched = getattr(self.dataset, "__getitems__", None)
        samples = batched(indices) if batched is not None else [self.dataset[index] for index in indices]
        return list(zip(indices, samples, strict=True))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


def rows_of(index: Tensor | Sequence[int] | Int64) -> Int64:
    """The sample indices (g,) of a batch as an array. Raises TypeError for anything that `WithIndex` does not give."""
    try:
        rows = np.atleast_1d(np.asarray(index.cpu() if isinstance(index, Tensor) else index))
    except (TypeError, ValueError, RuntimeError):  # tensors of unequal shapes, such as a whole batch
        raise _no_index(index) from None
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
        raise _no_index(index)
    return rows.astype(np.int64, copy=False)


def _no_index(index: Any) -> TypeError:
    got = f"a {type(index).__name__}"
    if isinstance(index, Tensor | np.ndarray):
        got = f"{str(index.dtype).removeprefix('torch.')} of shape {tuple(index.shape)}"
    elif isinstance(index, list | tuple) and index:
        got = f"a {type(index).__name__} of {type(index[0]).__name__}"
    return TypeError(
        f"index must be the integers (g,) that WithIndex gives with each batch, got {got}: is it missing? "
        "loader = DataLoader(WithIndex(dataset), batch_sampler=sampler), and in the loop `for index, batch in loader`"
    )
