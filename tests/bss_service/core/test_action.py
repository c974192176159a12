import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bss_service.core.action import CHOICES, DIMENSION, RANGES, Action, admitted, log_weights, needs_of
from bss_service.core.samples.table import SampleTable
from tests.bss_service.core.worlds import actions, empty, measure, scored, tables

NAN = float("nan")


@given(actions())
def test_an_action_survives_its_vector(action: Action) -> None:
    again = Action.from_vector(action.to_vector())
    for name, (low, high) in RANGES.items():
        assert getattr(again, name) == pytest.approx(getattr(action, name), abs=1e-6 * (high - low))
    for name in CHOICES:
        assert getattr(again, name) == getattr(action, name)


@given(actions())
def test_a_vector_is_float32_in_the_unit_box(action: Action) -> None:
    vector = action.to_vector()
    assert (vector.dtype, vector.shape) == (np.float32, (DIMENSION,))
    assert (np.abs(vector) <= 1).all()


@given(arrays(np.float64, DIMENSION, elements=st.floats(allow_nan=False)))
def test_any_vector_without_nan_is_an_action_clipped_to_the_box(vector: np.ndarray) -> None:
    assert Action.from_vector(vector) == Action.from_vector(np.clip(vector, -1, 1))


def test_the_ends_of_the_box_are_the_ends_of_the_ranges() -> None:
    lowest, highest = Action.from_vector(np.full(DIMENSION, -1.0)), Action.from_vector(np.full(DIMENSION, 1.0))
    for name, ends in RANGES.items():
        assert (getattr(lowest, name), getattr(highest, name)) == ends
    for name, names in CHOICES.items():
        assert (getattr(lowest, name), getattr(highest, name)) == (names[0], names[-1])


@pytest.mark.parametrize("component", range(DIMENSION))
def test_a_vector_with_nan_is_refused(component: int) -> None:
    vector = np.zeros(DIMENSION)
    vector[component] = NAN
    with pytest.raises(ValueError, match="must not hold NaN"):
        Action.from_vector(vector)


