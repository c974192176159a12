"""Eight bytes a sample, held against the sample table."""

from dataclasses import replace

import numpy as np
import pytest

from bss_service.core.action import Action, log_weights
from bss_service.core.samples.large.columns import BYTES, LEVELS, Columns, averages, quantised, refusals, weights_of
from bss_service.core.samples.large.order import first_of
from bss_service.core.samples.large.shards import Shards
from bss_service.core.samples.table import SampleTable
from tests.bss_service.core.worlds import empty, measure, random_table


def columns_of(table: SampleTable) -> Columns:
    """What they hold of a table, and the table with averages that they can hold."""
    columns = Columns(
        quantised(table.average["similarity"]), quantised(table.average["loss"]), table.stamp & np.uint32(2**31 - 1)
    )
    for name in ("similarity", "loss"):
        table.average[name][:] = averages(getattr(columns, name))
    return columns


def test_a_sample_takes_eight_bytes() -> None:
    columns = Columns.empty(1000)
    assert columns.similarity.nbytes + columns.loss.nbytes + columns.stamp.nbytes == 1000 * BYTES == 8000


def test_averages_lose_less_than_a_hundred_thousandth() -> None:
    values = np.append(np.random.default_rng(0).random(10_000, np.float32), [0, 1, np.nan]).astype(np.float32)
    np.testing.assert_allclose(averages(quantised(values)), values, rtol=0, atol=0.51 / LEVELS)


@pytest.mark.parametrize(
    "action",
    [
        Action(),
        Action(kappa_similarity=4, kappa_loss=2),
        Action(kappa_loss=-12, floor=0.3),
        Action(kappa_similarity=1, kappa_loss=1, link="linear"),
        Action(kappa_similarity=-6, kappa_loss=6, link="linear"),
        Action(kappa_stale=6, kappa_loss=1),
    ],
)
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_weights_are_those_of_the_sample_table(action: Action, rounds: int) -> None:
    table = random_table(500, seed=rounds, rounds=rounds)
    columns = columns_of(table)
    expected, got = log_weights(action, table), weights_of(action, columns)(0, 500)
    if action.link == "exponential":  # of which a factor does not matter
        expected, got = expected - expected.max(), got - got.max()
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_where_the_linear_link_leaves_nothing_weights_are_uniform() -> None:
    table = empty(4)
    measure(table, 0, range(4), similarity=[1.0] * 4, loss=[0.0, 1.0, 0.5, 0.2])
    columns = Columns.empty(4)
    columns.measure(np.arange(4), np.zeros(4, np.int64), np.ones(4, np.float32), np.ones(4, np.float32), 1.0)
    columns.loss[:] = LEVELS + 1
    action = Action(kappa_loss=2, link="linear")
    np.testing.assert_array_equal(weights_of(action, columns)(1, 3), [0, 0])


def test_what_was_measured_enters_as_into_the_sample_table() -> None:
    rng = np.random.default_rng(0)
    table, columns = empty(200), Columns.empty(200)
    for step in range(4):
        indices = rng.permutation(200)[:120]
        similarity, loss = rng.random(120, np.float32), rng.exponential(size=120).astype(np.float32)
        similarity[:5], loss[3:9] = np.nan, np.nan
        measure(table, step, indices, similarity=similarity, loss=loss)
        table.refresh(0.6)
        columns.measure(indices, np.full(120, step), similarity, loss, 0.6)
    for name in ("similarity", "loss"):
        np.testing.assert_allclose(averages(getattr(columns, name)), table.average[name], atol=2e-5)
    np.testing.assert_array_equal(columns.stamp.astype(np.int64) - 1, table.last_step)


def test_of_a_sample_measured_twice_the_later_row_counts() -> None:
    columns = Columns.empty(3)
    loss = np.array([9.0, 0.0, 1.0, 0.25], np.float32)
    columns.measure(np.array([2, 0, 1, 2]), np.array([0, 0, 1, 1]), loss, loss, 1.0)
    np.testing.assert_allclose(averages(columns.loss), [0, 1, 0.25], atol=1e-5)
    np.testing.assert_array_equal(columns.stamp, [1, 2, 2])


def test_an_epoch_goes_on_behind_what_came_of_it() -> None:
    columns = Columns.empty(9000)
    action = Action(kappa_loss=1)
    came: list[int] = []
    for stream, size in enumerate((4000, 1, 4999)):
        shards = Shards.of(9000, columns.left(weights_of(action, columns)))
        rows = first_of(shards, 0, stream, size).indices
        columns.come(rows)
        loss = np.random.default_rng(stream).random(size, np.float32)
        columns.measure(rows, np.full(size, stream), loss, loss, 0.5)
        came += rows.tolist()
    assert sorted(came) == list(range(9000))
    assert columns.came(0, 9000).all()
    columns.begin_epoch()
    assert not columns.came(0, 9000).any()
    assert (columns.stamp > 0).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kappa_weak": 1.0}, "kappa_weak=1.0"),
        ({"coverage": "subset"}, "coverage='subset'"),
        ({"coverage": "draw", "share": 0.5}, "share=0.5"),
        ({"belief": 0.5}, "belief=0.5"),
        ({"group_balance": 0.5}, "group_balance=0.5"),
        ({"mixture": {"a": 0.5}}, "mixture={'a': 0.5}"),
    ],
)
def test_what_the_columns_can_not_tell_is_refused_by_name(change: dict[str, object], named: str) -> None:
    action = replace(Action(), **change)  # type: ignore[arg-type]
    assert refusals(action) == [named]
    with pytest.raises(ValueError, match="can't be drawn with"):
        weights_of(action, Columns.empty(5))
