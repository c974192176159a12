import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.action import Action
from bss_service.core.observation import FIELDS, SCHEMA_HASH, Observation, observe
from bss_service.core.samples.table import MAX_STEP, SampleTable
from bss_service.protocol.validation import ValidationReport
from tests.bss_service.core.worlds import actions, empty, scored, tables, validation

UNIT = st.floats(0, 1)
FLOAT32_MAX = float(np.finfo(np.float32).max)


def seen(table: SampleTable, **changes: Any) -> Observation:
    world: dict[str, Any] = {
        "step": 10,
        "epoch": 1,
        "steps_per_epoch": 10,
        "horizon": None,
        "reports": [],
        "previous": None,
    }
    return observe(table, **{**world, **changes})


def report(loss: float = 1.0, accuracies: tuple[float, ...] = (0.5, 0.5), accuracy: float = 0.6) -> ValidationReport:
    return validation(10, loss, accuracy, accuracies, (0.4, 0.2))


@st.composite
def reports(draw: st.DrawFn) -> ValidationReport:
    heads = st.lists(UNIT, min_size=4, max_size=4)
    loss = draw(st.floats(-FLOAT32_MAX, FLOAT32_MAX))
    return validation(draw(st.integers(0, MAX_STEP)), loss, draw(UNIT), draw(heads), draw(heads))


worlds = st.fixed_dictionaries(
    {
        "step": st.integers(0, 2**31),
        "epoch": st.integers(0, 2**31),
        "steps_per_epoch": st.floats(1, 1e9),
        "horizon": st.none() | st.integers(1, 2**31),
        "reports": st.lists(reports(), max_size=4),
        "previous": st.none() | actions(),
    }
)


@given(tables(), worlds)
def test_every_observation_is_bounded_finite_float32_of_one_length(table: SampleTable, world: dict[str, Any]) -> None:
    heads = table.signals.heads - 1
    kept = [r.model_copy(update={"modalities": dict(list(r.modalities.items())[:heads])}) for r in world["reports"]]
    vector = seen(table, **{**world, "reports": kept}).vector
    assert (vector.dtype, vector.shape) == (np.float32, (len(FIELDS),))
    assert (np.abs(vector) <= 1).all()


@pytest.mark.parametrize("loss", [FLOAT32_MAX, -FLOAT32_MAX])
def test_losses_at_the_end_of_the_float_range_are_observed(loss: float) -> None:
    vector = seen(scored([0.5] * 4, [loss] * 4), reports=[report(loss=-loss)]).vector
    assert np.isfinite(vector).all()


def test_nothing_known_is_observed_as_0() -> None:
    vector = seen(empty(3), step=0, epoch=0).vector
    assert vector.tolist() == [0.0] * len(FIELDS)


def test_without_probabilities_the_fields_that_need_them_are_0() -> None:
    observed = seen(scored([0.1, 0.9], [1, 2]), reports=[report()])
    assert observed["training_probability"] == 0
    assert observed["generalisation_gap"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("progress", 0.25),
        ("measured_share", 1.0),
        ("staleness", 0.5),
        ("has_validation", 1.0),
        ("validation_accuracy", 0.6),
        ("validation_loss", 0.6),
        ("validation_accuracy_strongest", 0.7),
        ("validation_accuracy_weakest", 0.3),
        ("validation_accuracy_gap", 0.4),
        ("validation_balance", 1 - 0.2 / 0.6),
        ("plateau", 0.2 / 1.2),
        ("gain_last", 0.0),
        ("gain_before_last", np.tanh(0.5)),
        ("training_probability", 0.5),
        ("training_probability_strongest", 0.8),
        ("training_probability_weakest", 0.4),
        ("training_probability_q10", 0.14),
        ("training_probability_q50", 0.5),
        ("training_probability_q90", 0.86),
        ("training_confident", 1 / 3),
        ("training_conflict", 0.0),
        ("head_gap_highest", 0.4),
        ("head_gap_lowest", 0.2),
        ("generalisation_gap", -0.1),
        ("training_loss", 2 / 3),
        ("loss_gap", np.tanh(1.5 - 2)),
        ("similarity_mean", 0.5),
        ("similarity_deviation", np.sqrt(0.08 / 3)),
        ("similarity_q10", 0.34),
        ("similarity_q50", 0.5),
        ("similarity_q90", 0.66),
        ("loss_mean", 0.5),
        ("loss_deviation", np.sqrt(0.5 / 3)),
        ("loss_q10", 0.1),
        ("loss_q50", 0.5),
        ("loss_q90", 0.9),
        ("score_mean", 0.0),
        ("score_deviation", 2 * np.sqrt(0.5 / 3)),
        ("similarity_loss_correlation", -1.0),
        ("previous_kappa_similarity", 0.5),
        ("previous_kappa_loss", -0.25),
        ("previous_share", 2 * (0.5 - 0.001) / 0.999 - 1),
    ],
)
def test_each_field_means_what_it_says(field: str, value: float) -> None:
    table = scored([0.3, 0.5, 0.7], [3, 2, 1], [[0.8, 0.4, 0.05], [0.8, 0.4, 0.5], [0.8, 0.4, 0.95]])
    observed = seen(
        table,
        horizon=40,
        reports=[
            report(loss=1.2).model_copy(update={"accuracy": 0.55}),
            report(loss=1.0),
            report(loss=1.5, accuracies=(0.7, 0.3)),
        ],
        previous=Action(kappa_similarity=3, kappa_loss=-3, share=0.5),
    )
    assert observed[field] == pytest.approx(value, abs=1e-6)


def test_without_a_horizon_progress_counts_epochs() -> None:
    assert seen(empty(1), epoch=30)["progress"] == 0.5


def test_the_schema_hash_is_that_of_the_fields_in_their_order() -> None:
    """A field added, moved or renamed changes it, so that a policy trained on other fields is refused."""
    assert hashlib.sha256("\n".join(["3", *FIELDS]).encode()).hexdigest() == SCHEMA_HASH
    assert len(set(FIELDS)) == len(FIELDS)


def test_the_schema_is_the_one_that_policies_were_trained_on() -> None:
    assert SCHEMA_HASH == "1d7aa9c6efd2eb9a2bc5b80f1c1c9407bad7aa03d3a702e33fbedfd28bb2d501"


def test_what_half_precision_let_out_of_its_range_is_clipped() -> None:
    table = scored([1.0, 0.0], [0.0, 1.0], 2 * [3 * [1.0005]])
    observed = seen(table)
    assert observed["training_probability"] == 1.0
    assert observed.vector.max() == 1.0
