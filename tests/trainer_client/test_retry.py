"""When a call is tried again, by a clock that the tests turn."""

from typing import Any

import pytest

from tests.trainer_client.support.clock import Clock
from trainer_client.retry import Backoff


def pauses(most: int = 100, *, retry_after: float = 0.0, **limits: Any) -> list[float]:
    """The pauses of a call that always fails."""
    clock = Clock()
    backoff = Backoff(sleep=clock.sleep, clock=clock, **limits)
    while len(clock.slept) < most and backoff.pause(retry_after):
        pass
    return clock.slept


def test_pauses_grow_to_a_second() -> None:
    assert pauses(7) == [0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("tries", [1, 2, 4])
def test_so_many_tries_have_a_pause_less(tries: int) -> None:
    assert len(pauses(tries=tries)) == tries - 1


def test_the_last_try_is_at_the_deadline() -> None:
    assert sum(pauses(seconds=3.0)) == pytest.approx(3.0)


def test_no_time_at_all_is_one_try() -> None:
    assert pauses(seconds=0.0) == []


def test_the_service_is_left_alone_as_long_as_it_asks() -> None:
    assert pauses(3, retry_after=0.15) == [0.15, 0.15, 0.2]


def test_what_the_service_asks_for_moves_no_deadline() -> None:
    assert pauses(retry_after=60.0, seconds=2.0) == [2.0]


def test_after_a_success_the_pauses_begin_anew() -> None:
    clock = Clock()
    backoff = Backoff(sleep=clock.sleep, clock=clock)
    backoff.pause()
    backoff.pause()
    backoff.reset()
    backoff.pause()
    assert (clock.slept, backoff.failures) == ([0.05, 0.1, 0.05], 1)
