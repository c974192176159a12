"""Off-policy estimators against values known exactly, and their intervals against what they promise."""

import numpy as np
import pytest

from benchmarks.estimators.known_values import GaussianPolicy, LinearGaussian, Tabular, TabularPolicy, World
from envs.research.offline.episodes import Episode, Episodes
from envs.research.offline.estimators import (
    Estimate,
    Evidence,
    _mean,
    doubly_robust,
    effective_sample_size,
    estimates,
    gather,
    percentile_t,
)
from envs.research.offline.fitted_q import standard_features
from envs.research.offline.verdict import Verdict, judge
from envs.research.statistics import Interval

WORLDS = 200  # a 95 % interval covers fewer than 176 of 200 (88 %) once in some ten thousand tries
RUNS = 100


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def by_name(intervals: list[Estimate]) -> dict[str, Interval]:
    return {estimate.name: estimate.interval for estimate in intervals}


def verdict_of(world: World, runs: int, seed: int = 0) -> Verdict:
    rng = np.random.default_rng(seed)
    return judge(gather(world.runs(runs, rng), world.target, rng, features=world.features), rng)


def one_step(actions: list[int], rewards: list[float], logged: np.ndarray) -> Episodes:
    """Runs of one decision between two actions, taken with probabilities (2,)."""
    return Episodes.of(
        [
            Episode(np.zeros((1, 2)), np.array([[float(a)]]), np.array([r]), np.log(logged[[a]]))
            for a, r in zip(actions, rewards, strict=True)
        ]
    )


def test_estimators_by_hand(rng: np.random.Generator) -> None:
    episodes = one_step([0, 0, 1, 1], [1, 2, 3, 5], np.array([0.5, 0.5]))
    target = TabularPolicy(np.array([[0.25, 0.75]]))  # weights 1/2, 1/2, 3/2, 3/2

    intervals = by_name(estimates(gather(episodes, target, rng), rng))

    assert intervals["IPS"].value == pytest.approx((0.5 + 1 + 4.5 + 7.5) / 4)
    assert intervals["SNIPS"].value == pytest.approx((0.5 + 1 + 4.5 + 7.5) / 4)  # the weights sum to 4
    assert intervals["PDIS"].value == pytest.approx(intervals["IPS"].value)  # one decision: nothing to decompose
    assert intervals["WPDIS"].value == pytest.approx(intervals["SNIPS"].value)


def test_without_a_discount_every_decision_counts_alike_and_with_one_the_first_counts_most(
    rng: np.random.Generator,
) -> None:
    log = np.log(np.full(2, 0.5))
    episode = Episode(np.zeros((2, 2)), np.array([[0.0], [1.0]]), np.array([1.0, 4.0]), log)
    uniform = TabularPolicy(np.full((1, 2), 0.5))

    whole, halved = (
        by_name(estimates(gather(Episodes.of([episode] * 2), uniform, rng, discount=g), rng))["PDIS"] for g in (1, 0.5)
    )

    assert (whole.value, halved.value) == pytest.approx((5, 3))


def test_a_policy_judged_on_its_own_runs_is_worth_what_it_earned(rng: np.random.Generator) -> None:
    world = LinearGaussian()
    episodes = world.runs(RUNS, rng)

    intervals = by_name(estimates(gather(episodes, world.behaviour, rng), rng))

    for name in ("IPS", "SNIPS", "PDIS", "WPDIS"):
        assert intervals[name].value == pytest.approx(episodes.returns(1.0).mean())


def test_runs_of_different_length_are_padded_without_effect(rng: np.random.Generator) -> None:
    world = LinearGaussian()
    long = world.runs(50, rng)
    short = [
        Episode(long.observations[i, :t], long.actions[i, :t], long.rewards[i, :t], long.log_probabilities[i, :t])
        for i, t in enumerate(rng.integers(1, 6, size=50))
    ]
    by_hand = [
        np.exp((world.target.log_probability(e.observations, e.actions) - e.log_probabilities).sum()) * e.rewards.sum()
        for e in short
    ]

    intervals = by_name(estimates(gather(Episodes.of(short), world.target, rng), rng))

    assert intervals["IPS"].value == pytest.approx(np.mean(by_hand))


