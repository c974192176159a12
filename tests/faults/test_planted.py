"""The harness can fail: bugs that are planted in a copy of the service are found, and the broken promise named."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import programs

ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).parent / "planted"
PROGRAMS = 400  # within which each is found: at the worst, since how far a kill lets a request come is chance


def copied(folder: Path) -> Path:
    for part in ("bss_cli", "bss_service", "trainer_client", "tests/faults", "tests/support"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def attacked(code: Path, programs: int, *, shared: bool) -> dict[str, Any]:
    """What the harness tells of the service, or those that share a store, in a folder: what was done, and was found."""
    command = [sys.executable, "-m", "tests.faults", "--processes", "1", "--programs", str(programs)]
    command += ["--shared"] if shared else []
    process = subprocess.run(
        [*command, "--no-shrink", "--json"],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=500,
    )
    answer: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return answer


PROMISES = {
    "change-without-the-epoch": "no request fails",  # since what a stale owner stores is in its way
    "change-without-the-token": "a store that is lost takes nothing: it was taken over",
    "feedback-applied-twice-after-a-crash": "feedback counts once",
    "plan-redrawn-after-a-restart": "same step, same bytes",
    "swap-forgets-drawn-samples": "coverage: sample",
    "taken-over-too-early": " answered ",  # 503 by the one that stores second, or other than the other before
    "taking-over-is-not-journaled": "who holds a place stays known",
    "trainer-of-another-incarnation": "a stale trainer counts nowhere",
}
SHARED = ("change-without-the-epoch", "taken-over-too-early")  # two owners who both believe
LONG = (  # to find, or to let a sound service pass
    *SHARED,
    "change-without-the-token",
    "feedback-applied-twice-after-a-crash",
    "swap-forgets-drawn-samples",
    "taking-over-is-not-journaled",
    "trainer-of-another-incarnation",
)


def test_every_bug_can_be_planted(tmp_path: Path) -> None:
    assert {path.stem for path in PLANTED.glob("*.patch")} == set(PROMISES)
    for bug in PROMISES:
        subprocess.run(["git", "apply", "--check", PLANTED / f"{bug}.patch"], cwd=copied(tmp_path / bug), check=True)


@pytest.mark.parametrize("bug", [pytest.param(bug, marks=[pytest.mark.long] * (bug in LONG)) for bug in PROMISES])
def test_a_planted_bug_is_found_where_the_sound_service_passes(tmp_path: Path, bug: str) -> None:
    sound, sick = copied(tmp_path / "sound"), copied(tmp_path / "sick")
    subprocess.run(["git", "apply", PLANTED / f"{bug}.patch"], cwd=sick, check=True)
    shared = bug in SHARED
    if shared and programs() is None:
        pytest.skip("needs PostgreSQL's server: apt-get install postgresql")
    outcome = attacked(sick, PROGRAMS, shared=shared)
    assert len(outcome["violations"]) == 1, outcome["done"]
    found = outcome["violations"][0]
    assert PROMISES[bug] in found and "Traceback" not in found, found
    wrong = attacked(sound, outcome["done"]["programs"], shared=shared)["violations"]
    assert not wrong, wrong[0]
