"""The list of planted faults says something, and a few of them are planted; all are by `make mutants`."""

from pathlib import Path

import pytest

from tests.mutants.planting import ROOT, Copy, EntryError, Mutant, Outcome, missing_tests, mutants

SHORT = (  # whose tests take no time
    "percentiles-not-widened-for-few-seeds",
    "a-confusion-transposed",
)
SOUND = "def twice(x):\n    return 2 * x\n"
TEST = "from code_under_test import twice\n\n\ndef test_twice():\n    assert twice(0) == 0\n    assert twice(3) == 6\n"


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_every_fault_can_be_planted_and_its_tests_are_there(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert mutant.planted(text) != text
    assert mutant.tests
    assert missing_tests(mutant) == []


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """Of a tree that holds one function and its test."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "code_under_test.py").write_text(SOUND)
    (root / "test_twice.py").write_text(TEST)
    (tmp_path / "copy").mkdir()
    return Copy(tmp_path / "copy", root, ("code_under_test.py", "test_twice.py"))


@pytest.mark.parametrize(
    ("after", "outcome"),
    [("return 3 * x", Outcome.FAILED), ("return x + x", Outcome.PASSED), ("return int(1e9) // 0", Outcome.FAILED)],
)
def test_a_fault_is_noticed_when_its_tests_fail_and_is_taken_out_again(
    copy: Copy, after: str, outcome: Outcome
) -> None:
    mutant = Mutant("planted", "code_under_test.py", "return 2 * x", after, ("test_twice.py::test_twice",))
    assert copy.outcome(mutant) is outcome
    assert (copy.folder / "code_under_test.py").read_text() == SOUND


@pytest.mark.parametrize(
    ("before", "tests", "sentence"),
    [
        ("return 4 * x", "test_twice.py", "planted: before must occur once in code_under_test.py, got 0 times"),
        ("x", "test_twice.py", "got 2 times"),
        ("return 2 * x", "test_thrice.py", "could not be run"),
        ("return 2 * x", "test_twice.py::test_thrice", "could not be run"),
    ],
)
def test_an_entry_that_says_nothing_is_an_error(copy: Copy, before: str, tests: str, sentence: str) -> None:
    with pytest.raises(EntryError, match=sentence):
        copy.outcome(Mutant("planted", "code_under_test.py", before, "return 0", (tests,)))


def test_tests_that_come_to_no_end_are_told_apart(copy: Copy) -> None:
    (copy.folder / "test_twice.py").write_text("import time\n\n\ndef test_twice():\n    time.sleep(60)\n")
    assert copy.run(["test_twice.py"], seconds=2.0) is Outcome.LATE


def test_a_test_that_is_not_there_is_named() -> None:
    here = "tests/mutants/test_mutants.py"
    mutant = Mutant(
        "planted", here, "", "", (f"{here}::test_nobody", f"{here}::test_a_test_that_is_not_there_is_named")
    )
    assert missing_tests(mutant) == [f"{here}::test_nobody"]


def test_some_faults_are_noticed(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    chosen = [mutant for mutant in mutants() if mutant.name in SHORT]
    assert len(chosen) == len(SHORT)
    assert copy.run([test for mutant in chosen for test in mutant.tests]) is Outcome.PASSED
    assert [mutant.name for mutant in chosen if copy.outcome(mutant) is not Outcome.FAILED] == []
