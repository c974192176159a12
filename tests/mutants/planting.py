"""Faults that are planted one by one in a copy of the tree, and whether the tests that are named for each notice it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
PARTS: Final = ("bss_cli", "bss_service", "trainer_client", "envs", "demo", "benchmarks", "tests", "pyproject.toml")
SECONDS: Final = 120.0  # for the tests of one fault: a fault that makes them hang is noticed too
FAILED: Final = 1  # pytest's exit status where tests failed; others mean that it could not run them


class Outcome(Enum):
    """What became of tests. Only those that failed say something of a fault for certain."""

    PASSED = "passed"
    FAILED = "failed"
    LATE = "late"  # the fault made them hang, or the machine is slow


class EntryError(Exception):
    """An entry that says nothing: its text is not there, or its tests do not run."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted fault: `before` occurs once in `file`, and `tests` are to fail when `after` stands there."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def planted(self, text: str) -> str:
        """The file's text with the fault. Raises EntryError unless `before` occurs in it exactly once."""
        if (times := text.count(self.before)) != 1:
            raise EntryError(f"{self.name}: before must occur once in {self.file}, got {times} times")
        return text.replace(self.before, self.after)


def mutants(folder: Path = HERE) -> list[Mutant]:
    """All entries of the folder's TOML files, by file and in order."""
    tables = [table for path in sorted(folder.glob("*.toml")) for table in tomllib.loads(path.read_text())["mutant"]]
    entries = [Mutant(**{**table, "tests": tuple(table["tests"])}) for table in tables]
    names = [entry.name for entry in entries]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise EntryError(f"names must differ, got {sorted(repeated)} more than once")
    return entries


class Copy:
    """A copy of the tree, in which one fault at a time is planted."""

    def __init__(self, folder: Path, root: Path = ROOT, parts: Iterable[str] = PARTS) -> None:
        self.folder, self.root = folder, root
        for part in parts:
            source, target = root / part, folder / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)

    def outcome(self, mutant: Mutant) -> Outcome:
        """Of its tests under it. Raises EntryError where they can't be run."""
        path = self.folder / mutant.file
        sound = path.read_text()
        path.write_text(mutant.planted(sound))
        try:
            return self.run(mutant.tests)
        finally:
            path.write_text(sound)

    def run(self, tests: Sequence[str], seconds: float = SECONDS) -> Outcome:
        """Of tests in the copy as it is now, which have so many seconds."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        # A file that is changed twice within a second, and to the same size, would be taken for its compiled form.
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and they take seconds to load
        environment.setdefault("BSS_SHARED", str(self.root.parent / "shared"))  # where tests of the tree itself look
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return Outcome.LATE
        if done.returncode not in (0, FAILED):
            raise EntryError(f"{' '.join(tests)} could not be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return Outcome.FAILED if done.returncode else Outcome.PASSED


def missing_tests(mutant: Mutant, root: Path = ROOT) -> list[str]:
    """Those of its tests whose function is not in its file; parameters are not looked at."""

    def is_there(test: str) -> bool:
        path, *names = re.sub(r"\[.*", "", test).split("::")
        if not names:
            return (root / path).exists()
        text = (root / path).read_text() if (root / path).is_file() else ""
        return bool(text) and all(
            re.search(rf"^ *(def|class) {re.escape(name)}\b", text, re.MULTILINE) for name in names
        )

    return [test for test in mutant.tests if not is_there(test)]
