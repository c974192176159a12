"""The rate limit, by a clock that the tests turn."""

import pytest

from bss_service.http.rates import MAX_CLIENTS, RateLimiter, TooManyError


class Clock:
    """Shows the time that was set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(limiter: RateLimiter, client: str, times: int) -> int:
    """How many of so many requests pass."""
    passed = 0
    for _ in range(times):
        try:
            limiter.take(client)
        except TooManyError:
            continue
        passed += 1
    return passed


def test_a_client_gets_one_seconds_worth_at_once_and_then_its_rate(clock: Clock) -> None:
    limiter = RateLimiter(5, clock)
    assert taken(limiter, "a", 100) == 5
    clock.now += 0.4
    assert taken(limiter, "a", 100) == 2
    clock.now += 3600
    assert taken(limiter, "a", 100) == 5


def test_one_client_takes_nothing_from_another(clock: Clock) -> None:
    limiter = RateLimiter(5, clock)
    assert [taken(limiter, "a", 100), taken(limiter, "b", 100)] == [5, 5]


def test_who_waits_as_long_as_told_passes(clock: Clock) -> None:
    limiter = RateLimiter(0.25, clock)
    limiter.take("a")
    clock.now += 1
    with pytest.raises(TooManyError) as refusal:
        limiter.take("a")
    assert refusal.value.retry_after == 3.0
    clock.now += refusal.value.retry_after
    limiter.take("a")


def test_what_is_kept_of_clients_is_bounded_and_none_gains_by_it(clock: Clock) -> None:
    limiter = RateLimiter(1, clock)
    for number in range(3 * MAX_CLIENTS):
        limiter.take(str(number))
    assert len(limiter._buckets) == MAX_CLIENTS
    assert taken(limiter, str(3 * MAX_CLIENTS - 1), 1) == 0
    clock.now += 1
    limiter.take("last")
    assert len(limiter._buckets) == 1  # those that are full again are forgotten
