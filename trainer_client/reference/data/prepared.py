"""Prepared sets: one `.npz` without pickles, holding an array for each modality, `y` and `split`."""

import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from .dataset import Array, Dataset, Flags, check_classes, check_labels

DAMAGE = (
    *(ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(MemoryError, OverflowError),  # of shapes that no file has
    *(SyntaxError, tokenize.TokenError),  # of headers, which NumPy reads as Python's literals
)
"""What reading raises if a file was cut short or its bytes were changed."""


def read_prepared(path: Path, name: str, views: Sequence[str] = ()) -> Dataset:
    """Read the modalities named in `views`, or all of them, from a `.npz` file.

    The file holds `modalities` and `classes` (names), `y` (n,) int64, `split` (n,) uint8 with 0 = train,
    1 = validation, 2 = test, an array for each modality with the sample as first axis, and may hold
    `captions` (n,) and `licence`. Floats, uint8 and bool are features and come back normalised; int64 are
    token ids and come back as they are. Raises FileNotFoundError for no file, and ValueError for one that
    is damaged or breaks this layout, naming the file and the array. Objects are never unpickled.
    """
    try:
        with path.open("rb") as opened:
            raw = _read(NpzFile(opened, allow_pickle=False), name, views)
    except FileNotFoundError:
        raise FileNotFoundError(f"cannot load {path}: there is no such file") from None
    except zipfile.BadZipFile as error:
        raise ValueError(f"cannot load {path}: it is not a whole .npz file: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot load {path}: {error.strerror or error}") from error
    except DAMAGE as error:
        raise ValueError(f"cannot load {path}: {error or type(error).__name__}") from error
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
    held = _names(file, "modalities")
    _require(views, held, "modality")
    _require(views or held, file.files, "array")
    classes, labels = _names(file, "classes"), _array(file, "y")
    check_classes(classes)
    with _naming("y"):
        check_labels(labels, classes)
    return Dataset(
        name=name,
        modalities={view: _features(_array(file, view)) for view in views or held},
        labels=labels,
        split=_array(file, "split"),
        classes=classes,
        captions=_names(file, "captions") if "captions" in file else (),
        licence=str(_array(file, "licence")) if "licence" in file else "",
    )


def _array(file: NpzFile, name: str) -> Array:
    with _naming(name):
        array = file[name]
        if not isinstance(array, np.ndarray):  # bytes: the archive holds something else under this name
            raise ValueError("it is no array in NumPy's format")
        return array


def _names(file: NpzFile, name: str) -> tuple[str, ...]:
    array = _array(file, name)
    if array.ndim != 1:
        raise ValueError(f"array {name!r} must have one axis, got shape {array.shape}")
    return tuple(map(str, array))


@contextmanager
def _naming(array: str) -> Iterator[None]:
    """Errors of what is done within begin with the array's name."""
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"array {array!r}: {error or type(error).__name__}") from error


def _require(wanted: Collection[str], held: Collection[str], kind: str) -> None:
    for name in wanted:
        if name not in held:
            raise ValueError(f"{kind} {name!r} is missing, it holds {', '.join(held)}")


def _features(values: Array) -> Array:
    is_feature = values.dtype.kind in "fb" or values.dtype == np.uint8
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        return values.astype(np.float32) if is_feature else values
