"""A folder becomes an index: lists are read, files looked for, splits made. No medium is decoded here."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .annotations import SPLIT_NAMES, Annotations, Entry, Place
from .folder import Flow, Frames, IncompleteError, Index, Medium, Report, Sample, named, paths

HELD_OUT = 0.1  # share of the samples, at least, that goes to a split that is made here
LOOKED_AT = 1000  # entries, evenly spread, of which none is at a place before the next place is tried
PICTURES = (".jpg", ".jpeg", ".png")
PICKLED = (".pkl", ".pickle", ".pk")


@dataclass(frozen=True, slots=True)
class Published:
    """How many samples somebody counted."""

    source: str
    train: int
    validation: int
    test: int
    about: bool = False  # the figures are rounded, or films have gone since: others are no fault

    def counts(self) -> dict[str, int]:
        """Those that are there."""
        counted = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: count for split, count in counted.items() if count}


@dataclass(frozen=True)
class Source:
    """A data set: how its lists are read, where its media may lie, and what is published of it."""

    title: str
    read: Callable[[Path, str], Annotations]  # of a root and a split's name
    places: Mapping[str, Sequence[Place]]  # of each modality but text, which stands in the annotations
    published: Sequence[Published]
    group: str  # what stays on one side of a split that is made here
    optional: frozenset[str] = frozenset()  # modalities that not every copy has
    regrouped: Mapping[str, Callable[[Entry], str]] = field(default_factory=dict)  # splits by such a group alone
    official: Sequence[str] = ("official",)  # splits that the lists themselves have
    clip_seconds: float = 10.0

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits there are."""
        return (*self.official, *self.regrouped)


def read_folder(root: Path, name: str, source: Source, *, split: str, seed: int, leave_out: bool) -> Index:
    """The index of a set below `root`; see `read_set`."""
    if split not in source.splits:
        raise ValueError(f"split of {name} must be one of {', '.join(source.splits)}, got {split!r}")
    if not root.is_dir():
        raise FileNotFoundError(f"cannot read {name} from {root}: there is no such folder")
    annotations = source.read(root, split)
    entries, duplicates = _without_duplicates(_known_classes(annotations))
    parts = _split(entries, source, split, seed)
    found = _Files(root, source, entries)
    samples = [found.sample(entry, part, annotations.classes) for entry, part in zip(entries, parts, strict=True)]
    beside = [path.relative_to(root).as_posix() for path in annotations.missing]
    report = Report(
        missing=tuple(dict.fromkeys([*_missing_lists(annotations), *beside, *found.missing])),
        broken=tuple(annotations.broken + list(dict.fromkeys(found.broken))),
        duplicates=tuple(duplicates),
        notes=(*annotations.notes, *found.notes, *_held_out_notes(entries, parts, source, seed)),
    )
    if not (report.whole or leave_out):
        raise IncompleteError(name, report)
    return Index(
        name=name,
        root=root,
        layout=annotations.layout,
        classes=annotations.classes,
        samples=tuple(sample for sample in samples if sample is not None),
        report=report,
        clip_seconds=source.clip_seconds,
    )


def _known_classes(annotations: Annotations) -> Annotations:
    """The same without lines whose class there is not, which count as broken."""
    known = set(annotations.classes)
    annotations.broken += [
        f"{entry.place}: {entry.label!r} is none of the {len(known)} classes"
        for entry in annotations.entries
        if entry.label not in known
    ]
    annotations.entries = [entry for entry in annotations.entries if entry.label in known]
    return annotations


def _missing_lists(annotations: Annotations) -> list[str]:
    """What a set that comes with a part for testing must have: else one would be made here, and taken for it."""
    is_there = not annotations.is_split or any(entry.split == "test" for entry in annotations.entries)
    return [] if is_there else ["a list of the test samples"]


def _held_out_notes(entries: Sequence[Entry], parts: Sequence[str], source: Source, seed: int) -> list[str]:
    moved = Counter(part for entry, part in zip(entries, parts, strict=True) if part != entry.split)
    return [
        f"{count:,} samples for {part} are chosen here, by {source.group}, seed {seed}" for part, count in moved.items()
    ]


