"""A dataset whose samples say which they are."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset


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
