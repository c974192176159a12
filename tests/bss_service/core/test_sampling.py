"""Chance is checked against exact distributions by χ² tests on fixed seeds, each passing by odds of 10,000 to 1."""

from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bss_service.core import sampling
from bss_service.core.action import Action, Coverage, admitted, log_weights
from bss_service.core.calendar import Calendar
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.samples.table import SampleTable
from bss_service.core.sampling import (
    ascending,
    draw_plan,
    drawn_before,
    drawn_of,
    importance_weights,
    loss_weights,
    normalised,
    uniforms,
    weighted_draws,
    weighted_order,
)
from tests.bss_service.core.worlds import actions, calendars, empty, random_table, scored, tables

# χ² exceeds these once in ten thousand, by degrees of freedom.
CHI_SQUARE = {1: 15.14, 2: 18.42, 3: 21.11, 9: 33.72, 23: 57.07}

BEYOND_FLOAT32 = 2**24 + 2


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    return float(((observed - expected) ** 2 / expected).sum())


def words(value: int) -> tuple[int, int]:
    return value % 2**64, value // 2**64


def philox(key: list[int], counter: list[int]) -> list[int]:
    """Philox4x64-10 as its authors wrote it down (Salmon et al. 2011, section 3.3)."""
    c, k = counter, key
    for _ in range(10):
        low0, high0 = words(0xD2E7470EE14C6C93 * c[0])
        low1, high1 = words(0xCA5A826395121157 * c[2])
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) % 2**64, (k[1] + 0xBB67AE8584CAA73B) % 2**64]
    return c


# Random numbers.


def test_uniforms_are_what_they_always_were() -> None:
    """Plans are reproduced from the journal for years: a change of these is a change of every plan."""
    assert uniforms(0, 0, 0, 2).tolist() == [0.011546754286331562, 0.24154919656271823]
    assert uniforms(7, 11, 13, 2).tolist() == [0.9521404277013478, 0.5220405773188023]


word = st.integers(0, 2**64 - 1)


@given(word, word, word)
def test_uniforms_are_the_top_bits_of_philox(seed: int, stream: int, counter: int) -> None:
    first_block = philox([seed, stream], [1, counter, 0, 0])
    expected = [((bits >> 12) + 0.5) / 2**52 for bits in first_block]
    assert uniforms(seed, stream, counter, 4).tolist() == expected


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_uniforms_lie_inside_the_open_interval_even_at_its_ends(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Extreme:
        def __init__(self, **_: object) -> None: ...

        def random_raw(self, size: int) -> np.ndarray:
            return np.full(size, bits, dtype=np.uint64)

    monkeypatch.setattr(sampling.np.random, "Philox", Extreme)
    (u,) = uniforms(0, 0, 0, 1)
    assert 0 < u < 1


def test_the_same_arguments_give_the_same_bytes_whatever_was_drawn_between() -> None:
    first = uniforms(1, 2, 3, 100)
    uniforms(9, 9, 9, 10)
    assert uniforms(1, 2, 3, 100).tobytes() == first.tobytes()


def test_fewer_numbers_are_the_beginning_of_more() -> None:
    assert uniforms(1, 2, 3, 5).tolist() == uniforms(1, 2, 3, 100)[:5].tolist()


@pytest.mark.parametrize("arguments", [(2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3), (1, 3, 2)])
def test_any_other_argument_gives_other_numbers(arguments: tuple[int, int, int]) -> None:
    assert not np.isin(uniforms(*arguments, 100), uniforms(1, 2, 3, 100)).any()


def test_uniforms_are_uniform() -> None:
    counts = np.bincount((10 * uniforms(3, 1, 4, 100_000)).astype(int))
    assert chi_square(counts, np.full(10, 10_000)) < CHI_SQUARE[9]


# Orders without replacement.

WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0])


@pytest.fixture(scope="module")
def orders() -> np.ndarray:
    """(30,000, 4) orders of four samples weighing 1 to 4."""
    return np.array([weighted_order(np.log(WEIGHTS), uniforms(0, 0, k, 4)) for k in range(30_000)])


