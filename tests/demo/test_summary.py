"""Intervals, the table's rows, and the sentences about them."""

from dataclasses import replace
from statistics import stdev

import pytest

from demo.plan import NOISY
from demo.results import Results
from demo.summary import (
    Interval,
    Row,
    headline,
    mean_interval,
    paired_gain,
    rows,
    signed,
    verdict,
    with_interval,
)


@pytest.mark.parametrize(
    ("freedom", "quantile"),  # of the usual tables, to four places
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)],
)
def test_half_an_interval_is_the_tables_quantile_in_standard_errors(freedom: int, quantile: float) -> None:
    values = [float(k) for k in range(freedom + 1)]
    error = stdev(values) / len(values) ** 0.5
    assert mean_interval(values).half_width / error == pytest.approx(quantile, abs=1e-4)


def test_an_interval_of_three_values_computed_by_hand() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])  # s = 1, t = 4.3027, 4.3027 / √3 = 2.4842
    assert interval.mean == pytest.approx(2.0)
    assert interval.half_width == pytest.approx(2.4842, abs=1e-4)


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert mean_interval([0.5]) == Interval(0.5, None)
    assert verdict(mean_interval([0.5])) == "can't tell"


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        mean_interval([])


def test_pairing_takes_away_what_the_seeds_have_in_common() -> None:
    gain = paired_gain([10.0, 50.0, 91.0], [9.0, 49.0, 90.0])
    assert gain.mean == pytest.approx(1.0)
    assert gain.half_width == pytest.approx(0.0, abs=1e-9)


def test_values_of_different_numbers_of_seeds_are_not_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_gain([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(2.0, 1.0), "better"),
        (Interval(-2.0, 1.0), "worse"),
        (Interval(1.0, 1.0), "can't tell"),
        (Interval(-0.5, 1.0), "can't tell"),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_zero(interval: Interval, expected: str) -> None:
    assert verdict(interval) == expected


@pytest.fixture
def table(results: Results) -> list[Row]:
    return rows(results)


def _judged(row: Row, mean: float, half_width: float | None) -> Row:
    if row.gain is None:
        return row
    gain = Interval(mean, half_width)
    return replace(row, gain=gain, verdict=verdict(gain))


def test_a_row_holds_means_over_seeds_in_points(table: list[Row]) -> None:
    row = next(r for r in table if r.policy == "balance" and r.condition == NOISY)
    assert row.accuracy["joint"].mean == pytest.approx(64.0)
    assert row.gain is not None
    assert row.gain.mean == pytest.approx(4.0)
    assert row.gains == pytest.approx([3.0, 5.0])


def test_the_baseline_has_no_gain_over_itself(table: list[Row]) -> None:
    assert [row.policy for row in table if row.gain is None] == ["uniform", "uniform"]


def test_the_measuring_pass_is_counted(table: list[Row]) -> None:
    assert {row.policy for row in table if row.extra_forward_samples} == {"curriculum"}


def test_the_headline_says_so_when_nothing_beat_uniform(table: list[Row]) -> None:
    text = headline([_judged(row, 0.5, 1.0) for row in table])
    assert text == (
        "No policy beat uniform: in none of the 6 comparisons does the 95 % interval of the gain lie above 0. "
        "In all 6 comparisons the seeds can't tell."
    )


def test_the_headline_names_what_beat_uniform_and_what_lost_to_it(table: list[Row]) -> None:
    judged = [_judged(row, 0.5, 1.0) for row in table]
    judged[2] = _judged(judged[2], 3.0, 1.0)
    judged[5] = _judged(judged[5], -2.0, 0.5)
    assert headline(judged) == (
        "balance beat uniform on clean labels by 3.0 points (95 % interval of the gain +2.0 to +4.0). "
        "curriculum lost to uniform on 30 % noisy labels by 2.0 points (95 % interval of the gain −2.5 to −1.5). "
        "In the other 4 comparisons the seeds can't tell."
    )


def test_the_headline_claims_nothing_from_one_seed(table: list[Row]) -> None:
    assert "nothing is claimed" in headline([_judged(row, 5.0, None) for row in table])


def test_numbers_are_written_with_a_true_minus() -> None:
    assert signed(-1.25) == "−1.2"
    assert with_interval(Interval(-1.0, 2.0), sign=True) == "−1.0 ± 2.0"
    assert with_interval(Interval(61.0, None)) == "61.0"
