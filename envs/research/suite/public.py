"""Public data sets as tasks of a suite: where they lie, whether they are whole, and what results depend on of them."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from envs.research.files import Results
from envs.research.suite.spec import Suite, Task, digest
from trainer_client.reference.datasets import SETS, Index, read_set
from trainer_client.reference.datasets.check import verify
from trainer_client.reference.datasets.folder import named, paths
from trainer_client.reference.datasets.reading import deviations, sentences
from trainer_client.reference.datasets.samples import Media
from trainer_client.reference.encoders import Choice
from trainer_client.reference.recipes import RECIPES, read_media

DECODED_BY: Final = ("av", "pillow", "soundfile", "transformers")  # packages that tensors and networks depend on


def found(suite: Suite, root: Path, *, leave_out: bool = False) -> tuple[Suite, list[str]]:
    """The suite with those of its public sets that lie below a folder, and the tasks whose sets don't, by name.

    A set that is named without a folder is looked for as a folder of its name, whatever the case, spaces, `-`, `_` or
    `.` in it. leave_out: as if every public task said so. Raises ValueError for two such folders of one set, and where
    no task is left.
    """
    tasks, missing = {}, []
    for name, task in suite.tasks.items():
        own = task if task.public is None else task.model_copy(update={"leave_out": task.leave_out or leave_out})
        place = _folder(root, task.public) if task.data == task.public else None
        if place is not None:
            own = own.model_copy(update={"data": f"{task.public}:{place}"})
        if own.data == own.public:
            missing.append(f"{name} ({own.public})")
        else:
            tasks[name] = own
    if not tasks:
        raise ValueError(
            f"{root} must have a folder of the name of one of the sets at least, none is there of {named(missing)}"
        )
    return suite.model_copy(update={"tasks": tasks}), missing


def check(suite: Suite, kept: Results, report: Callable[[str], None]) -> None:
    """Read the public sets of a suite to their end, unless they were found whole before.

    Raises ValueError that has what `bss data check` says of a folder that isn't whole, and of a folder that has none
    of the set's layouts; where files may be left out, of one with broken files alone.
    """
    for name, task in suite.tasks.items():
        if task.public is not None:
            try:
                index = _index(task)
            except (ValueError, OSError) as error:
                raise ValueError(f"task {name!r}: {error}") from None
            if not task.leave_out:
                _refuse(name, index)
            kept.complete([{"whole": fingerprint(index)}], lambda _: [(0, _read(name, index, report))])  # noqa: B023


def notes(suite: Suite, missing: Sequence[str]) -> Iterator[str]:
    """For the report, sentences: which tasks are not there, and of which samples the public sets are."""
    if missing:
        yield f"Left out, since their data were not there: {', '.join(missing)}."
    for name, task in suite.tasks.items():
        if task.public is not None:
            index = _index(task)
            counts = ", ".join(f"{count:,} {split}" for split, count in index.counts().items())
            without = {"missing": index.report.missing, "duplicate": index.report.duplicates}
            told = [f"{len(found):,} {kind}" for kind, found in without.items() if found]
            yield f"{name}: {counts}{'; left out, ' if told else ''}{', '.join(told)}; {task.split} split."


def load(task: Task) -> tuple[Media, dict[str, str]]:
    """A public set, and the encoders of its modalities."""
    return _loaded(task.data, task.split, task.leave_out, tuple(task.encoders.items()))


def identity(task: Task) -> dict[str, Any]:
    """What results depend on of a public set: samples by names and sizes of their files, and what becomes of them."""
    assert task.public is not None
    recipe = RECIPES[task.public]
    index = _index(task)
    encoders = recipe.chosen(index.modalities, task.encoders)
    return {
        "samples": _fingerprint(task.data, task.split),
        "pictures": [recipe.frames, recipe.side],
        "encoders": {name: [encoder, _weights(encoder)] for name, encoder in encoders.items()},
        "packages": {package: _version(package) for package in DECODED_BY},
    }


def fingerprint(index: Index) -> str:
    """SHA-256 over all samples: split, label, where their media lie, and the sizes of files, which are not read."""
    lines = hashlib.sha256()
    for line in _lines(index):
        lines.update(f"{line}\n".encode())
    return lines.hexdigest()


def _folder(root: Path, name: str | None) -> Path | None:
    assert name is not None
    title = SETS[name].title.partition(":")[0]
    wanted = {_plain(name), _plain(title)}
    there = sorted(path for path in root.iterdir() if path.is_dir() and _plain(path.name) in wanted)
    if len(there) > 1:
        raise ValueError(f"{root} must have one folder of {name}, got {named(path.name for path in there)}")
    return there[0].absolute() if there else None


def _plain(name: str) -> str:
    return re.sub(r"[\s._-]", "", name.lower())


def _index(task: Task) -> Index:
    return _listed(task.data, task.split)


@cache
def _listed(data: str, split: str) -> Index:
    name, _, folder = data.partition(":")
    return read_set(folder, name, split=split, leave_out=True)


@cache
def _loaded(
    data: str, split: str, leave_out: bool, encoders: tuple[tuple[str, str], ...]
) -> tuple[Media, dict[str, str]]:
    name, _, folder = data.partition(":")
    return read_media(name, Path(folder), dict(encoders), split=split, leave_out=leave_out)


@cache
def _fingerprint(data: str, split: str) -> str:
    return fingerprint(_listed(data, split))


def _lines(index: Index) -> Iterator[str]:
    for sample in index.samples:
        yield f"{sample.key} {sample.split} {sample.label}"
        for modality, medium in sample.media.items():
            placed = {path.name: _sizes(path) for path in paths(medium)}
            own = {k: getattr(medium, k) for k in medium.__dataclass_fields__ if k not in ("path", "vertical")}
            yield f"{modality} {own} {placed}"


def _sizes(path: Path) -> list[tuple[str, int]]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(file.name, file.stat().st_size) for file in files]


def _read(name: str, index: Index, report: Callable[[str], None]) -> bool:
    """Whether all files can be read to their end; raises ValueError where some can't."""
    report(f"{name}: reading {len(index.samples):,} samples to their end, once")
    whole = verify(index)
    if whole.report.broken:
        _refuse(name, replace(whole, report=replace(whole.report, missing=(), duplicates=())))
    return True


def _refuse(name: str, index: Index) -> None:
    """Raise ValueError unless the folder is complete."""
    others = deviations(index, SETS[index.name])
    if others or not index.report.whole:
        told = "\n".join(sentences(index, SETS[index.name]))
        raise ValueError(
            f"task {name!r}: {index.root} is not whole; --leave-out goes on without what is missing, not with what is "
            f"broken.\n{told}"
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # what needs it says so
        return "none"


@cache
def _weights(encoder: str) -> dict[str, str]:
    """What lies in an encoder's folder of weights, by digests; of a name on a hub nothing."""
    weights = Choice.parse(encoder).weights
    folder = Path(weights or "")
    if weights is None or not folder.is_dir():
        return {}
    return {path.name: digest(path) for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".json")}
