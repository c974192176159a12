"""What is kept of how the heads judge each label, visit by visit."""

import numpy as np
import pytest

from bss_service.core.arrays import Float32
from bss_service.core.samples.dynamics import MOST_VISITS, NEEDED, Dynamics, are_kept
from bss_service.core.samples.table import SampleTable
from bss_service.core.signals import EVIDENCE, PAPER, Signals

HEADS = 3  # two unimodal heads and the joint one
SIGNALS = Signals(EVIDENCE, HEADS)


def visit(probability: float, margin: float, *, other: float = 7, label: float = 3, rows: int = 1) -> Float32:
    """What was measured of samples that all look alike: values (rows, S)."""
    arrays = {
        "similarity": 0.5,
        "loss": 1.0,
        "probability": [probability, probability / 2, probability / 4],
        "summed_probability": probability,
        "margin": margin,
        "other_class": other,
        "other_probability": [0.2, 0.4, 0.6],
        "summed_other_probability": 0.8,
        "predicted_class": [1, 2, 3],
        "label": label,
    }
    spread = {name: np.broadcast_to(value, (rows, *np.shape(value))) for name, value in arrays.items()}
    return SIGNALS.joined({name: value.astype(np.float32) for name, value in spread.items()}, (rows,))


def visited(*visits: Float32, samples: int = 4) -> Dynamics:
    """Sample 2 of some, after these visits."""
    dynamics = Dynamics.empty(samples, HEADS)
    for values in visits:
        dynamics.measure(SIGNALS, np.array([2]), values)
    return dynamics


def test_the_first_visit_is_taken_as_it_is() -> None:
    dynamics = visited(visit(0.5, 1.5))
    assert dynamics.probability[2].tolist() == [0.5, 0.25, 0.125]
    assert (dynamics.summed_probability[2], dynamics.last_probability[2]) == (0.5, 0.5)
    assert (dynamics.margin[2], dynamics.mean_margin[2], dynamics.last_margin[2]) == (1.5, 1.5, 1.5)
    assert dynamics.other_probability[2].tolist() == [51, 102, 204]  # unimodal heads and summed, not the joint head
    assert (dynamics.other_class[2], dynamics.label[2]) == (7, 3)
    assert dynamics.predicted_class[2].tolist() == [1, 2]
    assert (dynamics.visits[2], dynamics.hits[2]) == (1, 1)


def test_later_visits_move_the_averages_by_their_rate() -> None:
    dynamics = visited(visit(0.5, 1.0), visit(1.0, -1.0), visit(0.0, 6.0))
    assert dynamics.summed_probability[2] == pytest.approx(0.7 * (0.7 * 0.5 + 0.3 * 1.0), abs=1e-3)
    assert dynamics.margin[2] == pytest.approx(0.7 * (0.7 * 1.0 + 0.3 * -1.0) + 0.3 * 6.0, abs=2e-3)
    assert dynamics.mean_margin[2] == pytest.approx((1 - 1 + 6) / 3, abs=2e-3)
    assert (dynamics.last_probability[2], dynamics.last_margin[2]) == (0.0, 6.0)
    assert (dynamics.visits[2], dynamics.hits[2]) == (3, 2)


def test_other_samples_stay_as_they_were() -> None:
    before, after = Dynamics.empty(4, HEADS).to_arrays(), visited(visit(0.5, 1.0)).to_arrays()
    for name, column in after.items():
        np.testing.assert_array_equal(np.delete(column, 2, axis=0), np.delete(before[name], 2, axis=0))


def test_of_a_sample_that_comes_twice_the_later_row_counts_as_one_visit() -> None:
    twice = Dynamics.empty(4, HEADS)
    twice.measure(SIGNALS, np.array([2, 2]), np.concatenate([visit(0.9, 9.0), visit(0.5, 1.5)]))
    once = visited(visit(0.5, 1.5))
    for name, column in twice.to_arrays().items():
        np.testing.assert_array_equal(column, once.to_arrays()[name])