def test_the_first_of_an_order_is_drawn_by_weight(orders: np.ndarray) -> None:
    assert chi_square(np.bincount(orders[:, 0]), len(orders) * WEIGHTS / 10) < CHI_SQUARE[3]


def test_orders_follow_plackett_and_luce(orders: np.ndarray) -> None:
    """Each next sample comes by its weight among those left: the chance of a whole order is the product."""
    chances = {
        order: np.prod([WEIGHTS[s] / WEIGHTS[list(order[k:])].sum() for k, s in enumerate(order)])
        for order in permutations(range(4))
    }
    codes = orders @ np.array([64, 16, 4, 1])
    observed = np.array([(codes == np.dot(order, [64, 16, 4, 1])).sum() for order in chances])
    assert chi_square(observed, len(orders) * np.array(list(chances.values()))) < CHI_SQUARE[23]


@pytest.mark.parametrize(("a", "b"), list(combinations(range(4), 2)))
def test_one_of_two_comes_first_by_their_weights_alone(orders: np.ndarray, a: int, b: int) -> None:
    places = np.argsort(orders, axis=1)
    first = np.array([(places[:, a] < places[:, b]).sum(), (places[:, a] > places[:, b]).sum()])
    assert chi_square(first, len(orders) * WEIGHTS[[a, b]] / WEIGHTS[[a, b]].sum()) < CHI_SQUARE[1]


log_values = st.floats(-1e300, 1e300) | st.just(-np.inf)


@given(arrays(np.float64, st.integers(1, 20), elements=log_values), st.integers(0, 2**32))
def test_an_order_is_a_permutation_in_which_samples_of_weight_0_come_last(weights: np.ndarray, seed: int) -> None:
    order = weighted_order(weights, uniforms(seed, 0, 0, len(weights)))
    assert sorted(order.tolist()) == list(range(len(weights)))
    assert (np.diff(np.isneginf(weights)[order].astype(int)) >= 0).all()


def test_samples_of_weight_0_come_in_random_order() -> None:
    weights = np.array([0.0, -np.inf, -np.inf, -np.inf])
    seconds = [weighted_order(weights, uniforms(0, 0, k, 4))[1] for k in range(3000)]
    assert chi_square(np.bincount(seconds)[1:], np.full(3, 1000)) < CHI_SQUARE[2]


