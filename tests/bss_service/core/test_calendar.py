"""The calendar against an enumeration of every position."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.calendar import Calendar
from tests.bss_service.core.worlds import calendars

STEPS = 60


@st.composite
def grown(draw: st.DrawFn, calendars: st.SearchStrategy[Calendar]) -> Calendar:
    """A calendar, perhaps of a job that has grown."""
    calendar = draw(calendars)
    for more in draw(st.lists(st.integers(1, 5), max_size=3)):
        calendar = calendar.grown(calendar.samples + more, draw(st.integers(0, 6)))
    return calendar


def epochs_of_positions(calendar: Calendar) -> list[int]:
    """The epoch of each position of the first steps, by counting."""
    epochs: list[int] = []
    epoch = 0
    while len(epochs) < STEPS * calendar.batch_size:
        samples = next((samples for samples, until in calendar.earlier if epoch < until), calendar.samples)
        whole_batches = calendar.batch_size * (samples // calendar.batch_size)
        epochs += [epoch] * (samples if calendar.tail == "carry" else whole_batches)
        epoch += 1
    return epochs


def epochs_of_steps(calendar: Calendar) -> list[int]:
    """The epoch that the last position of each step is in."""
    return epochs_of_positions(calendar)[calendar.batch_size - 1 :: calendar.batch_size][:STEPS]


@given(grown(calendars()))
def test_a_step_belongs_to_the_epoch_of_its_last_position(calendar: Calendar) -> None:
    assert [calendar.epoch_of(step) for step in range(STEPS)] == epochs_of_steps(calendar)


@given(grown(calendars()))
def test_an_epoch_starts_with_the_first_step_that_belongs_to_it(calendar: Calendar) -> None:
    epochs = epochs_of_steps(calendar)
    for epoch in set(epochs):
        assert calendar.epoch_start(epoch) == epochs.index(epoch)


@given(grown(calendars()))
def test_intervals_are_epochs_or_runs_of_equal_length(calendar: Calendar) -> None:
    epochs = epochs_of_steps(calendar)
    numbers = epochs if calendar.interval is None else [step // calendar.interval for step in range(STEPS)]
    for step in range(STEPS):
        if numbers[step] < numbers[-1]:
            mates = [other for other in range(STEPS) if numbers[other] == numbers[step]]
            assert calendar.interval_bounds(step) == (mates[0], mates[-1] + 1)


@given(grown(calendars()), st.integers(0, STEPS), st.integers(0, STEPS))
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


@given(grown(calendars()), st.integers(0, 20), st.integers(1, 9))
def test_a_growth_changes_no_epoch_of_which_something_is_drawn(calendar: Calendar, step: int, more: int) -> None:
    after = calendar.grown(calendar.samples + more, epoch := calendar.epoch_after(step))
    assert [after.epoch_of(s) for s in range(step)] == [calendar.epoch_of(s) for s in range(step)]
    assert [after.samples_of(e) for e in range(epoch)] == [calendar.samples_of(e) for e in range(epoch)]
    assert after.samples_of(epoch) == calendar.samples + more
    assert after.epoch_begin(epoch) == calendar.epoch_begin(epoch) >= step * calendar.batch_size


@given(grown(calendars()), st.integers(0, 20), st.integers(1, 40))
def test_steps_between_growths_are_of_epochs_of_one_size(calendar: Calendar, first: int, steps: int) -> None:
    end = calendar.alike_until(first, first + steps)
    assert first < end <= first + steps
    sizes = [calendar.samples_of(calendar.epoch_of(step)) for step in range(first, first + steps + 1)]
    assert len(set(sizes[: end - first])) == 1
    assert end == first + steps or sizes[end - first] > sizes[0]


def test_of_what_a_job_grew_by_before_an_epoch_was_drawn_only_the_last_is_known() -> None:
    calendar = Calendar(10, 4, "carry", None).grown(12, 0).grown(13, 2).grown(15, 2)
    assert calendar.earlier == ((10, 0), (12, 2))
    assert [calendar.samples_of(epoch) for epoch in range(4)] == [12, 12, 15, 15]
    assert calendar.before() == Calendar(12, 4, "carry", None, ((10, 0),))
