from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.samples.table import MAX_STEP, SampleTable
from tests.bss_service.core.worlds import empty, measure, tables

NAN = float("nan")


def measure_losses(table: SampleTable, step: int, **losses: float) -> None:
    """Measure single samples at a step: their losses by name `s0`, `s1`, …; similarity is half of the loss."""
    loss = np.array(list(losses.values()), np.float32)
    measure(table, step, [int(name[1:]) for name in losses], similarity=loss / 2, loss=loss)


def test_a_sample_of_two_modalities_takes_at_most_40_bytes() -> None:
    assert empty(1000).nbytes <= 40 * 1000


def test_an_empty_table_knows_nothing() -> None:
    table = empty(2)
    assert not table.measured.any()
    assert np.isnan(table.score).all()
    assert table.weakest_head() is None


def test_a_measurement_is_written_down() -> None:
    table = empty(3)
    measure_losses(table, 5, s1=0.5)
    assert table.measured.tolist() == [False, True, False]
    assert (table.latest["loss"][1], table.latest["similarity"][1], table.last_step[1]) == (0.5, 0.25, 5)


@given(st.permutations([(2, 0.2), (5, 0.5), (7, 0.7)]))
def test_the_later_measurement_wins_whatever_the_order_of_arrival(measurements: list[tuple[int, float]]) -> None:
    table = empty(1)
    for step, loss in measurements:
        measure_losses(table, step, s0=loss)
    assert (table.last_step[0], table.latest["loss"][0]) == (7, np.float32(0.7))


def test_of_a_sample_that_comes_twice_at_once_the_later_row_counts() -> None:
    table = empty(1)
    measure(table, 3, [0, 0], similarity=[0.1, 0.2], loss=[1, 2])
    assert (table.latest["similarity"][0], table.latest["loss"][0]) == (np.float32(0.2), 2.0)


def test_an_older_row_beside_a_newer_one_does_not_count() -> None:
    table = empty(2)
    measure_losses(table, 9, s0=0.9)
    measure(table, 4, [0, 1], similarity=[0, 0], loss=[4, 4])
    assert table.latest["loss"].tolist() == [np.float32(0.9), 4.0]


def test_the_last_possible_step_can_be_written_down() -> None:
    table = empty(1)
    measure_losses(table, MAX_STEP - 1, s0=1)
    assert table.last_step[0] == MAX_STEP - 1
    table.refresh(0.5)
    assert table.last_step[0] == MAX_STEP - 1


def test_probabilities_stay_where_a_later_measurement_has_none() -> None:
    table = empty(2)
    rows = np.float32([[0.1, 0.2, 0.3], [NAN, NAN, NAN]])
    measure(table, 0, [0, 1], similarity=[0, 0], loss=[0, 0], probability=rows)
    measure_losses(table, 1, s0=1, s1=1)
    np.testing.assert_array_equal(table.latest["probability"], rows)


def test_the_first_refresh_takes_the_score_and_later_ones_move_towards_it() -> None:
    """The paper's ŝ ← (1 − β)·ŝ + β·s by hand, over three refreshes of four samples."""
    table, average, beta = empty(4), [0.0] * 4, 0.6
    rounds = [
        ([0.1, 0.9, 0.4, 0.6], [3, 1, 2, 4]),
        ([0.5, 0.2, 0.8, 0.1], [1, 5, 2, 2]),
        ([0, 0, 1, 0.5], [0, 1, 1, 2]),
    ]
    for step, (similarity, loss) in enumerate(rounds):
        measure(table, step, range(4), similarity=similarity, loss=loss)
        table.refresh(beta)
        scores = [
            (s - min(similarity)) / (max(similarity) - min(similarity)) - (v - min(loss)) / (max(loss) - min(loss))
            for s, v in zip(similarity, loss, strict=True)
        ]
        average = scores if step == 0 else [(1 - beta) * a + beta * s for a, s in zip(average, scores, strict=True)]
        np.testing.assert_allclose(table.score, average, atol=1e-6)


def test_only_what_was_measured_since_the_last_refresh_moves() -> None:
    table = empty(3)
    measure_losses(table, 0, s0=1, s1=2, s2=3)
    table.refresh(1.0)
    measure_losses(table, 1, s0=9, s1=7)
    table.refresh(1.0)
    np.testing.assert_allclose(table.average["loss"], [1, 0, 1])


def test_the_first_score_stays() -> None:
    table = empty(2)
    measure(table, 0, [0, 1], similarity=[1, 0], loss=[1, 2])
    table.refresh(1.0)
    measure(table, 1, [0, 1], similarity=[0, 1], loss=[2, 1])
    table.refresh(1.0)
    assert (table.first_score.tolist(), table.score.tolist()) == ([1, -1], [-1, 1])


def test_at_rate_0_what_was_measured_waits_for_the_next_refresh() -> None:
    table = empty(3)
    measure_losses(table, 0, s0=1, s1=2)
    table.refresh(1.0)
    measure_losses(table, 1, s0=9, s1=5, s2=1)
    table.refresh(0.0)
    np.testing.assert_allclose(table.average["loss"], [0, 1, np.nan])
    table.refresh(1.0)
    np.testing.assert_allclose(table.average["loss"], [1, 0.5, 0])


