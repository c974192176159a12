"""Prepared sets: one `.npz` without pickles, holding an array for each modality, `y` and `split`."""

import lzma
import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from .dataset import Array, Dataset, Flags

DAMAGE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What reading raises if a file was cut short or its bytes were changed."""


def read_prepared(path: Path, name: str, views: Sequence[str] = ()) -> Dataset:
    """Read the modalities named in `views`, or all of them, from a `.npz` file.

    The file holds `modalities` and `classes` (names), `y` (n,) int64, `split` (n,) uint8 with 0 = train,
    1 = validation, 2 = test, an array for each modality with the sample as first axis, and may hold
    `captions` (n,) and `licence`. Floats, uint8 and bool are features and come back normalised; int64 are
    token ids and come back as they are. Raises FileNotFoundError for no file, and ValueError for one that
    is damaged or breaks this layout.
    """
    with path.open("rb") as opened:
        try:
            raw = _read(NpzFile(opened, allow_pickle=False), name, views)
        except DAMAGE as error:
            raise ValueError(f"cannot load {path}: {error}") from error
    training = raw.split == 0
    return replace(raw, modalities={view: normalise(x, training) for view, x in raw.modalities.items()})


def normalise(values: Array, training: Flags) -> Array:
    """Shift and scale features to mean 0 and standard deviation 1 over the training samples.

    Takes values (n, d), each column by itself, or (n, channels, ...), each channel by itself, and training
    (n,), true at least once. Returns float32 of the same shape. What is constant over the training samples
    is shifted only. Token ids (int64) are returned as they are.
    """
    if values.dtype == np.int64:
        return values
    axes = (0, *range(2, values.ndim))
    known = values[training].astype(np.float64)
    constant = known.max(axes, keepdims=True) == known.min(axes, keepdims=True)
    scale = np.where(constant, 1.0, known.std(axes, keepdims=True))
    normalised: Array = (values - known.mean(axes, keepdims=True)) / scale
    return normalised.astype(np.float32)


def _read(file: NpzFile, name: str, views: Sequence[str]) -> Dataset:
    _require(("modalities", "classes", "y", "split"), file.files, "array")
    held = [str(modality) for modality in file["modalities"]]
    _require(views, held, "modality")
    _require(views or held, file.files, "array")
    return Dataset(
        name=name,
        modalities={view: _features(file[view]) for view in views or held},
        labels=file["y"],
        split=file["split"],
        classes=tuple(map(str, file["classes"])),
        captions=tuple(map(str, file["captions"])) if "captions" in file else (),
        licence=str(file["licence"]) if "licence" in file else "",
    )


def _require(wanted: Collection[str], held: Collection[str], kind: str) -> None:
    for name in wanted:
        if name not in held:
            raise ValueError(f"{kind} {name!r} is missing, it holds {', '.join(held)}")


def _features(values: Array) -> Array:
    is_feature = values.dtype.kind in "fb" or values.dtype == np.uint8
    return values.astype(np.float32) if is_feature else values
