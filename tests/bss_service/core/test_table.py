import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.table import MAX_STEP, SampleTable
from tests.bss_service.core.worlds import tables

NAN = float("nan")


def measure(table: SampleTable, step: int, **values: float) -> None:
    """Measure single samples at a step: their losses by name `s0`, `s1`, …; similarity is half of the loss."""
    indices = np.array([int(name[1:]) for name in values])
    loss = np.array(list(values.values()), np.float32)
    table.measure(indices, np.full(len(indices), step), loss / 2, loss)


def test_a_sample_of_two_modalities_takes_at_most_40_bytes() -> None:
    columns = SampleTable.empty(1000, 2).columns()
    assert sum(column.nbytes for column in columns.values()) <= 40 * 1000


def test_an_empty_table_knows_nothing() -> None:
    table = SampleTable.empty(2, 2)
    assert not table.measured.any()
    assert np.isnan(table.score).all()
    assert table.weakest_head() is None


def test_a_measurement_is_written_down() -> None:
    table = SampleTable.empty(3, 2)
    measure(table, 5, s1=0.5)
    assert table.measured.tolist() == [False, True, False]
    assert (table.loss[1], table.similarity[1], table.last_step[1]) == (0.5, 0.25, 5)


@given(st.permutations([(2, 0.2), (5, 0.5), (7, 0.7)]))
def test_the_later_measurement_wins_whatever_the_order_of_arrival(measurements: list[tuple[int, float]]) -> None:
    table = SampleTable.empty(1, 2)
    for step, loss in measurements:
        measure(table, step, s0=loss)
    assert (table.last_step[0], table.loss[0]) == (7, np.float32(0.7))


def test_of_a_sample_that_comes_twice_at_once_the_later_row_counts() -> None:
    table = SampleTable.empty(1, 2)
    table.measure(np.array([0, 0]), np.array([3, 3]), np.float32([0.1, 0.2]), np.float32([1, 2]))
    assert (table.similarity[0], table.loss[0]) == (np.float32(0.2), 2.0)


def test_an_older_row_beside_a_newer_one_does_not_count() -> None:
    table = SampleTable.empty(2, 2)
    measure(table, 9, s0=0.9)
    table.measure(np.array([0, 1]), np.array([4, 4]), np.float32([0, 0]), np.float32([4, 4]))
    assert table.loss.tolist() == [np.float32(0.9), 4.0]


def test_the_last_possible_step_can_be_written_down() -> None:
    table = SampleTable.empty(1, 2)
    measure(table, MAX_STEP, s0=1)
    assert table.last_step[0] == MAX_STEP
    table.refresh(0.5)
    assert table.last_step[0] == MAX_STEP


def test_probabilities_stay_where_a_later_measurement_has_none() -> None:
    table = SampleTable.empty(2, 2)
    rows = np.float32([[0.1, 0.2, 0.3], [NAN, NAN, NAN]])
    table.measure(np.array([0, 1]), np.array([0, 0]), np.float32([0, 0]), np.float32([0, 0]), rows)
    measure(table, 1, s0=1, s1=1)
    np.testing.assert_array_equal(table.probabilities, rows)


def test_the_first_refresh_takes_the_score_and_later_ones_move_towards_it() -> None:
    """The paper's ŝ ← (1 − β)·ŝ + β·s by hand, over three refreshes of four samples."""
    table, average, beta = SampleTable.empty(4, 2), [0.0] * 4, 0.6
    rounds = [
        ([0.1, 0.9, 0.4, 0.6], [3, 1, 2, 4]),
        ([0.5, 0.2, 0.8, 0.1], [1, 5, 2, 2]),
        ([0, 0, 1, 0.5], [0, 1, 1, 2]),
    ]
    for step, (similarity, loss) in enumerate(rounds):
        table.measure(np.arange(4), np.full(4, step), np.float32(similarity), np.float32(loss))
        table.refresh(beta)
        scores = [
            (s - min(similarity)) / (max(similarity) - min(similarity)) - (v - min(loss)) / (max(loss) - min(loss))
            for s, v in zip(similarity, loss, strict=True)
        ]
        average = scores if step == 0 else [(1 - beta) * a + beta * s for a, s in zip(average, scores, strict=True)]
        np.testing.assert_allclose(table.score, average, atol=1e-6)


def test_only_what_was_measured_since_the_last_refresh_moves() -> None:
    table = SampleTable.empty(3, 2)
    measure(table, 0, s0=1, s1=2, s2=3)
    table.refresh(1.0)
    measure(table, 1, s0=9, s1=7)
    table.refresh(1.0)
    np.testing.assert_allclose(table.loss_ema, [1, 0, 1])


def test_the_first_score_stays() -> None:
    table = SampleTable.empty(2, 2)
    table.measure(np.arange(2), np.zeros(2, int), np.float32([1, 0]), np.float32([1, 2]))
    table.refresh(1.0)
    table.measure(np.arange(2), np.ones(2, int), np.float32([0, 1]), np.float32([2, 1]))
    table.refresh(1.0)
    assert (table.first_score.tolist(), table.score.tolist()) == ([1, -1], [-1, 1])


def test_at_rate_0_what_was_measured_waits_for_the_next_refresh() -> None:
    table = SampleTable.empty(3, 2)
    measure(table, 0, s0=1, s1=2)
    table.refresh(1.0)
    measure(table, 1, s0=9, s1=5, s2=1)
    table.refresh(0.0)
    np.testing.assert_allclose(table.loss_ema, [0, 1, np.nan])
    table.refresh(1.0)
    np.testing.assert_allclose(table.loss_ema, [1, 0.5, 0])


def test_a_refresh_without_news_changes_nothing() -> None:
    table = SampleTable.empty(2, 2)
    table.refresh(0.5)
    measure(table, 0, s0=1)
    table.refresh(0.5)
    before = {name: column.copy() for name, column in table.columns().items()}
    table.refresh(0.5)
    np.testing.assert_equal(table.columns(), before)


def test_constant_measurements_score_0() -> None:
    table = SampleTable.empty(3, 2)
    measure(table, 0, s0=2, s1=2, s2=2)
    table.refresh(0.5)
    assert table.score.tolist() == [0, 0, 0]


@given(tables())
def test_scores_stay_in_their_ranges(table: SampleTable) -> None:
    known = ~np.isnan(table.score)
    assert ((table.similarity_ema[known] >= 0) & (table.similarity_ema[known] <= 1)).all()
    assert ((table.loss_ema[known] >= 0) & (table.loss_ema[known] <= 1)).all()
    assert (np.abs(table.first_score[known]) <= 1).all()
    assert (known == table.measured).all()


def test_the_weakest_head_is_the_unimodal_one_of_least_mean_probability() -> None:
    table = SampleTable.empty(2, 3)
    rows = np.float32([[0.9, 0.2, 0.4, 0.1], [0.1, 0.2, 0.4, 0.1]])
    table.measure(np.arange(2), np.zeros(2, int), np.float32([0, 0]), np.float32([0, 0]), rows)
    assert table.mean_probabilities() == pytest.approx([0.5, 0.2, 0.4, 0.1])
    assert table.weakest_head() == 1
