"""Robust means over tasks and seeds, and whether their intervals hold what they promise."""

from collections.abc import Callable

import numpy as np
import pytest

from envs.research.statistics import (
    Interval,
    aggregate_gain,
    aggregate_score,
    expanded_percentiles,
    interquartile_mean,
    probability_of_improvement,
    share_of_oracle,
    shares_of_oracle,
    task_gains,
)

WORLDS = 200  # a 95 % interval covers fewer than 178 of 200 (89 %) once in some thousand tries


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def covered(interval: Callable[[np.random.Generator], Interval], truth: float) -> float:
    """Share of simulated worlds whose interval holds the truth."""
    rng = np.random.default_rng(1)
    intervals = [interval(rng) for _ in range(WORLDS)]
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


def test_the_interquartile_mean_drops_a_quarter_at_either_end() -> None:
    assert interquartile_mean(np.array([-100.0, 1, 2, 3, 4, 5, 6, 1000])) == 3.5


def test_the_interquartile_mean_cuts_whole_values_only() -> None:
    assert interquartile_mean(np.array([0.0, 1, 2, 3, 10])) == 2  # a quarter of 5 is 1 value


def test_a_seed_that_both_methods_share_cancels_out(rng: np.random.Generator) -> None:
    baseline = rng.normal(scale=100, size=(4, 10))

    gain = aggregate_gain(baseline + 2, baseline, rng)

    assert (gain.value, gain.low, gain.high) == pytest.approx((2, 2, 2))


def test_the_interval_of_a_task_is_students() -> None:
    gain = task_gains(np.array([[1.0, 2, 3, 4, 5]]), np.zeros((1, 5)))[0]

    half = 2.776445 * np.sqrt(2.5) / np.sqrt(5)  # t(0.975; 4), a table's
    assert (gain.value, gain.low, gain.high) == pytest.approx((3, 3 - half, 3 + half))


def test_probability_of_improvement_counts_ties_half(rng: np.random.Generator) -> None:
    ours, theirs = np.array([[1.0, 2], [0, 0]]), np.array([[1.0, 0], [0, 0]])

    assert probability_of_improvement(ours, theirs, rng).value == pytest.approx((3.5 / 4 + 0.5) / 2)


def test_probability_of_improvement_of_two_normals(rng: np.random.Generator) -> None:
    ours, theirs = rng.normal(1, 1, (20, 200)), rng.normal(0, 1, (20, 200))

    interval = probability_of_improvement(ours, theirs, rng)

    assert interval.value == pytest.approx(0.7602, abs=0.02)  # Φ(1/√2)
    assert interval.low < interval.value < interval.high


def test_better_for_the_baseline_is_one_minus_better_for_the_method(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 5, (3, 8)).astype(float), rng.integers(0, 5, (3, 6)).astype(float)

    there, back = probability_of_improvement(a, b, rng), probability_of_improvement(b, a, rng)

    assert there.value == pytest.approx(1 - back.value)


def test_half_of_the_way_to_the_oracle(rng: np.random.Generator) -> None:
    uniform = rng.normal(size=(3, 10))
    oracle = uniform + 4 + rng.normal(scale=0.1, size=(3, 10))

    share = share_of_oracle(uniform + 2, uniform, oracle, rng)

    assert share.value == pytest.approx(0.5, abs=0.02)
    assert share.low < 0.5 < share.high


def test_no_share_where_the_oracle_is_no_better_than_uniform(rng: np.random.Generator) -> None:
    uniform, oracle = rng.normal(size=(2, 3, 10))

    assert np.isnan(share_of_oracle(uniform + 2, uniform, oracle, rng).value)


def test_each_group_of_tasks_has_its_own_share(rng: np.random.Generator) -> None:
    uniform = rng.normal(size=(4, 10))
    step = np.array([1.0, 1, 3, 3])[:, None]
    scores = {"uniform": uniform, "mine": uniform + step, "oracle": uniform + 4}

    shares = shares_of_oracle(scores, "mine", ["clean", "clean", "noisy", "noisy"], rng)

    assert {group: share.value for group, share in shares.items()} == pytest.approx({"clean": 0.25, "noisy": 0.75})


def test_the_same_generator_gives_the_same_interval() -> None:
    scores = np.arange(20.0).reshape(2, 10)

    assert aggregate_score(scores, np.random.default_rng(3)) == aggregate_score(scores, np.random.default_rng(3))


@pytest.mark.parametrize("tasks, seeds", [(1, 10), (4, 5), (8, 10)])
def test_the_interval_of_the_aggregate_gain_covers_the_truth(tasks: int, seeds: int) -> None:
    def world(rng: np.random.Generator) -> Interval:
        seed_effect = rng.normal(scale=5, size=(tasks, seeds))
        return aggregate_gain(seed_effect + 1 + rng.normal(size=(tasks, seeds)), seed_effect, rng)

    assert covered(world, truth=1) >= 0.89


def test_the_interval_of_the_probability_of_improvement_covers_the_truth() -> None:
    def world(rng: np.random.Generator) -> Interval:
        return probability_of_improvement(rng.normal(1, 1, (4, 10)), rng.normal(0, 1, (4, 10)), rng)

    assert covered(world, truth=0.760250) >= 0.89


def test_the_interval_of_the_share_of_the_oracle_covers_the_truth() -> None:
    def world(rng: np.random.Generator) -> Interval:
        uniform = rng.normal(size=(3, 10))
        noise = rng.normal(size=(2, 3, 10))
        return share_of_oracle(uniform + 2 + noise[0], uniform, uniform + 4 + noise[1], rng)

    assert covered(world, truth=0.5) >= 0.89


@pytest.mark.parametrize(
    "scores, sentence", [(np.zeros(5), "shape"), (np.zeros((2, 1)), "2 seeds"), (np.full((2, 3), np.nan), "finite")]
)
def test_scores_that_tell_nothing_are_refused(scores: np.ndarray, sentence: str, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=sentence):
        aggregate_score(scores, rng)


@pytest.mark.parametrize(("seeds", "tail"), [(5, 0.0010), (10, 0.0086), (20, 0.0159), (1000, 0.0248)])
def test_percentiles_of_few_seeds_are_widened_as_published(seeds: int, tail: float) -> None:
    """Hesterberg 2015, section 5.3: Student's quantile times √(n/(n − 1)), as a normal's tail."""
    low, high = expanded_percentiles(1, seeds)
    assert (low, high) == pytest.approx((tail, 1 - tail), abs=6e-5)


def test_an_interval_has_its_low_end_below_and_its_high_end_above(rng: np.random.Generator) -> None:
    gain = aggregate_gain(rng.normal(1.0, 0.5, (3, 6)), np.zeros((3, 6)), rng)
    assert gain.low < gain.value < gain.high
    assert gain.low > 0


def test_the_interval_of_few_seeds_is_wider_than_the_spread_of_resamples_says() -> None:
    """Of five values the plain percentile interval is too narrow."""
    gains = np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])
    interval = aggregate_score(gains, np.random.default_rng(0))
    resampled = [interquartile_mean(np.random.default_rng(k).choice(gains[0], 5)) for k in range(2000)]
    plain = np.quantile(resampled, 0.975) - np.quantile(resampled, 0.025)
    assert interval.high - interval.low > 1.15 * plain
