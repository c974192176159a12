"""How well wrong labels are told, in cases that can be counted by hand."""

import numpy as np
import pytest

from envs.research.detection import Detection, Reliability, auc


def test_what_is_disbelieved_is_held_against_the_labels_that_are_wrong() -> None:
    right = np.array([0.1, 0.2, 0.3, 0.8, 0.9, np.nan], np.float32)
    wrong = np.array([True, True, False, True, False, True])
    found = Detection.of(right, wrong)
    assert (found.precision, found.recall) == pytest.approx((2 / 3, 2 / 3))
    assert found.auc == pytest.approx(5 / 6)
    assert found.reliability.number.sum() == 5  # the sample that was not seen counts nowhere


def test_where_no_label_is_wrong_all_that_are_disbelieved_are_false_alarms() -> None:
    found = Detection.of(np.array([0.2, 0.9], np.float32), np.array([False, False]))
    assert found.precision == 0
    assert np.isnan([found.auc, found.recall]).all()
    assert np.isnan(Detection.of(np.array([0.9], np.float32), np.array([True])).precision)


def test_calibration_is_how_far_shares_are_from_what_was_said() -> None:
    said = np.repeat([0.2, 0.9], 50).astype(np.float32)
    happened = np.concatenate([np.arange(50) < 10, np.arange(50) < 25])
    assert Reliability.of(said, happened).error == pytest.approx(0.5 * 0 + 0.5 * 0.4, abs=1e-6)


@pytest.mark.parametrize(
    ("score", "positive", "expected"),
    [
        ([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.4, 0.6, 0.1], [0, 0, 1, 1], 0.25),
        ([1, 1, 1], [1, 0, 1], 0.5),
    ],
)
def test_auc_is_how_often_a_positive_scores_higher(score: list[float], positive: list[int], expected: float) -> None:
    assert auc(np.array(score), np.array(positive, bool)) == expected


def test_auc_of_one_kind_alone_is_not_known() -> None:
    assert np.isnan(auc(np.array([0.1, 0.2]), np.array([True, True])))