def test_weights_too_far_apart_for_any_float_still_order() -> None:
    weights = np.array([-1e6, 1e6, 0.0])
    assert weighted_order(weights, uniforms(0, 0, 0, 3)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("threads", [2, 3])
def test_an_order_is_the_same_by_any_number_of_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 3 * 2**15 + 5
    weights = np.random.default_rng(0).normal(size=size)
    monkeypatch.setattr(sampling, "_THREADS", 1)
    u = uniforms(1, 2, 3, size)
    alone = weighted_order(weights, u)
    monkeypatch.setattr(sampling, "_THREADS", threads)
    monkeypatch.setattr(sampling, "_LARGE", 0)
    assert uniforms(1, 2, 3, size).tobytes() == u.tobytes()
    assert weighted_order(weights, u).tobytes() == alone.tobytes()


def test_an_order_of_more_samples_than_float32_can_count_keeps_them_apart() -> None:
    """With luck the same for all, the heaviest comes first and the others by index."""
    weights = np.zeros(BEYOND_FLOAT32)
    weights[16_777_217] = 1.0
    order = weighted_order(weights, np.full(len(weights), 0.5))
    assert (order[0], order.dtype) == (16_777_217, np.int64)
    assert (order[1:] == np.arange(16_777_217)).all()


# Draws with replacement.


def test_draws_agree_with_their_probabilities() -> None:
    p = np.array([0.5, 0.0, 0.2, 0.3])
    counts = np.bincount(weighted_draws(p, uniforms(0, 0, 0, 100_000)), minlength=4)
    assert counts[1] == 0
    assert chi_square(counts[p > 0], 100_000 * p[p > 0]) < CHI_SQUARE[2]


def test_a_half_that_should_get_a_third_gets_a_third_beyond_2_to_the_24() -> None:
    half = BEYOND_FLOAT32 // 2
    p = np.repeat([1 / 3 / half, 2 / 3 / half], half)
    draws = weighted_draws(p, uniforms(0, 0, 0, 200_000))
    counts = np.bincount(draws // half)
    assert chi_square(counts, 200_000 * np.array([1 / 3, 2 / 3])) < CHI_SQUARE[1]


def test_an_index_that_float32_cannot_hold_survives() -> None:
    p = np.zeros(BEYOND_FLOAT32)
    p[16_777_217] = 1.0
    draws = weighted_draws(p, uniforms(0, 0, 0, 3))
    assert (draws.tolist(), draws.dtype) == ([16_777_217] * 3, np.int64)


@pytest.mark.parametrize("u", [np.nextafter(0, 1), 0.5, np.nextafter(1, 0), 1.0])
def test_a_sample_of_probability_0_is_never_drawn_even_at_the_ends(u: float) -> None:
    assert weighted_draws(np.array([0.0, 1.0, 0.0]), np.array([u])).tolist() == [1]


def test_a_draw_on_the_border_of_two_samples_is_the_later_one() -> None:
    assert weighted_draws(np.array([0.5, 0.5]), np.array([0.5])).tolist() == [1]


@given(arrays(np.float64, st.integers(1, 50), elements=log_values))
def test_probabilities_are_finite_not_negative_and_sum_to_1(weights: np.ndarray) -> None:
    p = normalised(weights)
    assert np.isfinite(p).all()
    assert (p >= 0).all()
    assert p.sum() == pytest.approx(1, abs=1e-12)


def test_probabilities_are_uniform_where_every_weight_is_0() -> None:
    assert normalised(np.full(4, -np.inf)).tolist() == [0.25] * 4


# Plans.


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 6)))
def test_of_a_window_the_first_places_of_what_came_are_drawn(window: list[int], came: list[int]) -> None:
    left, expected = list(came), []
    for sample in window:
        expected.append(sample in left)
        if sample in left:
            left.remove(sample)
    assert drawn_of(np.array(window, np.int64), np.array(came, np.int64)).tolist() == expected


@given(calendars(), st.data(), st.integers(0, 2**63))
@settings(max_examples=200)
def test_under_epoch_each_sample_comes_exactly_once_an_epoch_however_often_it_is_drawn_anew(
    calendar: Calendar, data: st.DataObject, seed: int
) -> None:
    table = data.draw(tables(st.just(calendar.samples)))
    plans: list[tuple[int, np.ndarray]] = []
    step = 0
    while step < calendar.epoch_start(3):
        _, end = calendar.interval_bounds(step)
        action = data.draw(actions(coverage=st.just("epoch")))
        rows = draw_plan(calendar, step, end, action, table, drawn_before(plans, calendar, step), seed)
        stop = data.draw(st.integers(step + 1, end))  # a swap may cut the plan short
        plans.append((step, rows.indices.reshape(-1, calendar.batch_size)[: stop - step]))
        step = stop
    batches = np.concatenate([indices for _, indices in plans])
    assert all(len(set(batch)) == calendar.batch_size for batch in batches.tolist())
    assert_covered(calendar, batches.reshape(-1))


@given(calendars(), actions(coverage=st.just("epoch")), st.integers(0, 10**9))
def test_a_plan_may_begin_at_any_step_of_any_epoch(calendar: Calendar, action: Action, first: int) -> None:
    drawn = np.arange(calendar.samples) < first * calendar.batch_size % calendar.epoch_positions
    _, end = calendar.interval_bounds(first)
    rows = draw_plan(calendar, first, end, action, random_table(calendar.samples, 0), drawn, 0)
    assert len(rows.indices) == (end - first) * calendar.batch_size
    assert_covered(calendar, np.concatenate([np.flatnonzero(drawn), rows.indices]))