@pytest.mark.parametrize("shape", [(DIMENSION - 1,), (1, DIMENSION), ()])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"has shape \({DIMENSION},\), got"):
        Action.from_vector(np.zeros(shape))


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [-13.0, 12.5, NAN, float("inf")])
def test_a_value_out_of_range_is_refused_by_name_and_value(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie in .*, got {value}"):
        Action(**{name: value})


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_choice_is_refused_by_name_and_value(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'nonsense'"):
        Action(**{name: "nonsense"})


@given(actions(), tables())
def test_log_weights_are_never_nan_and_some_sample_has_weight(action: Action, table: SampleTable) -> None:
    weights = log_weights(action, table)
    assert weights.shape == (len(table),)
    assert not np.isnan(weights).any()
    assert np.isfinite(weights.max())


def test_the_default_action_weighs_all_samples_alike() -> None:
    assert log_weights(Action(), scored([0.1, 0.9, 0.5], [3, 2, 1])).tolist() == [0, 0, 0]


def test_exponential_weights_are_those_of_the_paper() -> None:
    table = scored([0.2, 0.4, 0.6], [3, 1, 2])
    weights = np.exp(log_weights(Action(kappa_similarity=1, kappa_loss=1), table))
    np.testing.assert_allclose(weights / weights.sum(), np.exp([-1, 0.5, 0.5]) / np.exp([-1, 0.5, 0.5]).sum())


def test_the_floor_is_added_to_weights_of_mean_1() -> None:
    table = scored([0, 1], [1, 1])
    weights = np.exp(log_weights(Action(kappa_similarity=2, floor=0.5), table))
    mean = (1 + np.e**2) / 2
    np.testing.assert_allclose(weights, [1 / mean + 0.5, np.e**2 / mean + 0.5])


def test_linear_weights_are_1_plus_the_score_plus_the_floor_and_never_negative() -> None:
    table = scored([0, 0.5, 1], [0, 0, 0])
    weights = np.exp(log_weights(Action(kappa_similarity=-2, floor=0.25, link="linear"), table))
    np.testing.assert_allclose(weights, [1.25, 0.25, 0.25])


def test_linear_weights_that_are_all_0_count_as_uniform() -> None:
    table = scored([0.5], [0.5])
    table.average["similarity"][:] = 1.0
    assert log_weights(Action(kappa_similarity=-1, link="linear"), table).tolist() == [0.0]


def test_a_linear_weight_of_0_is_never_drawn() -> None:
    table = scored([0, 1], [0, 0])
    assert log_weights(Action(kappa_similarity=-1, link="linear"), table).tolist() == [0.0, -np.inf]


def test_a_sample_without_score_counts_as_the_mean_of_the_others() -> None:
    table = empty(3)
    measure(table, 0, [0, 1], similarity=[0, 1], loss=[1, 1])
    table.refresh(1.0)
    weights = log_weights(Action(kappa_similarity=4), table)
    np.testing.assert_allclose(weights, [-4, 0, -2])


def test_weakness_is_the_lag_of_the_weakest_head_behind_the_others() -> None:
    probabilities = [[0.9, 0.1, 0.5], [0.4, 0.6, 0.5], [0.5, 0.5, 0.5]]  # on the whole the second head is weaker
    weights = log_weights(Action(kappa_weak=2), scored([0, 0, 0], [0, 0, 0], probabilities))
    np.testing.assert_allclose(weights, 2 * (np.array([0.8, -0.2, 0.0]) - 0.8), atol=1e-6)


def test_without_probabilities_no_head_is_weak() -> None:
    assert log_weights(Action(kappa_weak=2), scored([0, 1], [0, 1])).tolist() == [0, 0]


def test_staleness_is_the_scaled_age_and_greatest_where_nothing_was_measured() -> None:
    table = empty(4)
    for index, step in enumerate([10, 20, 30]):
        measure(table, step, [index], similarity=[0], loss=[0])
    weights = log_weights(Action(kappa_stale=2), table)
    np.testing.assert_allclose(weights, [0, -1, -2, 0])


def test_with_nothing_measured_nothing_is_stale() -> None:
    assert log_weights(Action(kappa_stale=2), empty(2)).tolist() == [0, 0]


@given(actions(), tables())
def test_the_share_of_the_samples_is_admitted_in_ascending_order(action: Action, table: SampleTable) -> None:
    samples = admitted(action, table)
    asked = max(1, int(len(table) * action.share + 1e-9))
    weights = log_weights(action, table)
    same = action.rank_by == "weight" and (weights == weights[0]).all()
    assert len(samples) == (asked if table.measured.any() and not same else len(table))
    assert (np.diff(samples) > 0).all()
    assert samples.dtype == np.int64


@pytest.mark.parametrize(
    ("keep", "rank_by", "expected"),
    [
        ("top", "balance", [1, 3]),
        ("bottom", "balance", [0, 2]),
        ("top", "first_balance", [0, 2]),
        ("bottom", "first_balance", [1, 3]),
        ("top", "loss", [1, 3]),  # least loss
        ("bottom", "loss", [0, 2]),
    ],
)
def test_the_share_is_kept_from_one_end_of_the_ranking(keep: str, rank_by: str, expected: list[int]) -> None:
    table = scored([0.5] * 4, [1, 3, 2, 4])
    measure(table, 1, range(4), similarity=[0.5] * 4, loss=[8, 6, 7, 5])
    table.refresh(1.0)
    assert admitted(Action(share=0.5, keep=keep, rank_by=rank_by), table).tolist() == expected


def test_ties_of_the_ranking_go_to_the_lower_index() -> None:
    assert admitted(Action(share=0.5), scored([0] * 6, [0] * 6)).tolist() == [0, 1, 2]


def test_at_least_one_sample_is_admitted() -> None:
    assert len(admitted(Action(share=0.001), scored([0, 1], [0, 1]))) == 1


@pytest.mark.parametrize(("samples", "share", "kept"), [(10, 0.3, 3), (100, 0.29, 29), (1000, 0.1864, 186)])
def test_rounding_of_the_share_does_not_lose_a_sample(samples: int, share: float, kept: int) -> None:
    table = scored(list(np.arange(samples) / samples), [0] * samples)
    assert len(admitted(Action(share=share), table)) == kept


def test_losses_are_ranked_as_measured_not_as_averaged() -> None:
    """Averages are scaled within the samples measured together, so they do not compare samples measured apart."""
    table = scored([0.5] * 4, [1, 2, 3, 4])
    measure(table, 1, [0, 1], similarity=[0.5] * 2, loss=[1, 2])
    table.refresh(1.0)
    assert admitted(Action(share=0.5, rank_by="loss"), table).tolist() == [0, 1]


def test_what_several_need_is_what_the_one_that_needs_most_does() -> None:
    assert Action(kappa_weak=1, belief=0.5).needs()["probability"] == 2
    for several in ([Action(kappa_weak=1), Action(belief=0.5)], [Action(belief=0.5), Action(kappa_weak=1)]):
        assert needs_of(several)["probability"] == 2