def _without_duplicates(annotations: Annotations) -> tuple[list[Entry], list[str]]:
    """The first line of each sample, and what to say of the others."""
    kept: dict[str, Entry] = {}
    duplicates = []
    for entry in annotations.entries:
        first = kept.setdefault(entry.key, entry)
        if first is not entry:
            changed = [f"{there!r}, not {here!r}" for here, there in _differences(entry, first)]
            duplicates.append(
                f"{entry.place}: {entry.key} as {first.place}" + "".join(f", which says {c}" for c in changed)
            )
    return list(kept.values()), duplicates


def _differences(entry: Entry, first: Entry) -> Iterator[tuple[str, str]]:
    yield from (
        (here, there) for here, there in ((entry.label, first.label), (entry.split, first.split)) if here != there
    )


def hold_out(groups: Sequence[str], seed: int, share: float = HELD_OUT) -> frozenset[str]:
    """Groups that together have at least a share of the samples, of each of which the group is given (n,).

    Drawn at random in the alphabet's order of their names, so that neither the order of lines nor that of files counts.
    Raises ValueError if nothing would stay.
    """
    names, sizes = np.unique(np.asarray(groups, str), return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), share * len(groups))) + 1
    if enough >= len(names):
        raise ValueError(f"groups must be enough to hold some out and keep some, got {len(names)}: {named(names)}")
    return frozenset(names[order[:enough]].tolist())


def _split(entries: Sequence[Entry], source: Source, split: str, seed: int) -> list[str]:
    """The split of each entry: the lists' own, with parts held out that they lack, or one by groups alone."""
    if split in source.regrouped:
        entries = [replace(entry, split="train", group=source.regrouped[split](entry)) for entry in entries]
    listed = [entry.split for entry in entries]
    for missing, rng_seed in (("test", seed + 1), ("validation", seed)):
        if missing not in listed and "train" in listed:
            listed = _held_out(entries, listed, missing, rng_seed)
    return listed


def _held_out(entries: Sequence[Entry], listed: list[str], part: str, seed: int) -> list[str]:
    train = [entry.group for entry, name in zip(entries, listed, strict=True) if name == "train"]
    chosen = hold_out(train, seed)
    return [
        part if name == "train" and entry.group in chosen else name for entry, name in zip(entries, listed, strict=True)
    ]


