"""The site is built without a warning, takes nothing from other hosts, and shows figures that were measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import gains

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_no_page_takes_anything_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", page.read_text()):
            assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag), f"{page.name}: {tag}"


def test_the_reference_has_every_command_call_and_class(site: Path) -> None:
    import trainer_client

    assert 'id="bss-suspects"' in (site / "reference/cli.html").read_text()
    assert "POST /v1/jobs/{job}/steps" in (site / "reference/http.html").read_text()
    classes = (site / "reference/trainer_client.html").read_text()
    assert [name for name in trainer_client.__all__ if f'.{name}"' not in classes] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name.startswith("decisions/") or f"- {name}\n" in listed or f": {name}\n" in listed, name


def test_the_figures_of_the_readme_are_those_that_were_measured() -> None:
    measured = (ROOT / "benchmarks/results/evidence.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if re.match(r"\| `", line)]
    assert len(rows) == 4
    for policy, *cells in rows:
        source = next(line for line in measured if line.startswith(f"| {policy} |"))
        assert [cell for cell in cells if f"| {cell} |" not in source] == []


def test_the_picture_is_drawn_from_the_figures() -> None:
    assert gains.FIGURE.read_text() == gains.draw()