@pytest.mark.parametrize("signal", NEEDED)
def test_a_row_that_lacks_a_signal_is_no_visit(signal: str) -> None:
    values = visit(0.5, 1.5, rows=2)
    SIGNALS.of(signal, values)[1] = np.nan
    dynamics = Dynamics.empty(4, HEADS)
    dynamics.measure(SIGNALS, np.array([0, 1]), values)
    assert dynamics.visits.tolist() == [1, 0, 0, 0]


def test_many_visits_keep_the_share_of_hits_and_the_mean() -> None:
    dynamics = visited(*[visit(0.5, 2.0 if k % 4 else -2.0) for k in range(3 * MOST_VISITS)])
    assert dynamics.visits[2] <= MOST_VISITS
    assert dynamics.hits[2] / dynamics.visits[2] == pytest.approx(0.75, abs=0.02)
    assert dynamics.mean_margin[2] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("label", "width"), [(65_535, 2), (65_536, 4), (100_000, 4)])
def test_class_columns_are_as_wide_as_their_classes(label: int, width: int) -> None:
    dynamics = visited(visit(0.5, 1.0), visit(0.5, 1.0, label=label, other=label - 1), visit(0.5, 1.0, label=1))
    assert dynamics.label.itemsize == width
    assert (dynamics.label[2], dynamics.other_class[2]) == (1, 7)
    again = visited(visit(0.5, 1.0, label=label))
    assert again.label[2] == label


def test_a_margin_that_half_precision_cannot_hold_is_its_largest() -> None:
    dynamics = visited(visit(1.0, 1e30), visit(0.0, -1e30))
    assert np.isfinite(dynamics.mean_margin).all()
    assert dynamics.last_margin[2] == pytest.approx(-60_000)


@pytest.mark.parametrize("label", [3, 70_000])
def test_columns_survive_being_written_down(label: int) -> None:
    dynamics = visited(visit(0.3, 1.1, label=label), visit(0.7, -0.2, label=label))
    again = Dynamics.of_arrays(dynamics.to_arrays(), 4, HEADS)
    for name, column in dynamics._columns().items():
        assert getattr(again, name).dtype == column.dtype
        np.testing.assert_array_equal(getattr(again, name), column)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"visits": np.full(4, 1000, np.float32)}, "visits must hold uint8 values"),
        ({"label": np.zeros(3, np.float32)}, r"label must have shape \(4,\), got \(3,\)"),
        ({"label": np.full(4, 0.5, np.float32)}, "label must hold uint16 values"),
        ({"strange": np.zeros(4, np.float32)}, r"columns must be \[.*\], got"),
    ],
)
def test_columns_that_it_cannot_hold_are_refused(change: dict[str, Float32], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Dynamics.of_arrays(visited(visit(0.5, 1.0)).to_arrays() | change, 4, HEADS)


def test_a_table_has_them_where_all_their_signals_are_declared() -> None:
    assert SampleTable.empty(5, SIGNALS).dynamics is not None
    for left_out in NEEDED:
        fewer = Signals([signal for signal in EVIDENCE if signal.name != left_out], HEADS)
        assert not are_kept(fewer)
        assert SampleTable.empty(5, fewer).dynamics is None
    assert SampleTable.empty(5, Signals(PAPER, HEADS)).dynamics is None


def test_a_sample_takes_64_bytes_at_most_and_40_without() -> None:
    assert SampleTable.empty(1000, SIGNALS).nbytes <= 64 * 1000
    assert SampleTable.empty(1000, Signals(PAPER, HEADS)).nbytes == 40 * 1000


def test_a_table_takes_in_what_is_later_than_what_it_knows() -> None:
    table = SampleTable.empty(4, SIGNALS)
    table.measure(np.array([2]), np.array([7]), visit(0.5, 1.5))
    table.measure(np.array([2]), np.array([3]), visit(0.9, 9.0))
    copied = table.copy()
    table.measure(np.array([2]), np.array([8]), visit(0.9, 9.0))
    assert copied.dynamics is not None
    assert table.dynamics is not None
    assert (copied.dynamics.visits[2], copied.dynamics.last_margin[2]) == (1, 1.5)
    assert (table.dynamics.visits[2], table.dynamics.last_margin[2]) == (2, 9.0)
