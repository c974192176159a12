"""What is known of a data set's folder before a medium is decoded: samples, where they lie, and what is wrong."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from trainer_client.reference.data.dataset import SPLITS, Array

NAMED = 10  # files that a sentence names before it says "and so many more"


@dataclass(frozen=True, slots=True)
class Audio:
    """A recording, or a film of which the sound is heard."""

    path: Path


@dataclass(frozen=True, slots=True)
class Image:
    """One picture."""

    path: Path


@dataclass(frozen=True, slots=True)
class Frames:
    """A folder of pictures, in the order of the numbers in their names."""

    path: Path


@dataclass(frozen=True, slots=True)
class Video:
    """A film, from frame `first` up to but not including `last`; None: to its end."""

    path: Path
    first: int = 0
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """Optical flow as two folders of grey pictures."""

    path: Path  # the horizontal part, u
    vertical: Path


@dataclass(frozen=True, slots=True)
class Features:
    """An array that somebody computed: the whole of a `.npy` or `.pt`."""

    path: Path


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an array with the sample as first axis: in a `.npz` or `.safetensors` by name, or the whole `.npy`."""

    path: Path
    array: str
    number: int


@dataclass(frozen=True, slots=True)
class Text:
    """A text that stands in the annotations; `target`: what in it the label is about, if it is about a part."""

    text: str
    target: str | None = None


Medium = Audio | Image | Frames | Video | Flow | Features | Row | Text


def paths(medium: Medium) -> tuple[Path, ...]:
    """The files or folders in which a medium lies."""
    if isinstance(medium, Text):
        return ()
    if isinstance(medium, Flow):
        return medium.path, medium.vertical
    return (medium.path,)


def array_of(path: Path, name: str) -> Array:
    """An array of a `.npz` or `.safetensors` by name, or the whole `.npy`, which is mapped; nothing is unpickled."""
    if path.suffix == ".npy":
        mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            read: Array = file[name]
            return read
    with safe_open(path, "numpy") as tensors:
        held: Array = tensors.get_tensor(name)
        return held


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: what identifies it, where it belongs, its class, and where each of its modalities lies."""

    key: str
    split: str  # "train", "validation" or "test"
    listed: str  # the same by the annotations, before any was held out
    label: int  # index into the classes
    media: Mapping[str, Medium]


@dataclass(frozen=True, slots=True)
class Report:
    """What is wrong with a folder, each thing by its name."""

    missing: tuple[str, ...] = ()  # paths that annotations ask for and that are not there
    broken: tuple[str, ...] = ()  # paths, or lines of annotations, that can't be read, and why
    duplicates: tuple[str, ...] = ()  # lines of annotations that say what an earlier one said
    notes: tuple[str, ...] = ()  # what is left out by rule, or worth knowing; nothing is wrong with it

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, broken or there twice."""
        return not (self.missing or self.broken or self.duplicates)

    def __str__(self) -> str:
        faults = (("missing", self.missing), ("broken", self.broken), ("duplicate", self.duplicates))
        return "; ".join(f"{len(found):,} {name}: {named(found)}" for name, found in faults if found) or "whole"


def named(found: Iterable[str], most: int = NAMED) -> str:
    """The first of them by name, and how many more there are."""
    names = list(found)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


@dataclass(frozen=True, eq=False)
class Index:
    """The samples of a set that are whole, in the order of the annotations, and what is wrong with the others."""

    name: str
    root: Path
    layout: str  # which of the known layouts it is
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    report: Report
    clip_seconds: float = 10.0  # how much of a recording is usually taken

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of what each sample has."""
        return tuple(self.samples[0].media) if self.samples else ()

    def counts(self) -> dict[str, int]:
        """Whole samples in each split."""
        return _counts(sample.split for sample in self.samples)

    def listed(self) -> dict[str, int]:
        """Whole samples in each split of the annotations, before any was held out."""
        return _counts(sample.listed for sample in self.samples)


def _counts(splits: Iterable[str]) -> dict[str, int]:
    counted = Counter(splits)
    return {split: counted[split] for split in SPLITS}


class IncompleteError(ValueError):
    """A folder in which files are missing, broken or listed twice; `report` names each."""

    def __init__(self, name: str, report: Report) -> None:
        super().__init__(f"{name} is not whole, {report}; leave_out=True goes on without them")
        self.report = report


class BrokenFileError(ValueError):
    """A file that is there and can't be read."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} can't be read: {why}")
        self.path, self.why = path, why

    def __reduce__(self) -> tuple[type["BrokenFileError"], tuple[Path, str]]:
        return type(self), (self.path, self.why)  # it crosses from the workers of a DataLoader
