"""The short run of the answers' part of `make fuzz`, and that it finds what it looks for."""

import time
from typing import Any

import pytest

from tests.fuzz.answers import CALLS, fuzz, run
from tests.fuzz.frames import Tally
from trainer_client import SchedulerClient


def test_a_client_raises_errors_of_its_own_in_its_time_whatever_is_answered() -> None:
    tally = fuzz(range(600), seed=1)
    assert tally.failures == []
    assert tally.cases.total() == 600
    assert tally.cases.keys() == CALLS.keys()
    assert 0 < tally.accepted.total() < 300


def late(client: SchedulerClient) -> Any:
    time.sleep(6)


def another_error(client: SchedulerClient) -> Any:
    return {}["a"]


@pytest.mark.parametrize(("call", "complaint"), [(late, "took 6"), (another_error, "KeyError")])
def test_a_bug_is_found(call: Any, complaint: str) -> None:
    tally = Tally()
    with SchedulerClient() as client:
        run("planted", call, client, 7, tally)
    assert tally.failures[0].startswith("case 7, planted: ")
    assert complaint in tally.failures[0]
