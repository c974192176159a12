"""What stands for many numbers: nothing that would be seen is lost."""

import numpy as np
import pytest

from bss_service.core.samples.summaries import BINS, CELLS, binned, density, thinned

RNG = np.random.default_rng(3)


def test_few_rows_stay_as_they_are() -> None:
    x, values = np.arange(5.0), RNG.normal(size=(5, 2))
    kept_x, kept = thinned(x, values, 6)
    assert np.array_equal(kept_x, x)
    assert np.array_equal(kept, values)


@pytest.mark.parametrize("most", [2, 3, 100, 2000])
def test_of_many_rows_few_are_left_and_every_peak_with_them(most: int) -> None:
    x, values = np.arange(100_000.0), RNG.normal(size=(100_000, 3))
    values[77_123, 1] = 99.0
    kept_x, kept = thinned(x, values, most)
    assert len(kept_x) == len(kept) <= most
    assert (np.diff(kept_x) >= 0).all()
    assert np.array_equal(kept.max(axis=0), values.max(axis=0))
    assert np.array_equal(kept.min(axis=0), values.min(axis=0))
    at = kept_x[kept[:, 1].argmax()]
    assert abs(at - 77_123) <= 2 * len(x) / most


def test_what_rises_rises_when_thinned_out() -> None:
    x = np.arange(10_001.0)
    _, kept = thinned(x, np.stack([x, -x], axis=1), 50)
    assert (np.diff(kept[:, 0]) > 0).all()
    assert (np.diff(kept[:, 1]) < 0).all()


def test_what_is_not_known_leaves_no_trace_beside_what_is() -> None:
    values = np.full((1000, 2), np.nan)
    values[5::10, 0] = 1.0
    _, kept = thinned(np.arange(1000.0), values, 20)
    assert np.array_equal(kept[:, 0], np.ones(20))
    assert np.isnan(kept[:, 1]).all()


def test_a_histogram_counts_every_known_value_once() -> None:
    values = np.concatenate([RNG.normal(size=9999), [1e9, np.nan]])
    found = binned(values)
    assert found.counts.sum() == 10_000
    assert len(found.edges) == BINS + 1 == len(found.counts) + 1
    assert found.edges[-1] < 10  # one that lies far outside does not squeeze all others into one bin


def test_whole_numbers_get_a_bin_each_as_long_as_they_are_few() -> None:
    few = binned(np.array([0.0, 0, 2, 3, 3, 3]), low=0, whole=True)
    assert few.edges.tolist() == [0, 1, 2, 3, 4]
    assert few.counts.tolist() == [2, 0, 1, 3]
    many = binned(np.arange(1000.0), low=0, whole=True)
    assert len(many.counts) <= BINS
    assert many.counts.sum() == 1000
    assert (np.diff(many.edges) == np.diff(many.edges)[0]).all()
    assert many.edges[1] % 1 == 0


@pytest.mark.parametrize("values", [np.array([2.5]), np.full(7, -1.0)])
def test_values_that_are_all_the_same_have_a_histogram(values: np.ndarray) -> None:
    assert binned(values).counts.sum() == len(values)
    assert binned(values, low=values[0], whole=True).counts.sum() == len(values)
    assert density(values, values).counts.sum() == len(values)


def test_of_nothing_there_is_nothing() -> None:
    assert binned(np.array([np.nan])).counts.shape == (0,)
    assert density(np.array([np.nan, 1.0]), np.array([1.0, np.nan])).counts.shape == (0, 0)


def test_a_density_is_the_two_dimensional_histogram_of_what_lies_inside() -> None:
    x, y = RNG.uniform(size=5000), RNG.exponential(size=5000)
    found = density(x, y)
    assert found.counts.shape == (CELLS, CELLS)
    assert found.counts.sum() == 5000
    inside = (x >= found.x[0]) & (x < found.x[1]) & (y >= found.y[0]) & (y < found.y[1])
    expected, _, _ = np.histogram2d(x[inside], y[inside], bins=CELLS, range=[found.x, found.y])
    assert abs(found.counts[1:-1, 1:-1] - expected[1:-1, 1:-1]).sum() <= 2  # a value on an edge may fall either way