class _Files:
    """Looks for the files of entries, and keeps what is missing or broken by its path below the root."""

    def __init__(self, root: Path, source: Source, entries: Sequence[Entry]) -> None:
        self.root = root
        self.missing: list[str] = []
        self.broken: list[str] = []
        self.notes: list[str] = []
        self.chosen: dict[str, Place] = {}
        for modality, places in source.places.items():
            place = next((place for place in places if self._is_used(place, entries)), None)
            if place is not None:
                self.chosen[modality] = place
            elif modality in source.optional:
                self.notes.append(f"{modality} is not here, which not every copy has")
            else:
                self.chosen[modality] = places[0]
                self._tell_absent(modality, places)

    def _is_used(self, place: Place, entries: Sequence[Entry]) -> bool:
        fixed = Path(place.pattern.partition("{")[0] + "_").parent
        few = entries[:: max(1, len(entries) // LOOKED_AT)]
        return (self.root / fixed).is_dir() and any(self._path(place, entry).exists() for entry in few)

    def _path(self, place: Place, entry: Entry) -> Path:
        """Where an entry's file is, or should be."""
        names = SPLIT_NAMES[entry.split] if "{split}" in place.pattern else ("",)
        if "{split}" in place.pattern and entry.split == "validation":
            names = (*names, "train")  # lists that part them later leave the files where they are
        candidates = [self.root / place.pattern.format(split=name, **entry.fields) for name in names]
        if len(candidates) == 1:
            return candidates[0]
        return next((path for path in candidates if path.exists()), candidates[0])

    def _tell_absent(self, modality: str, places: Sequence[Place]) -> None:
        self.notes.append(f"{modality} was looked for as {', '.join(place.pattern for place in places)}")
        for place in places:
            folder = self.root / Path(place.pattern.partition("{")[0] + "_").parent
            pickles = (
                [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLED] if folder.is_dir() else []
            )
            if pickles:
                self.broken.append(
                    f"{folder.relative_to(self.root)}: pickles are not read, since reading one runs what is in it "
                    f"({named(pickles, 3)}); where you trust them, save each array by numpy.save as .npy"
                )
                return

    def sample(self, entry: Entry, split: str, classes: Sequence[str]) -> Sample | None:
        """The sample of an entry, or None if a file of it is missing or broken, which is noted."""
        media: dict[str, Medium] = {
            modality: place.medium(self._path(place, entry), entry) for modality, place in self.chosen.items()
        }
        whole = [self._is_whole(path, medium) for medium in media.values() for path in paths(medium)]
        if not all(whole):
            return None
        if entry.text is not None:
            media["text"] = entry.text
        return Sample(entry.key, split, entry.split, classes.index(entry.label), media)

    def _is_whole(self, path: Path, medium: Medium) -> bool:
        try:
            fault = _fault(path, isinstance(medium, Frames | Flow))
        except (FileNotFoundError, NotADirectoryError):
            self.missing.append(path.relative_to(self.root).as_posix())
            return False
        if fault:
            self.broken.append(f"{path.relative_to(self.root).as_posix()}: {fault}")
        return not fault


def _fault(path: Path, is_pictures: bool) -> str:
    """What can be told of a file, or of a folder of pictures, without reading it. Raises FileNotFoundError for none."""
    found = path.stat()
    if is_pictures != stat.S_ISDIR(found.st_mode):
        return "no folder" if is_pictures else "no file"
    if not is_pictures:
        return "" if found.st_size else "empty"
    with os.scandir(path) as entries:
        return "" if any(entry.name.lower().endswith(PICTURES) for entry in entries) else "no picture in it"


def deviations(index: Index, source: Source) -> list[str]:
    """What each publication counted otherwise than is here; none if one of them fits, or its figures are rounded."""
    here = [_as(published, index.listed()) for published in source.published]
    pairs = list(zip(source.published, here, strict=True))
    if any(published.about or published.counts() == counted for published, counted in pairs):
        return []
    return [f"{_words(counted)}, where {known.source} has {_words(known.counts())}" for known, counted in pairs]


def sentences(index: Index, source: Source) -> Iterator[str]:
    """What there is to be said of a folder, line by line; the last says whether it is complete."""
    counts = ", ".join(f"{count:,} {split}" for split, count in index.counts().items() if count)
    modalities = " and ".join(index.modalities)
    report, others = index.report, deviations(index, source)
    title = source.title.partition(": ")[0]
    yield f"{title}, layout {index.layout!r}: {counts or 'no sample'}; {modalities or 'nothing'}"
    for name, found in (("missing", report.missing), ("broken", report.broken), ("duplicate", report.duplicates)):
        if found:
            yield f"{len(found):,} {name}: {named(found, 20)}"
    for sentence in others:
        yield f"counts differ: {sentence}"
    for note in report.notes:
        yield f"note: {note}"
    yield "complete" if report.whole and not others else "not complete"


def _as(published: Published, listed: Mapping[str, int]) -> dict[str, int]:
    """Counts under the splits that a publication has; one that has no part for validation counts it as training."""
    counted = dict(listed)
    if not published.validation:
        counted["train"] = counted.get("train", 0) + counted.pop("validation", 0)
    if not published.test:
        counted["train"] = counted.get("train", 0) + counted.pop("test", 0)
    return {split: counted.get(split, 0) for split in published.counts()}


def _words(counts: Mapping[str, int]) -> str:
    return " + ".join(f"{count:,} {split}" for split, count in counts.items())
