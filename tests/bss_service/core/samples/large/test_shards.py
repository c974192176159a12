"""Sums by shard, and draws by them. χ² tests pass by odds of 10,000 to 1 on fixed seeds."""

import numpy as np
import pytest
from scipy.stats import chi2

from bss_service.core.arrays import Float64
from bss_service.core.samples.large import shards as module
from bss_service.core.samples.large.shards import ROWS, LogWeights, Shards, draws


def of_array(logs: Float64) -> LogWeights:
    return lambda start, stop: logs[start:stop]


def shards_of(logs: Float64) -> Shards:
    return Shards.of(len(logs), of_array(logs))


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """How unlikely it is that counts differ as much from what is expected."""
    return float(chi2.sf(((observed - expected) ** 2 / expected).sum(), len(observed) - 1))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two samples."""
    for name in ("shards", "order"):
        monkeypatch.setattr(f"bss_service.core.samples.large.{name}.ROWS", 2)


def test_the_sums_are_those_of_the_weights() -> None:
    logs = np.random.default_rng(0).normal(0, 2, 2 * ROWS + 5)
    logs[[3, ROWS]] = -np.inf
    logs[4] = np.nan
    shards = shards_of(logs)
    weights = np.exp(np.nan_to_num(logs, nan=-np.inf) - shards.top)
    np.testing.assert_allclose(shards.sums, np.add.reduceat(weights, [0, ROWS, 2 * ROWS]), rtol=1e-12)
    assert (shards.weighted, shards.never) == (len(logs) - 3, 2)


def test_samples_are_drawn_in_proportion_to_their_weights(tiny: None) -> None:
    weights = np.array([1.0, 2, 0, 3, 4, 0, 0, 0, 6])
    with np.errstate(divide="ignore"):
        rows = draws(shards_of(np.log(weights)), seed=1, stream=0, size=160_000)
    counts = np.bincount(rows.indices, minlength=9)
    assert not counts[weights == 0].any()
    some = weights > 0
    assert chi_square(counts[some], 10_000 * weights[some]) > 1e-4
    np.testing.assert_allclose(rows.probabilities, weights[rows.indices] / 16, rtol=1e-6)


def test_draws_reach_every_shard_and_agree_with_the_weights_within() -> None:
    logs = np.random.default_rng(0).normal(0, 1, 50 * ROWS + 7)
    rows = draws(shards_of(logs), seed=2, stream=5, size=200_000)
    p = np.exp(logs) / np.exp(logs).sum()
    by_shard = np.add.reduceat(p, np.arange(0, len(p), ROWS))[:-1]  # the last one has seven samples
    counts = np.bincount(rows.indices // ROWS, minlength=51)[:-1]
    assert chi_square(counts, counts.sum() * by_shard / by_shard.sum()) > 1e-4
    bins = np.digitize(logs, np.linspace(-2, 2, 15))
    expected = 200_000 * np.bincount(bins, p)
    assert chi_square(np.bincount(bins[rows.indices], minlength=16), expected) > 1e-4


def test_what_is_drawn_is_the_same_again_and_another_in_another_stream() -> None:
    shards = shards_of(np.zeros(3 * ROWS))
    rows = draws(shards, 1, 2, 64)
    np.testing.assert_array_equal(rows.indices, draws(shards, 1, 2, 64).indices)
    assert (rows.indices != draws(shards, 1, 3, 64).indices).any()


def test_a_draw_looks_at_no_more_shards_than_it_has_rows() -> None:
    looked_at: set[int] = set()

    def alike(start: int, stop: int) -> Float64:
        looked_at.add(start)
        return np.zeros(stop - start)

    shards = Shards.of(500 * ROWS, alike)
    looked_at.clear()
    rows = draws(shards, 0, 0, 16)
    assert looked_at == {i // ROWS * ROWS for i in rows.indices.tolist()}


def test_rows_beyond_single_precision_and_32_bits_are_drawn() -> None:
    rows = draws(Shards(2**33 + 1, lambda a, b: np.zeros(b - a), 0.0, *_alike(2**33 + 1)), 0, 0, 4096)
    assert rows.indices.dtype == np.int64
    assert (rows.indices % 2 == 1).any() and rows.indices.max() > 2**32
    assert chi_square(np.bincount(rows.indices >> 30, minlength=9)[:8], np.full(8, 512)) > 1e-4


def _alike(samples: int) -> tuple[Float64, Float64, int, int]:
    sums = np.full(-(-samples // module.ROWS), float(module.ROWS))
    sums[-1] = samples - (len(sums) - 1) * module.ROWS
    return sums, np.cumsum(sums), samples, 0


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ([0.0, np.inf], "below infinity, got inf"),
        ([0.0, -700.0], "within 600 of each other, got -700 and 0"),
    ],
)
def test_weights_that_no_sum_holds_are_refused(logs: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shards_of(np.array(logs))


def test_without_a_weight_there_is_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="of no candidate"):
        draws(shards_of(np.full(3, -np.inf)), 0, 0, 1)
