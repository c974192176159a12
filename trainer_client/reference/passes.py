"""Passes over a data set beside the scheduled training, of which the scheduler is told nothing."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from trainer_client.reference.data import Data
from trainer_client.reference.evaluation import to_device

Batch = tuple[Tensor, list[Tensor], Tensor]
"""Sample numbers (g,) int64, the inputs (g, …) of each modality, labels (g,)."""


class Passes:
    """Iterating it passes over the training samples once, in their order."""

    def __init__(self, dataset: Data, device: torch.device, batch_size: int) -> None:
        self._dataset = dataset
        self._device = device
        self._batch_size = batch_size

    def __len__(self) -> int:
        """Training samples."""
        return len(self._dataset.indices("train"))

    def __iter__(self) -> Iterator[Batch]:
        return self._split("train", np.arange(len(self)))

    def shuffled(self, *seed: int) -> Iterator[Batch]:
        """One pass over the training samples in an order that follows from the numbers alone."""
        return self._split("train", np.random.default_rng(seed).permutation(len(self)))

    def validation(self) -> Iterator[Batch]:
        """One pass over the validation samples."""
        return self._split("validation", np.arange(len(self._dataset.indices("validation"))))

    def _split(self, split: str, numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Iterator[Batch]:
        indices = self._dataset.indices(split)
        for part in np.array_split(numbers, range(self._batch_size, len(numbers), self._batch_size)):
            inputs, labels = to_device(self._dataset, indices[part], self._device)
            yield torch.from_numpy(part), inputs, labels
