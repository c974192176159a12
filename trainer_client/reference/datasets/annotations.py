"""Lists of samples as they are found: lines, columns with and without header, and what of them can't be understood."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .folder import Medium, Text

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("valid", "val", "dev", "validation"),
    "test": ("test",),
}
"""What others call each split, in the names of lists and folders."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of annotations that was understood."""

    key: str  # the same for lines that mean the same sample
    split: str  # as the annotations say
    label: str  # its class by name
    group: str  # what a held-out split must not tear apart: an actor, a video, a user
    place: str  # file and line, for messages
    fields: Mapping[str, object]  # what fills the patterns of paths
    text: Text | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a modality may lie, below the root; `{split}` stands for any of the split's names."""

    pattern: str
    medium: Callable[[Path, Entry], Medium]


@dataclass
class Annotations:
    """All that the lists of a set say."""

    layout: str
    entries: list[Entry] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    broken: list[str] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)  # of files that had to be read with them
    notes: list[str] = field(default_factory=list)
    is_split: bool = True  # whether the set comes with a part for testing

    def with_classes_seen(self) -> "Annotations":
        """The same with the classes that its lines name, in order: of numbers that of numbers, else the alphabet's."""
        seen = {entry.label for entry in self.entries}
        if all(label.isdecimal() for label in seen):
            self.classes = tuple(map(str, range(max(map(int, seen), default=0) + 1)))
        else:
            self.classes = tuple(sorted(seen))
        return self


class UnknownLayoutError(ValueError):
    """A folder in which none of the lists is found that a set is known to come with."""

    def __init__(self, name: str, root: Path, sought: Iterable[str]) -> None:
        super().__init__(f"{root} has none of the lists of {name}: looked for {', '.join(sought)}")


def first_file(root: Path, *names: str) -> Path | None:
    """The first of the files that is there."""
    return next((root / name for name in names if (root / name).is_file()), None)


def split_files(root: Path, *patterns: str) -> dict[str, Path]:
    """The list of each split by the first pattern that has one for training; `{split}` stands for its names."""
    for pattern in patterns:
        found = {split: _split_file(root, pattern, split) for split in SPLIT_NAMES}
        if found["train"] is not None:
            return {split: path for split, path in found.items() if path is not None}
    return {}


def lists_of(name: str, root: Path, patterns: Sequence[str], also: Sequence[str] = ()) -> dict[str, Path]:
    """`split_files` of a set that has no other form. also: what was looked for before.

    Raises UnknownLayoutError where there are none.
    """
    lists = split_files(root, *patterns)
    if not lists:
        raise UnknownLayoutError(name, root, [*also, *patterns])
    return lists


def _split_file(root: Path, pattern: str, split: str) -> Path | None:
    return first_file(root, *(pattern.format(split=name) for name in SPLIT_NAMES[split]))


def text_of(path: Path) -> str:
    """The text of a file, its byte-order mark taken off. Raises ValueError, naming it, if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, as "train.csv:3", and what it says, stripped; empty ones are passed over."""
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name}:{number}", line.strip(" \r\ufeff")


def split_lines(lists: Mapping[str, Path]) -> Iterator[tuple[str, str, str]]:
    """The `lines` of each split's list, behind the split."""
    for split, path in lists.items():
        for place, line in lines(path):
            yield split, place, line


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where each row starts, and its cells, of a file of comma-separated values; a quoted cell may hold newlines."""
    reader = csv.reader(text_of(path).splitlines(keepends=True))
    start = 1
    for row in reader:
        if any(cell.strip() for cell in row):
            yield f"{path.name}:{start}", [cell.strip() for cell in row]
        start = reader.line_num + 1


def columns(row: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, int] | None:
    """The column of each known name, if the row is a header that has them all; any of a name's spellings counts."""
    spelt = [re.sub(r"^#\d+\s*", "", cell).strip().lower() for cell in row]
    found = {
        name: next((spelt.index(spelling) for spelling in spellings if spelling in spelt), -1)
        for name, spellings in known.items()
    }
    return None if -1 in found.values() else found


def json_records(path: Path) -> list[Any]:
    """The records of a JSON list, or of a file with one a line. Raises ValueError, naming it, if it is neither."""
    text = text_of(path)
    try:
        whole = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return list(whole)