def assert_covered(calendar: Calendar, samples: np.ndarray) -> None:
    """No sample twice in an epoch, and where the tail is carried all of them in each whole one."""
    for start in range(0, len(samples), calendar.epoch_positions):
        epoch = samples[start : start + calendar.epoch_positions].tolist()
        assert len(set(epoch)) == len(epoch)
        if calendar.tail == "carry" and len(epoch) == calendar.epoch_positions:
            assert sorted(epoch) == list(range(calendar.samples))


@given(calendars(), actions(coverage=st.just("subset")), st.data(), st.integers(0, 5))
def test_under_subset_each_pass_is_a_permutation_of_the_admitted(
    calendar: Calendar, action: Action, data: st.DataObject, first: int
) -> None:
    table = data.draw(tables(st.just(calendar.samples)))
    samples = admitted(action, table)
    rows = draw_plan(calendar, first, first + 7, action, table, np.ones(calendar.samples, bool), 0)
    for start in range(0, len(rows.indices), len(samples)):
        one_pass = rows.indices[start : start + len(samples)].tolist()
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(samples.tolist())
    if len(samples) >= calendar.batch_size:
        batches = rows.indices.reshape(-1, calendar.batch_size).tolist()
        assert all(len(set(batch)) == calendar.batch_size for batch in batches)


@given(calendars(), actions(), st.data())
def test_the_probability_of_a_row_is_that_of_being_drawn_first_from_its_candidates(
    calendar: Calendar, action: Action, data: st.DataObject
) -> None:
    table = data.draw(tables(st.just(calendar.samples)))
    rows = draw_plan(calendar, 0, 1, action, table, np.zeros(calendar.samples, bool), 0)
    candidates = np.arange(calendar.samples) if action.coverage == "epoch" else admitted(action, table)
    logs = log_weights(action, table)[candidates]
    weights = np.exp(logs - logs.max()) if logs.max() > -np.inf else np.ones(len(logs))
    expected = dict(zip(candidates, weights / weights.sum(), strict=True))
    for sample, probability in zip(rows.indices, rows.probabilities, strict=True):
        assert probability == pytest.approx(expected[sample], rel=1e-5, abs=1e-30)


def test_under_draw_samples_come_by_their_probability_among_the_admitted() -> None:
    table = scored([0.0, 1.0, 0.6, 0.3, 0.8], [0.0] * 5)
    action = Action(kappa_similarity=2, share=0.6, coverage="draw")
    rows = draw_plan(Calendar(5, 5, "carry", 4000), 0, 4000, action, table, np.zeros(5, bool), 0)
    expected = np.exp(2 * np.array([1.0, 0.6, 0.8]))
    counts = np.bincount(rows.indices, minlength=5)
    assert counts[[0, 3]].tolist() == [0, 0]
    assert chi_square(counts[[1, 2, 4]], 20_000 * expected / expected.sum()) < CHI_SQUARE[2]


def test_the_first_sample_of_an_epoch_comes_by_weight() -> None:
    table, action = scored([0.0, 0.5, 1.0, 1.0], [0.0] * 4), Action(kappa_similarity=2)
    firsts = [
        draw_plan(Calendar(4, 1, "carry", 1), 0, 1, action, table, np.zeros(4, bool), seed).indices[0]
        for seed in range(10_000)
    ]
    weights = np.exp([0.0, 1.0, 2.0, 2.0])
    assert chi_square(np.bincount(firsts), 10_000 * weights / weights.sum()) < CHI_SQUARE[3]


@given(calendars(), actions(), st.integers(0, 2**63), st.integers(0, 100))
def test_a_plan_is_a_function_of_its_arguments(calendar: Calendar, action: Action, seed: int, first: int) -> None:
    def plan() -> bytes:
        table = random_table(calendar.samples, 1)
        rows = draw_plan(calendar, first, first + 3, action, table, np.zeros(calendar.samples, bool), seed)
        return rows.indices.tobytes() + rows.probabilities.tobytes()

    assert plan() == plan()


