"""Data sets by name or by path; the built-in ones are made at first use and cached."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import numpy as np

from . import emoji, watch
from .dataset import Array, Dataset
from .prepared import read_prepared


@dataclass(frozen=True)
class Recipe:
    """How a built-in set is made."""

    build: Callable[[], dict[str, Array]]  # the arrays of a prepared `.npz`
    packages: tuple[str, ...]  # distributions whose versions decide what `build` returns
    number: int  # counts the changes of code that changed what `build` returns


RECIPES = {
    "emoji": Recipe(emoji.build, emoji.PACKAGES, number=1),
    "watch": Recipe(watch.build, watch.PACKAGES, number=1),
}


def load(name_or_path: str | Path, cache: str | Path | None = None) -> Dataset:
    """Load "emoji", "watch" or a prepared `.npz` file; "path.npz:fou,kar" takes only the modalities named.

    A built-in set is made at first use and kept in the directory `cache`, by default the one that the
    environment variable BSS_CACHE names, else bss-scheduler in the user's cache directory (XDG_CACHE_HOME,
    else ~/.cache). Raises ValueError for an unknown name or a file that is no prepared set,
    FileNotFoundError for no file, ImportError if a built-in set's packages are not installed.
    """
    name = str(name_or_path)
    prepared = re.fullmatch(r"(.+\.npz)(?::(.+))?", name)
    if prepared:
        return _load_prepared(Path(prepared[1]), prepared[2])
    if name not in RECIPES:
        raise ValueError(f"data must be one of {', '.join(RECIPES)} or a path ending in .npz, got {name!r}")
    return _load_built_in(name, Path(cache) if cache else _default_cache())


def _load_prepared(path: Path, views: str | None) -> Dataset:
    if views is None:
        return read_prepared(path, path.stem)
    return read_prepared(path, f"{path.stem}:{views}", views.split(","))


def _default_cache() -> Path:
    if os.environ.get("BSS_CACHE"):
        return Path(os.environ["BSS_CACHE"])
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "bss-scheduler"


def _load_built_in(name: str, cache: Path) -> Dataset:
    try:
        path = cache / _file_name(name)
        try:
            return read_prepared(path, name)
        except (FileNotFoundError, ValueError):  # not made yet, or damaged
            _write(path, RECIPES[name].build())
        return read_prepared(path, name)
    except ImportError as error:
        message = f"data set {name!r} needs more packages, pip install 'bss-scheduler[trainer]': {error}"
        raise ImportError(message) from error


def _file_name(name: str) -> str:
    recipe = RECIPES[name]
    versions = [f"{package}-{version(package)}" for package in recipe.packages]
    return "_".join([name, f"recipe-{recipe.number}", *versions]) + ".npz"


def _write(path: Path, arrays: dict[str, Array]) -> None:
    """Write a `.npz` file in one act, so that another process sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
