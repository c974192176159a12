"""The short run of `make fuzz`, and that it finds what it looks for."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.fuzz.frames import Tally, Target, attempt, case, fuzz, run, targets
from tests.fuzz.mutations import OF_JSON


def test_wrong_bytes_are_refused_by_name_or_read_and_written_again_alike() -> None:
    tally = fuzz(4000, seed=1)
    assert tally.failures == []
    assert tally.cases.total() == 4000
    assert len(tally.cases) == len(tally.accepted) == len(targets())


def test_every_valid_beginning_is_read() -> None:
    for target in targets():
        for data in target.valid:
            assert attempt(target, data)


def test_a_case_is_always_the_same() -> None:
    assert [case(targets(), 3, k)[1] for k in range(50)] == [case(targets(), 3, k)[1] for k in range(50)]


def lookup(data: bytes) -> Any:
    return {}[data]


def warning(data: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("careful", stacklevel=1)


def slow(data: bytes) -> Any:
    return sum(range(100_000_000))


PLANTED: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes], str]] = {
    "another error": (lookup, json.dumps, "KeyError"),
    "a warning": (warning, json.dumps, "UserWarning: careful"),
    "a writer that forgets": (json.loads, lambda value: b"[1]", "it was [1, 2]"),
    "a reader that takes long": (slow, lambda value: b"", "took"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_is_found(bug: str) -> None:
    read, write, complaint = PLANTED[bug]
    tally = Tally()
    run(Target("planted", read, write, [b"[1,2]"], OF_JSON), b"[1,2]", 7, tally)  # type: ignore[arg-type]
    assert "case 7, planted: " in tally.failures[0]
    assert complaint in tally.failures[0]
