"""The proof that a swap took hold where it was announced."""

from dataclasses import replace

from demo.results import Results, Step
from demo.swap import first_step_of, prove


def test_a_swap_that_took_hold_where_it_was_announced(results: Results) -> None:
    assert results.swap.changed_at == 14
    assert results.swap.agrees
    assert results.swap.in_the_middle


def test_a_change_at_another_step_is_no_agreement(results: Results) -> None:
    late = replace(results.swap.announced, first_step=13)
    assert not prove(late, results.swapped).agrees


def test_a_gap_in_the_steps_is_no_agreement(results: Results) -> None:
    broken = replace(results.swapped, steps=[s for s in results.swapped.steps if s.step != 12])
    assert not prove(results.swap.announced, broken).agrees


def test_a_swap_at_the_first_step_of_an_epoch_is_not_in_its_middle(results: Results) -> None:
    at_start = replace(results.swap.announced, first_step=10)
    assert not prove(at_start, results.swapped).in_the_middle


def test_a_version_that_comes_and_goes_counts_from_its_last_coming() -> None:
    steps = [Step(number, 0, version, 0.0) for number, version in enumerate([1, 2, 1, 2, 2])]
    assert first_step_of(steps, 2) == 3
    assert first_step_of(steps, 3) is None
