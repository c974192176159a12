"""CMU-MOSEI: sentiment of what people say, as features of text, voice and face, in formats that run nothing."""

from pathlib import Path
from typing import Final

import numpy as np

from .annotations import SPLIT_NAMES, Annotations, Entry, Place, UnknownLayoutError
from .folder import Medium, Row, array_of
from .reading import PICKLED, Published, Source

POLARITIES: Final = ("negative", "not negative")  # sentiment below 0, and from 0 on
MODALITIES: Final = ("text", "audio", "vision")
FORMS: Final = ("{split}.npz", "{split}.safetensors", "{split}/labels.npy")


class PickleError(ValueError):
    """A set that lies as a pickle alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is a pickle, which is not read, since reading one runs what is in it; where you trust it, load it "
            "yourself and save each split: numpy.savez('train.npz', **{name: split[name] for name in "
            "('text', 'audio', 'vision', 'labels')}), also for valid and test"
        )


def mosei(root: Path, split: str) -> Annotations:
    """Arrays `text`, `audio`, `vision` and `labels` of each split: `.npz`, `.safetensors`, or a folder of `.npy`."""
    found = Annotations("", classes=POLARITIES)
    for form in FORMS:
        for part, names in SPLIT_NAMES.items():
            path = next((root / form.format(split=n) for n in names if (root / form.format(split=n)).is_file()), None)
            if path is not None:
                found.layout = path.suffix.removeprefix(".")
                _read_part(root, path, part, found)
        if found.layout:
            return found
    for path in sorted(root.iterdir()):
        if path.suffix in PICKLED:
            raise PickleError(path)
    raise UnknownLayoutError("cmu-mosei", root, FORMS)


def _read_part(root: Path, path: Path, part: str, found: Annotations) -> None:
    try:
        labels = np.asarray(array_of(path, "labels"), np.float32)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path} must hold an array labels of numbers: {error}") from None
    labels = labels.reshape(len(labels), -1)[:, 0]  # the first of what is told of each: sentiment, −3 to 3
    for row, sentiment in enumerate(labels.tolist()):
        place = f"{path.relative_to(root).as_posix()}[{row}]"
        if not -3 <= sentiment <= 3:
            found.broken.append(f"{place}: sentiment must be −3 to 3, got {sentiment}")
            continue
        files = {name: path.with_name(f"{name}.npy") if path.suffix == ".npy" else path for name in MODALITIES}
        fields: dict[str, object] = {name: file.relative_to(root).as_posix() for name, file in files.items()}
        label = POLARITIES[sentiment >= 0]
        found.entries.append(Entry(f"{part}/{row}", part, label, f"{part}/{row}", place, fields | {"row": row}))


def _row(name: str) -> Place:
    def medium(path: Path, entry: Entry) -> Medium:
        return Row(path, name, int(str(entry.fields["row"])))

    return Place(f"{{{name}}}", medium)


MOSEI: Final = Source(
    title="CMU-MOSEI: sentiment of what people say, features of text, voice and face",
    read=mosei,
    places={name: [_row(name)] for name in MODALITIES},
    published=[Published("Tsai et al., MulT, ACL 2019", 16_326, 1_871, 4_659)],
    group="row",
)
