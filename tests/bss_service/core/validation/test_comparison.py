"""Student's interval and the number of pairs, against SciPy and tables."""

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit
from scipy.stats import nct

from bss_service.core.validation.comparison import (
    binomial_spread,
    corrected_level,
    late_spread,
    pairs_needed,
    student_interval,
    student_probability,
    student_quantile,
    verdict_of,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 270])
def test_students_distribution_is_scipys(degrees: int) -> None:
    for t in (-3.0, -0.1, 0.0, 0.7, 12.7):
        assert student_probability(t, degrees) == pytest.approx(stdtr(degrees, t), abs=1e-12)
    for p in (0.025, 0.5, 0.8, 0.9995):
        assert student_quantile(p, degrees) == pytest.approx(stdtrit(degrees, p), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_what_has_no_quantile_is_refused(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match=r"must be .* got"):
        student_quantile(probability, degrees)


def test_the_interval_is_students() -> None:
    mean, half = student_interval(np.array([[1.0, 2, 3, 4, 5], [0, 0, 0, 0, 0]]))
    assert mean == pytest.approx([3, 0])
    assert half == pytest.approx([2.776445 * np.sqrt(2.5) / np.sqrt(5), 0])  # t(0.975; 4), a table's


def test_an_interval_of_one_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        student_interval(np.array([0.3]))


def test_three_intervals_hold_together_as_one_would() -> None:
    assert (1 - corrected_level(3)) * 3 == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.3, "helps"), (-0.3, -0.1, "hurts"), (-0.1, 0.3, "can't tell yet"), (0.0, 0.3, "can't tell yet")],
)
def test_the_verdict_is_the_side_of_0_that_the_interval_is_on(low: float, high: float, verdict: str) -> None:
    assert verdict_of(low, high) == verdict


def power(pairs: int, effect: float) -> float:
    """Of a paired t test at 5 %: exact, by the noncentral t distribution."""
    critical = stdtrit(pairs - 1, 0.975)
    return float(1 - nct.cdf(critical, pairs - 1, effect * np.sqrt(pairs)))


@pytest.mark.parametrize("effect", [2.0, 1.0, 0.5, 0.3, 0.1])
def test_so_many_pairs_find_the_difference_with_80_percent_power(effect: float) -> None:
    pairs = pairs_needed(effect, 1.0)
    assert pairs is not None
    assert power(pairs, effect) >= 0.8
    assert power(pairs - 1, effect) < 0.8
    assert pairs_needed(-effect, 1.0) == pairs


def test_no_number_of_pairs_finds_no_difference() -> None:
    assert pairs_needed(0.0, 1.0) is None
    assert pairs_needed(0.001, 1.0) is None  # 8 million


def test_stricter_levels_take_more_pairs() -> None:
    strict, usual = pairs_needed(1.0, 1.0, corrected_level(5)), pairs_needed(1.0, 1.0)
    assert strict is not None
    assert usual is not None
    assert strict > usual


def test_the_late_spread_is_that_of_the_noise_and_not_of_the_trend() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(scale=0.02, size=4000)
    assert late_spread(np.linspace(0, 1, 4000) + noise) == pytest.approx(0.02, rel=0.1)
    assert late_spread(noise[:3]) is None


def test_the_binomial_spread_is_that_of_two_independent_validation_sets() -> None:
    random = np.random.default_rng(0)
    drawn = random.binomial(330, 0.6, 20_000) / 330 - random.binomial(330, 0.5, 20_000) / 330
    assert binomial_spread(0.6, 0.5, 330) == pytest.approx(drawn.std(), rel=0.03)