@pytest.mark.parametrize("coverage", ["epoch", "subset", "draw"])
def test_another_seed_or_another_step_gives_another_order(coverage: Coverage) -> None:
    calendar, table, none = Calendar(100, 10, "carry", None), empty(100), np.zeros(100, bool)
    orders = [
        draw_plan(calendar, first, first + 10, Action(coverage=coverage), table, none, seed).indices.tobytes()
        for first, seed in [(0, 0), (0, 1), (10, 0), (10, 1)]
    ]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("coverage", ["epoch", "subset"])
def test_each_pass_of_a_plan_has_an_order_of_its_own(coverage: str) -> None:
    calendar, table = Calendar(100, 10, "carry", 20), empty(100)
    rows = draw_plan(calendar, 0, 20, Action(coverage=coverage), table, np.zeros(100, bool), 0)
    assert rows.indices[:100].tolist() != rows.indices[100:].tolist()


@pytest.mark.parametrize("coverage", ["epoch", "subset", "draw"])
def test_indices_are_int64_and_probabilities_float32(coverage: str) -> None:
    calendar, table = Calendar(5, 2, "carry", None), empty(5)
    rows = draw_plan(calendar, 0, 4, Action(coverage=coverage), table, np.zeros(5, bool), 0)
    assert (rows.indices.dtype, rows.probabilities.dtype) == (np.int64, np.float32)


def test_one_sample_is_all_that_a_job_of_one_sample_gets() -> None:
    calendar, table = Calendar(1, 1, "carry", None), empty(1)
    for coverage in ("epoch", "subset", "draw"):
        rows = draw_plan(calendar, 3, 5, Action(coverage=coverage), table, np.zeros(1, bool), 0)
        assert (rows.indices.tolist(), rows.probabilities.tolist()) == ([0, 0], [1.0, 1.0])


def test_only_the_epoch_of_the_first_position_counts_as_drawn() -> None:
    """Of 5 samples in batches of 2, step 2 ends the first epoch with its first row and opens the second."""
    calendar = Calendar(5, 2, "carry", None)
    plans = [(0, np.array([[0, 1], [2, 3]])), (2, np.array([[4, 0], [1, 2]]))]
    assert np.flatnonzero(drawn_before(plans, calendar, 2)).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(drawn_before(plans, calendar, 3)).tolist() == [0]
    assert np.flatnonzero(drawn_before(plans, calendar, 4)).tolist() == [0, 1, 2]


# Plans that leave samples out by their evidence.

WRONG = np.arange(40) % 4 == 0  # 10 of 40
LEAVING = Action(belief=0.5, probes=0.1)


def evidence(right: np.ndarray, modalities: int = 2) -> Evidence:
    return Evidence(right.astype(np.float32), np.zeros(len(right), np.float32), np.zeros((len(right), modalities)))


SURE = evidence(np.where(WRONG, 0.1, 0.9))


def plan_of(action: Action, known: Evidence, drawn: np.ndarray | None = None, seed: int = 0) -> sampling.Drawn:
    """One epoch of 5 batches of 8 samples."""
    drawn = np.zeros(40, bool) if drawn is None else drawn
    return draw_plan(Calendar(40, 8, "carry", None), 0, 5, action, empty(40), drawn, seed, known)


@pytest.mark.parametrize("coverage", ["epoch", "subset", "draw"])
def test_what_is_left_out_comes_as_probes_alone(coverage: Coverage) -> None:
    rows = plan_of(replace(LEAVING, coverage=coverage), SURE)
    assert rows.probes is not None
    assert (WRONG[rows.indices] == rows.probes).all()
    assert rows.probes.sum() == 4


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3, 0.5]), calendars(), st.sampled_from(["epoch", "subset"]))
def test_passes_over_the_kept_follow_one_another(
    seed: int, probes: float, calendar: Calendar, coverage: Coverage
) -> None:
    right = np.random.default_rng(seed).random(calendar.samples)
    action = Action(belief=0.4, probes=probes, coverage=coverage)
    none, known = np.zeros(calendar.samples, bool), evidence(right)
    rows = draw_plan(calendar, 0, 9, action, empty(calendar.samples), none, seed, known)
    kept = right >= np.float32(0.4) if (right >= 0.4).any() else np.ones(len(right), bool)
    is_probe = np.zeros(len(rows.indices), bool) if rows.probes is None else rows.probes
    trained = rows.indices[~is_probe]
    if calendar.interval is None and coverage == "subset":
        for start in range(0, len(trained), int(kept.sum())):
            one_pass = trained[start : start + int(kept.sum())]
            assert len(set(one_pass)) == len(one_pass)
    assert kept[trained].all()
    assert not kept[rows.indices[is_probe]].any()
    assert (is_probe.reshape(-1, calendar.batch_size).sum(1) < calendar.batch_size).all()


