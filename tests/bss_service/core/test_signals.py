import numpy as np
import pytest

from bss_service.core.signals import LABEL, LOSS, PAPER, PROBABILITY, SIMILARITY, Signal, Signals

NAN = float("nan")
ENTROPY = Signal("entropy", "of the joint head's prediction, in nats", low=0)


def test_the_papers_signals_have_its_ranges_and_are_kept() -> None:
    assert {signal.name: (signal.low, signal.high) for signal in PAPER if signal.kept} == {
        "similarity": (-1.0, 1.0),
        "loss": (None, None),
        "probability": (0.0, 1.0),
    }


def test_each_signal_has_its_columns_in_the_order_of_declaration() -> None:
    signals = Signals([ENTROPY, PROBABILITY, LOSS], heads=3)
    row = np.arange(5.0)
    assert signals.width == 5
    assert {signal.name: np.array(signals.of(signal.name, row)).tolist() for signal in signals} == {
        "entropy": 0.0,
        "probability": [1.0, 2.0, 3.0],
        "loss": 4.0,
    }


def test_arrays_by_name_are_laid_side_by_side_and_what_is_missing_is_not_known() -> None:
    signals = Signals([SIMILARITY, LOSS, PROBABILITY], heads=2)
    joined = signals.joined({"probability": np.array([[0.1, 0.9]]), "similarity": np.array([0.5])}, (1,))
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, np.float32([[0.5, NAN, 0.1, 0.9]]))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"entropy": np.zeros(2)}, "entropy is not a signal of this job, which declares loss, probability"),
        ({"loss": np.zeros(3)}, r"loss must have shape \(2,\), got \(3,\)"),
        ({"probability": np.zeros(2)}, r"probability must have shape \(2, 3\), got \(2,\)"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_by_name(arrays: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Signals([LOSS, PROBABILITY], heads=3).joined(arrays, (2,))


@pytest.mark.parametrize("value", [NAN, 0.0, 1.0, -0.0005, 1.0005])
def test_a_value_in_its_range_or_not_known_passes_and_half_precision_may_round_out_of_it(value: float) -> None:
    PROBABILITY.check(np.array([0.5, value]))


@pytest.mark.parametrize(
    ("signal", "value", "reason"),
    [
        (PROBABILITY, 1.5, r"probability must lie in \[0, 1\], got 1.5 at \[1\]"),
        (SIMILARITY, -1.5, r"similarity must lie in \[-1, 1\], got -1.5 at \[1\]"),
        (ENTROPY, -0.5, r"entropy must lie in \[0, inf\], got -0.5 at \[1\]"),
        (LOSS, float("inf"), r"loss must hold finite values, got inf at \[1\]"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name_and_place(signal: Signal, value: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        signal.check(np.array([0.5, value]))


@pytest.mark.parametrize(
    ("declaration", "reason"),
    [
        ({"name": "Entropy"}, "name must match .*, got 'Entropy'"),
        ({"name": ""}, "name must match"),
        ({"name": "indices"}, "be none of checksum, indices, step, values, got 'indices'"),
        ({"name": 5}, "name must match .*, got 5"),
        ({"meaning": ""}, "meaning of entropy must be a text of 1 to 200 characters, got ''"),
        ({"meaning": "a" * 201}, "meaning of entropy must be a text"),
        ({"low": NAN}, "low of entropy must be a number within float32 or null, got nan"),
        ({"low": 10**400}, "low of entropy must be a number within float32 or null"),
        ({"high": "1"}, "high of entropy must be a number within float32 or null, got '1'"),
        ({"low": 1, "high": 1}, "low of entropy must be less than high = 1, got 1"),
        ({"averaged": 1}, "averaged of entropy must be true or false, got 1"),
        ({"per_head": None}, "per_head of entropy must be true or false, got None"),
        ({"whole": "no"}, "whole of entropy must be true or false, got 'no'"),
        ({"averaged": True, "kept": False}, "kept of entropy must be true where averaged is, got false"),
    ],
)
def test_a_wrong_declaration_is_refused_by_field(declaration: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Signal(**{"name": "entropy", "meaning": "of the output", **declaration})  # type: ignore[arg-type]


def test_whole_numbers_are_held_to_it_and_may_be_unknown() -> None:
    LABEL.check(np.array([0, 3, NAN, 2**24 - 1], dtype=np.float32))
    with pytest.raises(ValueError, match=r"label must hold whole numbers, got 2\.5 at \[1\]"):
        LABEL.check(np.array([NAN, 2.5], dtype=np.float32))
    with pytest.raises(ValueError, match=r"label must lie in \[0, 1\.67772e\+07\], got -1"):
        LABEL.check(np.array([-1], dtype=np.float32))
