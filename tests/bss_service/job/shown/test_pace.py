"""How fast a job goes, by a clock that the test sets."""

import numpy as np

from bss_service.job.shown.pace import MOST, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_steps_and_waits_stand_at_their_time() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.hand_out(3)
    pace.hold(0.5)
    clock.now += 2
    pace.hand_out(4)
    pace.plan(0.25)
    begin, rows = pace.rows()
    assert begin.tolist() == [1000, 1001, 1002]
    assert rows.tolist() == [[3, 0.5, 0], [0, 0, 0], [4, 0, 0.25]]


def test_nothing_is_lost_and_no_more_is_kept_however_long_it_runs() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(5000):
        pace.hand_out(2)
        clock.now += 7.3
    begin, rows = pace.rows()
    assert MOST / 4 < len(begin) <= MOST
    assert round(float(rows[:, 0].sum() * pace.seconds)) == 10_000
    assert np.allclose(np.diff(begin), pace.seconds)


def test_a_clock_that_jumps_years_does_no_harm() -> None:
    clock = Clock()
    pace = Pace(clock)
    for now in (1000.0, 1e9, 5.0, 2e9):
        clock.now = now
        pace.hand_out(1)
    begin, rows = pace.rows()
    assert len(begin) <= MOST
    assert round(float(rows[:, 0].sum() * pace.seconds)) == 4


def test_silence_is_counted_from_the_last_request() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.silence() is None
    pace.hand_out(0)
    clock.now += 12
    assert pace.silence() == 12