def test_under_epoch_the_kept_come_at_least_once_an_epoch() -> None:
    rows = plan_of(LEAVING, SURE)
    counts = np.bincount(rows.indices, minlength=40)
    assert set(counts[~WRONG]) == {1, 2}  # 36 rows for 30 samples
    assert set(counts[WRONG]) == {0, 1}


def test_the_rest_of_an_epoch_begins_with_what_has_not_come() -> None:
    drawn = np.arange(40) < 16
    rows = draw_plan(Calendar(40, 8, "carry", None), 2, 5, Action(belief=0.5), empty(40), drawn, 0, SURE)
    assert sorted(rows.indices[:18]) == np.flatnonzero(~WRONG & ~drawn).tolist()


def test_probes_are_spread_evenly_over_batches_and_their_rows() -> None:
    probes = draw_plan(
        Calendar(400, 100, "carry", None), 0, 4, Action(belief=0.5, probes=0.125), empty(400), np.zeros(400, bool), 0,
        evidence(np.where(np.arange(400) % 4 == 0, 0.1, 0.9)),
    ).probes  # fmt: skip
    assert probes is not None
    per_batch = probes.reshape(4, 100)
    assert per_batch.sum(1).tolist() == [12, 13, 12, 13]
    assert per_batch.reshape(4, 4, 25).sum(2).min() == 3  # on each of four ranks


def test_a_batch_of_one_is_no_probe() -> None:
    rows = draw_plan(Calendar(40, 1, "carry", None), 0, 40, LEAVING, empty(40), np.zeros(40, bool), 0, SURE)
    assert rows.probes is None


def test_loss_weights_are_0_of_probes_and_1_on_average() -> None:
    weights = loss_weights(np.array([[True, False, False, True], [False] * 4]))
    assert weights.tolist() == [[0, 2, 2, 0], [1, 1, 1, 1]]
    assert weights.dtype == np.float32


def test_importance_weights_make_means_over_draws_unbiased() -> None:
    table = scored([0.0, 1.0, 0.6, 0.3, 0.8], [0.0] * 5)
    action = Action(kappa_similarity=2, coverage="draw")
    rows = draw_plan(Calendar(5, 5, "carry", 4000), 0, 4000, action, table, np.zeros(5, bool), 0)
    values = np.array([1.0, 20.0, 4.0, 8.0, 16.0])
    weighted = values[rows.indices] * importance_weights(rows.probabilities, 5)
    assert weighted.mean() == pytest.approx(values.mean(), abs=4 * weighted.std() / len(weighted) ** 0.5)
    assert values[rows.indices].mean() != pytest.approx(values.mean(), abs=1)


def test_masked_losses_are_those_of_the_sample_in_each_row() -> None:
    wrong = np.zeros((40, 2), np.float32)
    wrong[5, 1] = wrong[4, 0] = 0.9
    known = Evidence(SURE.right, SURE.rival, wrong)
    rows = plan_of(replace(LEAVING, wrong_pairs="mask"), known)
    assert rows.masked is not None
    assert {int(i) for i in rows.indices[rows.masked.any(axis=1)]} == {5}  # 4 is left out
    assert rows.masked[rows.indices == 5].tolist() == [[False, True, True]] * int((rows.indices == 5).sum())


def test_the_part_left_out_differs_between_plans() -> None:
    action = Action(belief=0.5, left_out=0.5)
    held = [set(plan_of(action, SURE, seed=seed).indices) & set(np.flatnonzero(WRONG)) for seed in range(3)]
    assert all(0 < len(some) < 10 for some in held)
    assert held[0] != held[1]


