"""Means, intervals and verdicts."""

import math

import pytest

from demo.statistics import (
    Interval,
    mean_interval,
    paired_gain,
    share,
    student_t_cdf,
    student_t_quantile,
    verdict,
)


@pytest.mark.parametrize(
    ("freedom", "quantile"),  # of the usual tables, to four places
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)],
)
def test_the_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_t_quantile(0.975, freedom) == pytest.approx(quantile, abs=1e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 6, 7])
def test_the_distribution_is_the_integral_of_its_density(freedom: int) -> None:
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    width = 1.5 / 20_000
    density = [scale * (1 + ((k + 0.5) * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for k in range(20_000)]
    assert student_t_cdf(1.5, freedom) == pytest.approx(0.5 + width * sum(density), abs=1e-8)


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


def test_a_share_of_nothing_is_zero() -> None:
    assert share([]) == 0
    assert share([True, False, False, True]) == 0.5
