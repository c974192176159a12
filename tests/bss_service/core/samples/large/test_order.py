"""A weighted order as a stream, held against the one in memory. χ² tests pass by odds of 10,000 to 1 on fixed seeds."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chi2

from bss_service.core.arrays import Float64
from bss_service.core.samples.large.order import first_of, ordered
from bss_service.core.samples.large.shards import ROWS, Shards
from bss_service.core.sampling import weighted_order


def shards_of(logs: Float64) -> Shards:
    return Shards.of(len(logs), lambda start, stop: logs[start:stop])


def order_of(logs: Float64, stream: int = 0, first: int = 4, most: int = 64) -> np.ndarray:
    return np.concatenate([run.indices for run in ordered(shards_of(logs), 7, stream, first, most)])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two samples."""
    for name in ("shards", "order"):
        monkeypatch.setattr(f"bss_service.core.samples.large.{name}.ROWS", 2)


def chance(order: tuple[int, ...], weights: Float64) -> float:
    """Of an order in which each next sample is drawn in proportion to its weight among those left."""
    left = weights.sum() - np.cumsum([0.0, *weights[list(order[:-1])]])
    return float(np.prod(weights[list(order)] / left))


def test_whole_orders_come_as_often_as_they_should(tiny: None) -> None:
    weights = np.array([1.0, 2, 3, 4, 6])  # of three shards
    orders = list(permutations(range(5)))
    number = {order: k for k, order in enumerate(orders)}
    shards, counts = shards_of(np.log(weights)), np.zeros(len(orders))
    times = 6000
    for stream in range(times):
        counts[number[tuple(first_of(shards, 3, stream, 5).indices.tolist())]] += 1
    expected = times * np.array([chance(order, weights) for order in orders])
    common = expected >= 5
    counts = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1) > 1e-4


def test_it_is_distributed_as_the_order_in_memory() -> None:
    n, rng = 3 * ROWS + 17, np.random.default_rng(0)
    logs = rng.normal(0, 1.5, n)
    shards = shards_of(logs)
    bins = np.digitize(logs, np.linspace(-3, 3, 12))
    streamed, in_memory = np.zeros((4, 13)), np.zeros((4, 13))
    for stream in range(40):
        for counts, order in (
            (streamed, first_of(shards, 1, stream, n).indices),
            (in_memory, weighted_order(logs, rng.random(n))),
        ):
            for quarter, part in enumerate(np.array_split(order, 4)):
                counts[quarter] += np.bincount(bins[part], minlength=13)
    both = streamed + in_memory  # χ² of two samples; within a pass counts vary less than independent ones
    some = both > 20
    statistic = ((streamed - in_memory)[some] ** 2 / both[some]).sum()
    assert chi2.sf(statistic, int(some.sum())) > 1e-4
    skewed = np.abs(streamed[0] - in_memory[3])[some[0]]
    assert (skewed > 4 * np.sqrt(both[0][some[0]])).any()  # a test that can tell first from last


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_every_sample_comes_once_whatever_the_windows(spread: float) -> None:
    logs = np.random.default_rng(1).normal(0, 1, 4 * ROWS + 1) * spread
    whole = order_of(logs, first=len(logs), most=len(logs))
    np.testing.assert_array_equal(np.sort(whole), np.arange(len(logs)))
    for first, most in ((1, 1000), (256, 4096)):
        np.testing.assert_array_equal(order_of(logs, first=first, most=most), whole)


def test_weights_of_zero_come_last_and_no_candidates_not_at_all() -> None:
    logs = np.random.default_rng(2).normal(0, 1, 2 * ROWS)
    never, not_there = np.arange(5, ROWS, 7), np.arange(6, 2 * ROWS, 7)
    logs[never], logs[not_there] = -np.inf, np.nan
    order = order_of(logs)
    assert set(order[-len(never) :].tolist()) == set(never.tolist())
    assert (np.diff(order[-len(never) :]) < 0).any()
    np.testing.assert_array_equal(np.sort(order), np.delete(np.arange(2 * ROWS), not_there))


def test_where_every_weight_is_zero_the_order_is_uniform() -> None:
    shards = shards_of(np.full(ROWS + 3, -np.inf))
    rows = first_of(shards, 0, 0, ROWS + 3)
    np.testing.assert_array_equal(np.sort(rows.indices), np.arange(ROWS + 3))
    np.testing.assert_allclose(rows.probabilities, 1 / (ROWS + 3), rtol=1e-6)


def test_probabilities_are_those_of_being_first() -> None:
    logs = np.random.default_rng(3).normal(0, 1, ROWS + 9)
    rows = first_of(shards_of(logs), 0, 0, 500)
    np.testing.assert_allclose(rows.probabilities, np.exp(logs[rows.indices]) / np.exp(logs).sum(), rtol=1e-6)


def test_the_first_rows_are_the_same_again_and_other_ones_in_another_stream() -> None:
    logs = np.zeros(5 * ROWS)
    rows = first_of(shards_of(logs), 7, 2, 300).indices
    np.testing.assert_array_equal(rows, first_of(shards_of(logs), 7, 2, 300).indices)
    np.testing.assert_array_equal(rows, order_of(logs, stream=2)[:300])
    assert (rows != first_of(shards_of(logs), 7, 3, 300).indices).any()


def test_a_run_looks_at_no_more_shards_than_it_has_rows() -> None:
    looked_at: list[int] = []

    def alike(start: int, stop: int) -> Float64:
        looked_at.append(start)
        return np.zeros(stop - start)

    shards = Shards.of(500 * ROWS, alike)
    looked_at.clear()
    rows = len(next(ordered(shards, 0, 0, 16, 16)).indices)
    assert 0 < len(set(looked_at)) == len(looked_at) <= rows <= 40


def test_the_first_rows_open_about_as_many_shards_at_the_most() -> None:
    opened: list[None] = []
    shards = Shards.of(500 * ROWS, lambda start, stop: np.zeros(stop - start))
    first_of(shards, 0, 0, 64, lambda: opened.append(None))
    assert len(opened) <= 64 + 64 // 8 + 40  # five standard deviations


def test_whoever_waits_no_longer_ends_it() -> None:
    def stop() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        first_of(shards_of(np.zeros(2 * ROWS)), 0, 0, 8, stop)