def graded(samples: int) -> SampleTable:
    """A table in which every sample was scored, none like another."""
    return scored(np.linspace(-1, 1, samples).tolist(), np.linspace(2, 0, samples).tolist())


def one_by_one(candidates: int, batch_size: int, length: int, weights: np.ndarray, seed: int, step: int) -> np.ndarray:
    """Passes over the candidates as the promise of a plan words them: each drawn by itself, behind the one before."""
    rows = np.empty(0, dtype=np.int64)
    while len(rows) < length:
        number = len(rows) // candidates
        order = weighted_order(weights, uniforms(seed, step, number, candidates)).tolist()
        opened = set(rows[len(rows) // batch_size * batch_size :].tolist())
        room = -len(rows) % batch_size
        fresh = [i for i in order if i not in opened]
        head = fresh[:room]
        repeats = [i for i in order[: room + len(opened)] if i in opened]
        moved = [*head, *repeats]
        rows = np.concatenate([rows, moved + [i for i in order if i not in moved]])[:length]
    return rows


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**32), st.booleans())
def test_passes_drawn_together_are_those_drawn_one_by_one(kept: int, batch_size: int, seed: int, some: bool) -> None:
    samples = max(kept, batch_size)
    table = graded(samples)
    weights = log_weights(Action(link="linear" if some else "exponential", kappa_loss=2.0), table)
    calendar = Calendar(samples, batch_size, "drop", None)
    action = Action(coverage="subset", kappa_loss=2.0, link="linear" if some else "exponential", share=kept / samples)
    candidates = admitted(action, table)
    drawn = draw_plan(calendar, 3, 20, action, table, np.zeros(samples, dtype=np.bool_), seed)
    expected = one_by_one(len(candidates), batch_size, 17 * batch_size, weights[candidates], seed, 3)
    assert drawn.indices.tolist() == candidates[expected].tolist()


def test_a_million_passes_over_a_sample_cost_no_generator_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def philox(**options: Any) -> np.random.Philox:
        nonlocal made
        made += 1
        return generator(**options)

    generator = np.random.Philox
    monkeypatch.setattr(np.random, "Philox", philox)
    action = Action(coverage="subset", share=0.001)
    calendar = Calendar(1000, 1000, "drop", 1000)
    drawn = draw_plan(calendar, 0, 1000, action, graded(1000), np.zeros(1000, dtype=np.bool_), 0)
    assert len(np.unique(drawn.indices)) == 1
    assert made <= 10


def test_a_draw_can_be_ended_before_it_is_done() -> None:
    def proceed() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        draw_plan(
            Calendar(4, 2, "drop", None), 0, 2, Action(), graded(4), np.zeros(4, dtype=np.bool_), 0, None, proceed
        )


class TestAscending:
    """It is a stable argsort, whatever keys there are and however many of them are wanted."""

    @given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60), st.integers(1, 60))
    def test_of_any_keys(self, keys: list[float], first: int) -> None:
        values = np.array(keys)
        assert ascending(values, first).tolist() == np.argsort(values, kind="stable")[:first].tolist()

    @pytest.mark.parametrize("first", [1, 500, 4_999, 5_000, 10_000])
    def test_of_keys_that_differ_in_their_last_bits_alone(self, first: int) -> None:
        values = 1 + np.random.default_rng(0).integers(0, 3000, 10_000) * 2.0**-52
        assert (ascending(values, first) == np.argsort(values, kind="stable")[:first]).all()

    def test_the_first_of_an_order_are_those_of_the_whole(self) -> None:
        weights = np.log(np.random.default_rng(0).random(3000))
        weights[::3] = -np.inf
        u = uniforms(1, 2, 3, 3000)
        whole = weighted_order(weights, u)
        for first in (1, 700, 2000, 2001, 3000):
            assert (weighted_order(weights, u, first) == whole[:first]).all()
        assert (weighted_order(weights, u[None], 700) == whole[None, :700]).all()
