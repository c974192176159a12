"""The calendar against an enumeration of every position."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.calendar import Calendar
from tests.bss_service.core.worlds import calendars

STEPS = 60


def epochs_of_positions(calendar: Calendar) -> list[int]:
    """The epoch of each position of the first steps, by counting."""
    whole_batches = calendar.batch_size * (calendar.samples // calendar.batch_size)
    length = calendar.samples if calendar.tail == "carry" else whole_batches
    epochs: list[int] = []
    while len(epochs) < STEPS * calendar.batch_size:
        epochs += [len(epochs) // length] * length
    return epochs


def epochs_of_steps(calendar: Calendar) -> list[int]:
    """The epoch that the last position of each step is in."""
    return epochs_of_positions(calendar)[calendar.batch_size - 1 :: calendar.batch_size][:STEPS]


@given(calendars())
def test_a_step_belongs_to_the_epoch_of_its_last_position(calendar: Calendar) -> None:
    assert [calendar.epoch_of(step) for step in range(STEPS)] == epochs_of_steps(calendar)


@given(calendars())
def test_an_epoch_starts_with_the_first_step_that_belongs_to_it(calendar: Calendar) -> None:
    epochs = epochs_of_steps(calendar)
    for epoch in set(epochs):
        assert calendar.epoch_start(epoch) == epochs.index(epoch)


@given(calendars())
def test_intervals_are_epochs_or_runs_of_equal_length(calendar: Calendar) -> None:
    epochs = epochs_of_steps(calendar)
    numbers = epochs if calendar.interval is None else [step // calendar.interval for step in range(STEPS)]
    for step in range(STEPS):
        if numbers[step] < numbers[-1]:
            mates = [other for other in range(STEPS) if numbers[other] == numbers[step]]
            assert calendar.interval_bounds(step) == (mates[0], mates[-1] + 1)


@given(calendars(), st.integers(0, STEPS), st.integers(0, STEPS))
def test_segments_cover_each_position_once_and_split_where_the_epoch_changes(
    calendar: Calendar, first: int, end: int
) -> None:
    positions = range(first * calendar.batch_size, end * calendar.batch_size)
    runs = groupby(positions, key=epochs_of_positions(calendar).__getitem__)
    expected = [(epoch, run[0], run[-1] + 1) for epoch, run in ((epoch, list(run)) for epoch, run in runs)]
    assert list(calendar.segments(first, end)) == expected


@given(calendars())
def test_epochs_differ_in_length_by_at_most_one_step(calendar: Calendar) -> None:
    lengths = {calendar.epoch_start(epoch + 1) - calendar.epoch_start(epoch) for epoch in range(20)}
    assert max(lengths) - min(lengths) <= (1 if calendar.tail == "carry" else 0)


@pytest.mark.parametrize("tail", ["carry", "drop"])
def test_one_sample_is_one_step_an_epoch(tail: str) -> None:
    calendar = Calendar(1, 1, tail, None)
    assert [calendar.epoch_of(step) for step in range(3)] == [0, 1, 2]
    assert calendar.interval_bounds(7) == (7, 8)


def test_arithmetic_is_exact_beyond_what_a_float_can_count() -> None:
    calendar = Calendar(2**53 + 1, 3, "carry", None)
    assert calendar.epoch_start(3) == 2**53 + 1
    assert (calendar.epoch_of(2**53), calendar.epoch_of(2**53 + 1)) == (2, 3)
