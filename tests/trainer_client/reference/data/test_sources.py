import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from trainer_client.reference.data import Dataset, load
from trainer_client.reference.data.dataset import Array
from trainer_client.reference.data.sources import RECIPES, Recipe


def build_toy() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "u": rng.standard_normal((60, 3)),
        "v": rng.standard_normal((60, 1, 50)),
        "y": np.arange(60) % 2,
        "split": (np.arange(60) % 3).astype(np.uint8),
        "modalities": np.array(["u", "v"]),
        "classes": np.array(["even", "odd"]),
    }


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a built-in set that is made in no time."""
    monkeypatch.setitem(RECIPES, "toy", Recipe(build_toy, packages=("numpy",), number=7))
    return "toy"


def content(dataset: Dataset) -> list[bytes]:
    return [
        dataset.labels.tobytes(),
        dataset.split.tobytes(),
        *(x.tobytes() for x in dataset.modalities.values()),
    ]


@pytest.mark.parametrize("name", ["emoji", "watch"])
def test_a_built_in_set_has_the_same_bytes_made_twice_and_read_from_the_cache(
    name: str, cache: Path, tmp_path: Path
) -> None:
    made = load(name, tmp_path)
    assert content(made) == content(load(name, tmp_path)) == content(load(name, cache))


def test_a_built_in_set_is_made_only_once(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(toy, tmp_path)
    monkeypatch.setitem(RECIPES, toy, Recipe(lambda: pytest.fail("made again"), ("numpy",), number=7))
    assert content(load(toy, tmp_path)) == content(first)


def test_the_file_is_named_after_recipe_and_package_versions(toy: str, tmp_path: Path) -> None:
    load(toy, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"toy_recipe-7_numpy-{version('numpy')}.npz"]


@pytest.mark.parametrize("kept", [0, 100, 1000])
def test_a_damaged_cache_file_is_made_again(toy: str, tmp_path: Path, kept: int) -> None:
    whole = load(toy, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    assert content(load(toy, tmp_path)) == content(whole)


def test_many_may_make_the_same_set_at_once(toy: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: content(load(toy, tmp_path)), range(16)))
    assert all(one == loaded[0] for one in loaded)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_nothing_behind_in_the_cache(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "savez_compressed", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load(toy, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_directory_may_come_from_the_environment(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BSS_CACHE", str(tmp_path / "mine"))
    load(toy)
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_the_cache_directory_is_that_of_the_user_otherwise(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BSS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load(toy)
    assert len(list((tmp_path / "bss-scheduler").iterdir())) == 1


@pytest.mark.parametrize("name", ["emojis", "emoji:image", "made.npy", ""])
def test_an_unknown_name_is_answered_with_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=rf"one of emoji, watch or a path ending in \.npz, got '{name}'"):
        load(name)


def test_a_missing_package_is_answered_with_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "toy", Recipe(build_toy, packages=("no-such-package",), number=1))
    with pytest.raises(ImportError, match=r"pip install 'bss-scheduler\[trainer\]'.*no-such-package"):
        load("toy", tmp_path)


def test_importing_the_data_package_loads_nothing_heavy() -> None:
    code = "import sys, trainer_client.reference.data; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {"torch", "PIL", "fontTools", "pymdownx", "seglearn", "pandas"}.isdisjoint(loaded.split())
