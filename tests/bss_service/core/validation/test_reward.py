import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.validation.reward import modality_balance, normalised_gain, shaping, unexpected_gain, value
from bss_service.protocol.validation import ValidationReport
from tests.bss_service.core.worlds import validation

gains = st.floats(-1e30, 1e30)
chances = st.lists(st.floats(0, 1), min_size=2, max_size=5)


def report(*probabilities: float, loss: float = 1.0, accuracy: float = 0.5) -> ValidationReport:
    return validation(0, loss, accuracy, probabilities, probabilities)


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def test_less_loss_and_more_accuracy_are_better() -> None:
    assert (value(report(loss=2.0), "loss"), value(report(accuracy=0.7), "accuracy")) == (-2.0, 0.7)


@pytest.mark.parametrize(
    ("probabilities", "balance"),
    [((0.6, 0.2), 0.5), ((0.5, 0.5), 1.0), ((0.9, 0.0), 0.0), ((0.0, 0.0), 1.0), ((0.6, 0.3, 0.1), 0.5)],
)
def test_balance_is_1_minus_the_gap_over_the_sum(probabilities: tuple[float, ...], balance: float) -> None:
    assert modality_balance(report(*probabilities)) == pytest.approx(balance)


@given(chances)
def test_balance_lies_in_the_unit_interval(probabilities: list[float]) -> None:
    assert 0 <= modality_balance(report(*probabilities)) <= 1


@pytest.mark.parametrize(
    ("gain", "reward"),
    # With the gains 0 to 4 before it, the 20 % and 80 % quantiles are 1 and 3 for a gain between those.
    [(2.5, 0.5), (2.0, 0.0), (1.0, -1.0), (3.0, 1.0), (-7.0, -1.0), (9.0, 1.0)],
)
def test_a_gain_is_placed_between_the_quantiles_of_those_before(gain: float, reward: float) -> None:
    assert normalised_gain(gain, [0.0, 1.0, 2.0, 3.0, 4.0]) == pytest.approx(reward)


@pytest.mark.parametrize("history", [[], [0.3], [0.3, 0.3, 0.3]])
def test_a_gain_like_all_others_is_worth_0(history: list[float]) -> None:
    assert normalised_gain(0.3, history) == 0.0


@given(gains, st.lists(gains, max_size=40))
def test_normalised_gains_agree_with_quantiles_by_hand(gain: float, history: list[float]) -> None:
    recent = [*history[-19:], gain]
    low, high = quantile(recent, 0.2), quantile(recent, 0.8)
    expected = min(1.0, max(-1.0, 2 * (gain - low) / (high - low) - 1)) if high > low else 0.0
    scale = max(abs(v) for v in recent) / (high - low) if high > low else 1.0
    assert normalised_gain(gain, history) == pytest.approx(expected, abs=1e-12 * (1 + scale))


def test_gains_of_long_ago_are_forgotten() -> None:
    recent = [float(k % 5) for k in range(19)]
    assert normalised_gain(2.5, [1e6] * 50 + recent) == normalised_gain(2.5, recent)


def test_shaping_is_the_discounted_balance_less_the_balance_before() -> None:
    assert shaping(report(0.9, 0.0), report(0.6, 0.2), discount=0.9) == pytest.approx(0.45)


@given(st.lists(chances, min_size=2, max_size=6), st.floats(0.1, 1))
def test_discounted_shaping_sums_to_the_ends_alone(course: list[list[float]], discount: float) -> None:
    reports = [report(*probabilities) for probabilities in course]
    total = sum(discount**t * shaping(reports[t], reports[t + 1], discount) for t in range(len(reports) - 1))
    last, first = modality_balance(reports[-1]), modality_balance(reports[0])
    assert total == pytest.approx(discount ** (len(course) - 1) * last - first, abs=1e-12)


def test_gains_as_large_as_float32_holds_stay_finite() -> None:
    top = 2 * float(np.finfo(np.float32).max)
    assert normalised_gain(top, [-top, 0.0, top]) == 1.0


def test_a_gain_as_large_as_the_trend_is_no_surprise() -> None:
    gains = [0.8**k for k in range(10)]
    surprises = [unexpected_gain(gain, gains[:k]) for k, gain in enumerate(gains)]
    np.testing.assert_allclose(surprises[2:], 0, atol=1e-12)
    assert unexpected_gain(0.5, gains) > 0 > unexpected_gain(-0.5, gains)


def test_of_the_first_gain_nothing_is_expected() -> None:
    assert unexpected_gain(3.0, []) == 0.0
