import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bss_service.core.samples.scores import admitted_share, balance_score, minmax, moving_average
from tests.conftest import Golden

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = arrays(np.float32, st.integers(1, 20), elements=finite)
initial_shares = st.floats(0.01, 1)
growths = st.floats(0.5, 1000)


def test_values_are_scaled_to_the_unit_interval() -> None:
    assert minmax(np.array([2.0, 6.0, 3.0])).tolist() == [0.0, 1.0, 0.25]


@given(vectors)
def test_any_finite_values_lie_in_the_unit_interval_and_reach_both_ends(values: np.ndarray) -> None:
    scaled = minmax(values)
    assert scaled.min() == 0
    assert scaled.max() == (1 if values.max() > values.min() else 0)


@given(vectors)
def test_scaling_keeps_the_order(values: np.ndarray) -> None:
    assert (np.diff(minmax(values)[np.argsort(values)]) >= 0).all()


@pytest.mark.parametrize("value", [0.0, -3.0, 1e308, 5e-324])
def test_constant_values_give_0_not_0_over_0(value: float) -> None:
    assert minmax(np.array([value, value, value])).tolist() == [0.0, 0.0, 0.0]


def test_values_at_both_ends_of_the_float_range_do_not_overflow() -> None:
    top = np.finfo(np.float64).max
    assert minmax(np.array([-top, 0.0, top])).tolist() == [0.0, 0.5, 1.0]


def test_nan_stays_nan_and_does_not_count() -> None:
    np.testing.assert_array_equal(minmax(np.array([np.nan, 1.0, 3.0])), [np.nan, 0.0, 1.0])


@pytest.mark.parametrize("size", [0, 3])
def test_nothing_known_gives_nothing(size: int) -> None:
    assert np.isnan(minmax(np.full(size, np.nan))).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_value_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match=f"must be finite, got {value}"):
        minmax(np.array([1.0, value]))


def test_the_score_is_scaled_similarity_minus_scaled_loss() -> None:
    score = balance_score(np.array([0.2, 0.4, 0.6]), np.array([3.0, 2.0, 1.0]))
    np.testing.assert_allclose(score, [-1, 0, 1], atol=1e-15)


@given(st.data(), st.integers(1, 20))
def test_scores_lie_between_minus_1_and_1(data: st.DataObject, n: int) -> None:
    similarity, loss = (data.draw(arrays(np.float32, n, elements=finite)) for _ in range(2))
    assert (np.abs(balance_score(similarity, loss)) <= 1).all()


def test_the_average_moves_by_its_rate() -> None:
    np.testing.assert_allclose(moving_average(np.array([1.0, 0.0]), np.array([0.0, 0.5]), 0.6), [0.4, 0.3], rtol=1e-6)


def test_the_average_begins_with_the_first_value() -> None:
    assert moving_average(np.array([np.nan]), np.array([0.7]), 0.6).tolist() == [np.float32(0.7)]


@given(vectors, st.floats(0, 1))
def test_the_average_lies_between_what_was_and_what_is(values: np.ndarray, rate: float) -> None:
    before, now = minmax(values), minmax(values[::-1])
    average = moving_average(before, now, rate)
    assert (average >= np.minimum(before, now) - 1e-6).all()
    assert (average <= np.maximum(before, now) + 1e-6).all()


def test_shares_are_those_of_the_published_code(golden: Golden) -> None:
    shares = [admitted_share(epoch, initial_share=0.1, growth_epochs=40) for epoch in range(60)]
    np.testing.assert_allclose(shares, golden.pacing, rtol=1e-5)


def test_the_first_epoch_admits_18_64_per_cent_and_the_40th_all() -> None:
    shares = [admitted_share(epoch, initial_share=0.1, growth_epochs=40) for epoch in (0, 38, 39)]
    assert shares == pytest.approx([0.18641, 0.98755, 1.0], abs=1e-5)


@given(st.integers(0, 2**31), initial_shares, growths)
def test_a_share_is_positive_and_at_most_1(epoch: int, initial_share: float, growth: float) -> None:
    assert 0 < admitted_share(epoch, initial_share=initial_share, growth_epochs=growth) <= 1


@given(initial_shares, growths)
def test_squared_shares_grow_by_equal_steps(initial_share: float, growth: float) -> None:
    squares = [admitted_share(epoch, initial_share=initial_share, growth_epochs=growth) ** 2 for epoch in range(20)]
    rising = [s for s in squares if s < 1]
    assert np.diff(rising, n=2) == pytest.approx(0, abs=1e-12)