def test_a_refresh_without_news_changes_nothing() -> None:
    table = empty(2)
    table.refresh(0.5)
    measure_losses(table, 0, s0=1)
    table.refresh(0.5)
    before = table.copy()
    table.refresh(0.5)
    np.testing.assert_equal(astuple(table)[1:], astuple(before)[1:])


def test_constant_measurements_score_0() -> None:
    table = empty(3)
    measure_losses(table, 0, s0=2, s1=2, s2=2)
    table.refresh(0.5)
    assert table.score.tolist() == [0, 0, 0]


@given(tables())
def test_scores_stay_in_their_ranges(table: SampleTable) -> None:
    known = ~np.isnan(table.score)
    assert ((table.average["similarity"][known] >= 0) & (table.average["similarity"][known] <= 1)).all()
    assert ((table.average["loss"][known] >= 0) & (table.average["loss"][known] <= 1)).all()
    assert (np.abs(table.first_score[known]) <= 1).all()
    assert (known == table.measured).all()


def test_the_weakest_head_is_the_unimodal_one_of_least_mean_probability() -> None:
    table = empty(2, 3)
    rows = np.float32([[0.9, 0.2, 0.4, 0.1], [0.1, 0.2, 0.4, 0.1]])
    measure(table, 0, [0, 1], similarity=[0, 0], loss=[0, 0], probability=rows)
    assert table.mean_probabilities() == pytest.approx([0.5, 0.2, 0.4, 0.1])
    assert table.weakest_head() == 1


# What is not known.


def test_a_signal_that_is_unknown_for_a_sample_stays_as_it_was_and_the_others_are_written() -> None:
    table = empty(2)
    measure(table, 0, [0, 1], similarity=[0.1, 0.2], loss=[1, 2], probability=np.full((2, 3), 0.5))
    measure(table, 1, [0, 1], similarity=[0.3, NAN], loss=[NAN, 4], probability=np.full((2, 3), NAN))
    assert table.latest["similarity"].tolist() == pytest.approx([0.3, 0.2])
    assert table.latest["loss"].tolist() == [1, 4]
    assert (table.latest["probability"] == 0.5).all()
    assert table.last_step.tolist() == [1, 1]


def test_a_row_in_which_nothing_is_known_is_no_measurement() -> None:
    table = empty(2)
    measure(table, 5, [0, 1], similarity=[NAN, NAN], loss=[NAN, 1])
    assert table.measured.tolist() == [False, True]
    assert table.last_step.tolist() == [-1, 5]


def test_the_average_of_a_signal_moves_only_where_it_was_measured_since_the_last_refresh() -> None:
    table = empty(3)
    measure(table, 0, range(3), similarity=[0.0, 0.5, 1.0], loss=[1, 2, 3])
    table.refresh(1.0)
    measure(table, 1, range(3), similarity=[1.0, 0.5, 0.0], loss=[NAN, 7, 5])
    table.refresh(1.0)
    np.testing.assert_allclose(table.average["similarity"], [1, 0.5, 0])
    np.testing.assert_allclose(
        table.average["loss"], [0, 1, 0]
    )  # of the first as it was; the others against each other


def test_a_measurement_of_before_does_not_count_as_one_of_now_where_the_signal_was_left_out() -> None:
    table = empty(2)
    measure(table, 0, [0, 1], loss=[1, 9])  # nobody measured the similarity
    table.refresh(1.0)
    assert np.isnan(table.score).all()
    measure(table, 1, [0, 1], similarity=[0.2, 0.4])
    table.refresh(1.0)
    np.testing.assert_allclose(table.average["loss"], [0, 1])
    np.testing.assert_allclose(table.average["similarity"], [0, 1])


def test_a_signal_left_out_after_it_was_measured_in_the_same_interval_keeps_that_measurement() -> None:
    table = empty(2)
    measure(table, 0, [0, 1], similarity=[0.1, 0.9], loss=[1, 2])
    measure(table, 1, [0], similarity=[0.5])
    table.refresh(1.0)
    np.testing.assert_allclose(table.average["loss"], [0, 1])
    np.testing.assert_allclose(table.average["similarity"], [0, 1])  # of 0.5 and 0.9


def test_one_head_may_be_unknown_alone() -> None:
    table = empty(2)
    measure(table, 0, [0, 1], probability=[[0.2, 0.4, 0.6], [NAN, 0.8, NAN]])
    assert table.mean_probabilities() == pytest.approx([0.2, 0.6, 0.6])
    assert table.weakest_head() == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8), st.integers(0, 2**32))
def test_a_signal_goes_the_same_way_whatever_is_known_of_the_others(course: list[tuple[bool, bool]], seed: int) -> None:
    """Losses measured beside similarities, or with these left out, leave the same losses and averages."""
    rng = np.random.default_rng(seed)
    beside, alone = empty(4), empty(4)
    for step, (with_similarity, refreshed) in enumerate(course):
        indices, loss = rng.permutation(4)[:3], rng.random(3)
        similarity = np.where(with_similarity, rng.random(3), NAN)
        measure(beside, step, indices, similarity=similarity, loss=loss)
        measure(alone, step, indices, loss=loss)
        if refreshed:
            beside.refresh(0.5)
            alone.refresh(0.5)
    np.testing.assert_array_equal(beside.latest["loss"], alone.latest["loss"])
    np.testing.assert_array_equal(beside.average["loss"], alone.average["loss"])
