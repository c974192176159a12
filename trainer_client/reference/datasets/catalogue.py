"""The data sets there are, by name. Nothing here needs torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .audiovisual import AVE, CREMA_D, KINETICS_SOUNDS, VGGSOUND
from .films import NVGESTURE, UCF101
from .folder import Index
from .iemocap import IEMOCAP
from .mosei import MOSEI
from .pictures_and_texts import FOOD101, MMSD, MMSD2, MVSA, TWITTER2015
from .reading import Source, read_folder

SETS: Final[Mapping[str, Source]] = {
    "crema-d": CREMA_D,
    "kinetics-sounds": KINETICS_SOUNDS,
    "vggsound": VGGSOUND,
    "twitter2015": TWITTER2015,
    "mmsd": MMSD,
    "mmsd2": MMSD2,
    "nvgesture": NVGESTURE,
    "ave": AVE,
    "ucf-101": UCF101,
    "food-101": FOOD101,
    "mvsa": MVSA,
    "cmu-mosei": MOSEI,
    "iemocap": IEMOCAP,
}


def read_set(root: str | Path, name: str, *, split: str = "official", seed: int = 0, leave_out: bool = False) -> Index:
    """The samples of the set `name` in the folder `root`, in whichever of its known layouts it lies there.

    `split`: that of the lists, or another that the set has. Where no part for validation is listed, a tenth of the
    training samples or a little more is held out by `seed`, no actor, film or user on both sides. Raises
    FileNotFoundError for no folder, UnknownLayoutError for one without the set's lists, and IncompleteError, whose
    report names each, for files that are missing, empty or listed twice; with `leave_out` the others are given, and
    the index has the report. Files are looked for and not opened: `verify` does that.
    """
    if name not in SETS:
        raise ValueError(f"name must be one of {', '.join(SETS)}, got {name!r}")
    return read_folder(Path(root), name, SETS[name], split=split, seed=seed, leave_out=leave_out)
