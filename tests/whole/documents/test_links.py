"""What the documents say of tests is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = (".", "docs", "examples", "examples/policy_package", "examples/task_package", "benchmarks/results")
PAGES = [str(path.relative_to(ROOT)) for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]
PAGES += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*/**/*.md"))]


@pytest.mark.parametrize("document", ["SECURITY.md", "docs/guarantees.md"])
def test_the_tests_that_a_document_names_exist(document: str) -> None:
    path = None
    named = re.findall(r"`(tests/[\w/]+\.py|…)(?:::(\w+))?`", (ROOT / document).read_text())
    assert len(named) > 10
    for file, test in named:
        path = path if file == "…" else ROOT / file  # the same file as the one before
        assert path is not None and path.is_file(), file
        assert not test or f"def {test}(" in path.read_text(), f"{file}::{test}"


@pytest.mark.parametrize("document", PAGES)
def test_links_lead_somewhere(document: str) -> None:
    prose = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)\)", prose):
        assert (ROOT / document).parent.joinpath(target).exists(), target
