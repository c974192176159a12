"""The house is as docs/architecture.md draws it."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = re.findall(r"^\| `([\w./]+)` \|", PAGE, re.MULTILINE)
CODE = ("bss_cli", "bss_service", "trainer_client", "envs", "demo", "examples", "benchmarks", "tests", "tools")
MOST = 12  # entries of a folder


def folders() -> Iterator[Path]:
    for top in CODE:
        below = [path for path in (ROOT / top).rglob("*") if path.is_dir() and "__pycache__" not in path.parts]
        yield from (ROOT / top, *below)


def modules(room: str) -> str:
    """The name by which a room is imported."""
    return room.rstrip("/").removesuffix(".py").replace("/", ".")


def test_the_rooms_are_those_of_the_tree() -> None:
    packages = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("bss_service/*/__init__.py")}
    single = {f"bss_service/{path.name}" for path in ROOT.glob("bss_service/*.py") if path.name != "__init__.py"}
    beside = set(re.findall(r"`(bss_service/\w+\.py)`", PAGE[PAGE.index("Beside them:") :].split("\n\n")[0]))
    assert {room for room in ROOMS if room.startswith("bss_service/")} | beside == packages | single


def test_they_stand_in_the_order_in_which_they_import() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [set(layer.split(" | ")) for contract in contracts for layer in contract.get("layers", [])]
    listed = {modules(room) for room in ROOMS}
    depths = [next(k for k, layer in enumerate(layers) if modules(room) in layer) for room in ROOMS]
    assert depths == sorted(depths)
    assert set().union(*layers) - listed == {"bss_service.errors", "bss_service.settings"}


def test_every_path_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`|`(\w+\.toml)`", PAGE)
    inside = {"builtin/", "research/", "exchange/", "reference/"}  # of the room beside whose name they stand
    paths = {path for pair in named for path in pair if path} - inside
    assert len(paths) > 30
    there = [path.as_posix() for top in ROOT.iterdir() if top.name != ".venv" for path in (top, *top.rglob("*"))]
    assert [path for path in sorted(paths) if not any(one.endswith(f"/{path.rstrip('/')}") for one in there)] == []
    for name in ("FeedbackReceived", "PlanDrawn"):
        assert f"class {name}(" in (ROOT / "bss_service/job/events.py").read_text()


@pytest.mark.parametrize("folder", sorted(folders()), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_no_folder_has_more_than_a_dozen_entries(folder: Path) -> None:
    aside = {"__init__.py", "__pycache__", "py.typed"}
    assert len({path.name for path in folder.iterdir()} - aside) <= MOST


def test_every_package_says_in_a_line_what_it_is() -> None:
    for path in [
        *ROOT.glob("bss_*/**/__init__.py"),
        *ROOT.glob("envs/**/__init__.py"),
        *ROOT.glob("trainer_client/**/__init__.py"),
    ]:
        assert path.read_text().startswith('"""'), path
