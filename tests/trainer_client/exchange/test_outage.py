"""When a trainer goes on without its service, by a clock that the tests turn."""

import math

import pytest

from tests.trainer_client.support.clock import Clock
from trainer_client.exchange.outage import OnOutage, Outage, State


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("on_outage", ["local", "raise"])
def test_an_outage_is_waited_out_for_so_many_seconds(clock: Clock, on_outage: OnOutage) -> None:
    outage = Outage(on_outage, after=10.0, clock=clock)
    outage.failed()
    clock.now += 9.0
    assert (outage.fallback(), outage.seconds_left()) == ("wait", 1.0)
    clock.now += 1.0
    assert (outage.fallback(), outage.seconds_left()) == (on_outage, 0.0)


def test_who_waits_does_so_for_ever(clock: Clock) -> None:
    outage = Outage("wait", after=0.0, clock=clock)
    outage.failed()
    clock.now += 1e6
    assert (outage.fallback(), outage.seconds_left()) == ("wait", math.inf)


def test_no_outage_is_no_reason_to_fall_back(clock: Clock) -> None:
    outage = Outage("raise", after=0.0, clock=clock)
    assert (outage.state, outage.fallback(), outage.seconds_left()) == (State.UP, "wait", math.inf)


def test_an_outage_counts_from_its_first_failure(clock: Clock) -> None:
    outage = Outage("raise", after=10.0, clock=clock)
    outage.failed()
    clock.now += 6.0
    outage.failed()
    assert outage.seconds_left() == 4.0


def test_after_a_silent_call_it_counts_from_before_the_call(clock: Clock) -> None:
    clock.now = 20.0
    outage = Outage("raise", after=10.0, clock=clock)
    outage.failed(since=15.0)
    assert outage.seconds_left() == 5.0


def test_a_service_that_is_back_may_hold_a_call_for_as_long_as_it_likes(clock: Clock) -> None:
    outage = Outage("raise", after=1.0, clock=clock)
    outage.failed()
    outage.answered()
    clock.now += 1e6
    assert (outage.state, outage.fallback()) == (State.HELD, "wait")


def test_a_held_call_that_fails_goes_on_with_the_outage_before(clock: Clock) -> None:
    outage = Outage("raise", after=10.0, clock=clock)
    outage.failed()
    outage.answered()
    clock.now += 6.0
    outage.failed()
    assert (outage.state, outage.seconds_left()) == (State.DOWN, 4.0)


def test_work_that_is_done_ends_an_outage(clock: Clock) -> None:
    outage = Outage("raise", after=10.0, clock=clock)
    outage.failed()
    outage.ended()
    clock.now += 20.0
    outage.failed()
    assert outage.seconds_left() == 10.0