def test_the_exact_value_agrees_with_runs_of_the_target_itself(rng: np.random.Generator) -> None:
    for world in (Tabular(), LinearGaussian()):
        value = world.value()
        world.behaviour = world.target  # type: ignore[assignment]
        assert world.runs(100_000, rng).returns(1.0).mean() == pytest.approx(value, abs=0.03)


def test_kish_counts_equal_weights_fully_and_a_single_one_as_one() -> None:
    assert effective_sample_size(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_sample_size(np.array([0.0, 0, 5])) == pytest.approx(1)
    assert effective_sample_size(np.zeros(3)) == 0


@pytest.mark.parametrize("world", [Tabular(states=2), LinearGaussian(horizon=3)], ids=["tabular", "Gaussian"])
def test_intervals_cover_known_values(world: World) -> None:
    rng = np.random.default_rng(2)
    runs = [
        by_name(estimates(gather(world.runs(RUNS, rng), world.target, rng, features=world.features), rng))
        for _ in range(WORLDS)
    ]
    value = world.value()

    for name in runs[0]:
        intervals = [run[name] for run in runs]
        errors = np.array([i.value - value for i in intervals])
        covered = np.mean([i.low <= value <= i.high for i in intervals])
        assert covered >= 0.88, name
        assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(WORLDS), name


def test_doubly_robust_stays_right_where_the_q_function_can_not_be(rng: np.random.Generator) -> None:
    world = LinearGaussian()

    intervals = by_name(estimates(gather(world.runs(2000, rng), world.target, rng, features=standard_features), rng))

    assert abs(intervals["FQE"].value - world.value()) > 0.5
    assert intervals["DR"].low <= world.value() <= intervals["DR"].high


def test_a_clearly_better_target_is_called_better() -> None:
    assert verdict_of(LinearGaussian(away=0.3), runs=1000).answer == "better"


def test_a_clearly_worse_target_is_called_worse() -> None:
    assert verdict_of(LinearGaussian(away=-0.2), runs=1000).answer == "worse"


def test_the_same_policy_is_not_called_different(rng: np.random.Generator) -> None:
    world = LinearGaussian()
    evidence = gather(world.runs(RUNS, rng), world.behaviour, rng, features=world.features)

    assert judge(evidence, rng).answer == "no clear difference"


def test_with_too_little_overlap_the_data_can_not_tell() -> None:
    verdict = verdict_of(LinearGaussian(away=2.0), runs=RUNS)

    assert verdict.answer == "can't tell"
    assert "fewer than 30" in verdict.reason


def test_a_target_outside_the_support_of_the_log_is_found_out_by_the_mean_weight(rng: np.random.Generator) -> None:
    episodes = one_step([0] * 200, rng.normal(size=200).tolist(), np.array([0.9]))
    target = TabularPolicy(np.array([[0.45, 0.55]]))  # equal weights of 1/2: their effective sample size is perfect

    verdict = judge(gather(episodes, target, rng), rng)

    assert verdict.answer == "can't tell"
    assert "average 0.50" in verdict.reason


def test_propensities_that_can_not_be_right_are_found_out_by_the_mean_weight(rng: np.random.Generator) -> None:
    episodes = one_step([0, 1] * 100, rng.normal(size=200).tolist(), np.array([0.3, 0.3]))

    verdict = judge(gather(episodes, TabularPolicy(np.array([[0.5, 0.5]])), rng), rng)

    assert verdict.answer == "can't tell"
    assert "propensities in the log can't be right" in verdict.reason


def test_one_run_that_outweighs_the_others_is_found_out(rng: np.random.Generator) -> None:
    logs = np.array([0.1, 0.02])[[0] * 199 + [1]]
    episodes = [
        Episode(np.zeros((1, 2)), np.zeros((1, 1)), rng.normal(size=1), np.array([np.log(p)])) for p in logs.tolist()
    ]
    heavy = [Episode(e.observations, e.actions, e.rewards, e.log_probabilities - np.log(k)) for e, k in
             zip(episodes, [1] * 199 + [5], strict=True)]  # fmt: skip

    verdict = judge(gather(Episodes.of(heavy), TabularPolicy(np.array([[0.1]])), rng), rng)

    assert verdict.answer == "can't tell"
    assert "one run carries" in verdict.reason


def test_a_deterministic_log_can_not_tell(rng: np.random.Generator) -> None:
    episodes = one_step([0] * 50, [1.0] * 50, np.array([1.0]))

    verdict = judge(gather(episodes, TabularPolicy(np.array([[0.5, 0.5]])), rng), rng)

    assert "deterministic" in verdict.reason


def test_a_log_without_propensities_can_not_tell_but_for_fitted_q(rng: np.random.Generator) -> None:
    world = LinearGaussian()
    runs = world.runs(RUNS, rng)
    unknown = Episodes(runs.observations, runs.actions, runs.rewards, runs.log_probabilities * np.nan, runs.valid)
    evidence = gather(unknown, world.target, rng, features=world.features)

    intervals = by_name(estimates(evidence, rng))

    assert judge(evidence, rng).reason == "the log lacks propensities"
    assert np.isnan(intervals["DR"].value)
    assert intervals["FQE"].low <= world.value() <= intervals["FQE"].high


def test_weights_beyond_all_numbers_end_in_a_doubt_and_not_in_an_error(rng: np.random.Generator) -> None:
    world = LinearGaussian()
    evidence = gather(world.runs(RUNS, rng), GaussianPolicy(50.0, 1e-3), rng, features=world.features)

    estimates(evidence, rng)

    assert judge(evidence, rng).answer == "can't tell"


def test_the_same_seed_gives_the_same_estimates() -> None:
    world = Tabular()

    def seeded() -> list[Estimate]:
        rng = np.random.default_rng(5)
        return estimates(gather(world.runs(30, rng), world.target, rng, features=world.features), rng)

    assert seeded() == seeded()


def test_no_runs_and_runs_without_decisions_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one episode"):
        Episodes.of([])
    with pytest.raises(ValueError, match="with a decision"):
        Episodes.of([Episode(np.zeros((0, 2)), np.zeros((0, 1)), np.zeros(0), np.zeros(0))])


class Fit:
    """In place of a fitted Q function: one feature, and weights that tell which runs they were fitted to."""

    def __init__(self, q: np.ndarray, v: np.ndarray, of_run: np.ndarray) -> None:
        self.features, self.expected, self._of_run = q[:, :, None], v[:, :, None], of_run

    def weights(self, counts: np.ndarray) -> np.ndarray:
        return counts @ self._of_run[:, None] / counts.sum(axis=1, keepdims=True)


def doubly_robust_by_hand(ratios: np.ndarray, fit: Fit, rewards: np.ndarray) -> np.ndarray:
    log = np.log(np.full(rewards.shape[1], 0.5))
    episodes = Episodes.of(
        [Episode(np.zeros((len(r), 2)), np.zeros((len(r), 1)), np.array(r), log) for r in rewards.tolist()]
    )
    evidence = Evidence(episodes, ratios, ratios, fit, 1.0)  # type: ignore[arg-type]
    return doubly_robust(evidence, np.random.default_rng(0))


def test_doubly_robust_weighs_each_value_by_the_decisions_before_it() -> None:
    """Σ_t ρ_{0:t}·(r_t − Q) + ρ_{0:t−1}·V with Q = 1 and V = 2 everywhere, by hand."""
    ratios, rewards = np.array([[2.0, 6.0], [0.5, 0.25]]), np.array([[3.0, 5.0], [1.0, 4.0]])
    fit = Fit(np.ones((2, 2)), np.full((2, 2), 2.0), np.ones(2))
    first = 2.0 * (3 - 1) + 1 * 2.0 + 6.0 * (5 - 1) + 2.0 * 2.0
    second = 0.5 * (1 - 1) + 1 * 2.0 + 0.25 * (4 - 1) + 0.5 * 2.0
    assert doubly_robust_by_hand(ratios, fit, rewards) == pytest.approx([first, second])


def test_doubly_robust_judges_no_run_by_a_fit_to_itself() -> None:
    """Fitted to run 0 alone V is 10, to run 1 alone 20; rewards and Q are 0, weights 1."""
    fit = Fit(np.zeros((2, 1)), np.ones((2, 1)), np.array([10.0, 20.0]))
    assert doubly_robust_by_hand(np.ones((2, 1)), fit, np.zeros((2, 1))) == pytest.approx([20.0, 10.0])


def test_a_percentile_t_interval_follows_the_skew() -> None:
    """Of values with a long tail upwards the interval reaches further up than down."""
    values = np.exp(np.random.default_rng(0).normal(0, 1, 60))
    counts = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=2000).astype(float)
    interval = percentile_t(_mean(values), counts)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.value > 1.2 * (interval.value - interval.low)
