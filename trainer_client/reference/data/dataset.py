"""The one shape in which every data set reaches the trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

SPLITS = ("train", "validation", "test")
"""Names of the values 0, 1 and 2 of `Dataset.split`."""


class Data(Protocol):
    """What the trainer takes: n samples in three splits, whether they lie in memory or are decoded when asked for."""

    @property
    def name(self) -> str: ...

    @property
    def modalities(self) -> Mapping[str, Any]:
        """M ≥ 2 of them, by name and in order; what else stands there is the data's own."""
        ...

    @property
    def labels(self) -> Indices:
        """(n,) index into `classes`."""
        ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def at_once(self) -> int:
        """How many samples may be asked for at a time."""
        ...

    def indices(self, split: str) -> Indices:
        """Ascending indices of the samples of one split."""
        ...

    def inputs(self, indices: Indices) -> "list[Tensor]":
        """Of samples (k,), M tensors (k, …) on the CPU, in the order of the modalities."""
        ...

    def vocabulary(self, modality: str) -> int:
        """Rows that an embedding of a modality's token ids needs."""
        ...

    def with_labels(self, labels: Indices) -> "Data":
        """The same samples with other labels, (n,)."""
        ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """n samples seen through two or more modalities, with labels and a fixed split.

    A modality is float32 features: (n, d) vectors, (n, channels, time) signals or (n, channels, height,
    width) images, normalised over the training samples by whoever made them; or int64 token ids (n, L) of
    text, padded with 0. Raises ValueError, naming field and value, if the parts do not fit together.
    """

    name: str
    modalities: dict[str, Array] = field(repr=False)  # first axis: sample
    labels: Indices = field(repr=False)  # (n,) index into `classes`
    split: NDArray[np.uint8] = field(repr=False)  # (n,) index into `SPLITS`
    classes: tuple[str, ...]
    captions: tuple[str, ...] = field(default=(), repr=False)  # a readable name a sample, or none at all
    licence: str = ""  # licence and source, as a sentence

    def __post_init__(self) -> None:
        check_classes(self.classes)
        check_labels(self.labels, self.classes)
        _check_split(self.split, len(self.labels))
        _check_captions(self.captions, len(self.labels))
        if len(self.modalities) < 2:
            raise ValueError(f"modalities must be at least 2, got {list(self.modalities)}")
        for name, values in self.modalities.items():
            _check_modality(name, values, len(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def indices(self, split: str) -> Indices:
        """Ascending indices of the samples of one split: "train", "validation" or "test"."""
        return indices_of(self.split, split)

    @property
    def at_once(self) -> int:
        return 512

    def inputs(self, indices: Indices) -> "list[Tensor]":
        """Of samples (k,), M tensors (k, …)."""
        import torch

        return [torch.from_numpy(values[indices]) for values in self.modalities.values()]

    def with_labels(self, labels: Indices) -> "Dataset":
        """The same samples with other labels, (n,)."""
        return replace(self, labels=labels)

    def with_training(self, training: Indices) -> "Dataset":
        """The data set with other samples (k,) of its own for training, in this order; one may come more than once."""
        rows = np.concatenate([training, self.indices("validation"), self.indices("test")])
        return replace(
            self,
            modalities={name: values[rows] for name, values in self.modalities.items()},
            labels=self.labels[rows],
            split=self.split[rows],
            captions=tuple(self.captions[row] for row in rows) if self.captions else (),
        )

    def vocabulary(self, modality: str) -> int:
        """Rows that an embedding of the token ids of `modality` needs, padding included."""
        values = self.modalities[modality]
        if values.dtype != np.int64:
            raise ValueError(f"modality {modality!r} holds {values.dtype} features, not token ids")
        return int(values.max(initial=0)) + 1


def check_classes(classes: tuple[str, ...]) -> None:
    """Raises ValueError unless there are two or more."""
    if len(classes) < 2:
        raise ValueError(f"classes must be at least 2, got {list(classes)}")


def check_labels(labels: Array, classes: tuple[str, ...]) -> None:
    """Raises ValueError unless labels are (n,) int64 that index the classes."""
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise ValueError(f"labels must be int64 of shape (n,), got {labels.dtype} of shape {labels.shape}")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if wrong.size:
        raise ValueError(f"labels must be 0 to {len(classes) - 1}, got {labels[wrong[0]]} in row {wrong[0]}")


def check_split(split: str) -> None:
    """Raises ValueError for what is none of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def indices_of(column: NDArray[np.uint8], split: str) -> Indices:
    """Ascending indices of the samples of a split. column: (n,) index into `SPLITS`."""
    check_split(split)
    return np.flatnonzero(column == SPLITS.index(split))


def _check_split(split: Array, n: int) -> None:
    if split.dtype != np.uint8 or split.shape != (n,):
        raise ValueError(f"split must be uint8 of shape ({n},), got {split.dtype} of shape {split.shape}")
    wrong = split[split >= len(SPLITS)]
    if wrong.size:
        raise ValueError(f"split must be 0 (train), 1 (validation) or 2 (test), got {wrong[0]}")
    for value, name in enumerate(SPLITS):
        if not (split == value).any():
            raise ValueError(f"split must hold at least one {name} sample, got no {value}")


def _check_captions(captions: tuple[str, ...], n: int) -> None:
    if captions and len(captions) != n:
        raise ValueError(f"captions must be {n} or none, got {len(captions)}")


def _check_modality(name: str, values: Array, n: int) -> None:
    subject = f"modality {name!r}"
    shape = f"{values.dtype} of shape {values.shape}"
    if values.dtype not in (np.float32, np.int64):
        raise ValueError(f"{subject} must be float32 features or int64 token ids, got {shape}")
    if values.ndim not in ((2,) if values.dtype == np.int64 else (2, 3, 4)) or 0 in values.shape:
        raise ValueError(f"{subject} must be (n, d), (n, channels, time) or (n, channels, h, w), got {shape}")
    if len(values) != n:
        raise ValueError(f"{subject} must have one row for each of {n} labels, got {len(values)}")
    if values.dtype == np.int64 and values.min() < 0:
        raise ValueError(f"{subject} must hold token ids of at least 0, got {values.min()}")
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~finite))
        raise ValueError(f"{subject} must be finite, got {values[place]} at {place}")
