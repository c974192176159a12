"""Samples as a map-style data set of PyTorch, and as the trainer takes them: decoded when asked for, not before."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainer_client.reference.data.dataset import SPLITS, Indices, check_classes, check_split, indices_of

from .folder import Index
from .media import Decoding, LogMel

DECODERS: Final = 4  # threads that decode what is asked for at a time; pictures and sound leave them to run at once


class MediaDataset(Dataset[tuple[dict[str, Tensor], int]]):
    """The samples of one split, numbered from 0 in the order of the annotations: ({modality: tensor}, label).

    Shapes are those of `Decoding`, one for all samples of a modality, features of others excepted, so that
    the usual collation makes batches. A file that can't be read raises BrokenFileError with its name; `verify` finds
    all.
    """

    def __init__(self, index: Index, split: str, decoding: Decoding | None = None) -> None:
        check_split(split)
        self.samples = [sample for sample in index.samples if sample.split == split]
        self.decoding = decoding or Decoding(audio=LogMel(seconds=index.clip_seconds))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[dict[str, Tensor], int]:
        sample = self.samples[number]
        return {modality: self.decoding(medium) for modality, medium in sample.media.items()}, sample.label


class Media:
    """All samples of an index as the trainer takes them; `Decoding` says what media become.

    Raises ValueError where there are fewer than two modalities or classes, or where a split has no sample. Shapes are
    those of the first sample: one of another shape raises ValueError with its name once it is asked for.
    """

    at_once = 64  # films are large

    def __init__(self, index: Index, decoding: Decoding | None = None) -> None:
        check_classes(index.classes)
        for split, count in index.counts().items():
            if not count:
                raise ValueError(f"{index.name} must have at least one {split} sample, got none in {index.root}")
        if len(index.modalities) < 2:
            raise ValueError(f"modalities must be at least 2, got {list(index.modalities)}")
        self.name, self.classes = index.name, index.classes
        self.decoding = decoding or Decoding(audio=LogMel(seconds=index.clip_seconds))
        self.labels: Indices = np.array([sample.label for sample in index.samples], np.int64)
        self._keys = [sample.key for sample in index.samples]
        self._media = [sample.media for sample in index.samples]
        self._split = np.array([SPLITS.index(sample.split) for sample in index.samples], np.uint8)
        self.modalities: Mapping[str, tuple[int, ...]] = {
            name: tuple(values.shape) for name, values in self._decoded(0).items()
        }

    def __len__(self) -> int:
        return len(self.labels)

    def indices(self, split: str) -> Indices:
        """Ascending indices of the samples of one split: "train", "validation" or "test"."""
        return indices_of(self._split, split)

    def inputs(self, indices: Indices) -> list[Tensor]:
        """Of samples (k,), M tensors (k, …). Raises BrokenFileError with the name of a file that can't be read."""
        if len(indices) == 1:  # as the workers of a loader ask
            decoded = [self._decoded(int(indices[0]))]
        else:
            with ThreadPoolExecutor(DECODERS) as threads:
                decoded = list(threads.map(self._decoded, indices))
        for number, values in zip(indices, decoded, strict=True):
            self._check_shapes(self._keys[number], values)
        return [torch.stack([values[name] for values in decoded]) for name in self.modalities]

    def vocabulary(self, modality: str) -> int:
        """How many token ids the tokenizer has."""
        tokens = self.decoding.text
        if tokens is None or not hasattr(tokens.tokenizer, "__len__"):
            raise ValueError(f"the tokenizer of {modality!r} must have a length, how many ids it gives")
        return len(tokens.tokenizer)

    def with_labels(self, labels: Indices) -> "Media":
        """The same samples with other labels, (n,), and nothing left of their own."""
        other = copy(self)
        other.labels = labels
        return other

    def _decoded(self, number: int) -> dict[str, Tensor]:
        return {name: self.decoding(medium) for name, medium in self._media[number].items()}

    def _check_shapes(self, key: str, values: Mapping[str, Tensor]) -> None:
        for name, shape in self.modalities.items():
            if tuple(values[name].shape) != shape:
                raise ValueError(
                    f"{name} of {key} must have shape {shape}, as the first sample's, got {tuple(values[name].shape)}"
                )
