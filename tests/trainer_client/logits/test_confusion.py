"""What validation samples are taken for, gathered batch by batch."""

import numpy as np
import pytest
import torch

from trainer_client import Confusion, ConfusionMeter


def dense(matrix: Confusion, classes: int) -> np.ndarray:
    full = np.zeros((classes, classes), np.float32)
    full[matrix.label, matrix.predicted] = matrix.mass
    return full


def test_probabilities_of_the_summed_heads_are_summed_by_true_class() -> None:
    logits = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 4
    meter = ConfusionMeter()
    for rows in (slice(0, 7), slice(7, 20)):
        meter.add(list(logits[:2, rows]), logits[2, rows], labels[rows])
    probabilities = torch.softmax(logits.sum(0), 1).numpy()
    expected = np.stack([probabilities[labels == c].sum(0) for c in range(4)])
    np.testing.assert_allclose(dense(meter.matrix(), 4), expected, rtol=1e-5)


def test_of_many_classes_the_samples_are_counted() -> None:
    joint = torch.zeros(5, 1000)
    joint[range(5), [7, 7, 999, 7, 3]] = 2.0
    meter = ConfusionMeter()
    meter.add([], joint[:3], torch.tensor([7, 7, 5]))
    meter.add([], joint[3:], torch.tensor([999, 7]))
    matrix = meter.matrix()
    entries = zip(matrix.label.tolist(), matrix.predicted.tolist(), matrix.mass.tolist(), strict=True)
    assert sorted(entries) == [(5, 999, 1.0), (7, 3, 1.0), (7, 7, 2.0), (999, 7, 1.0)]


@pytest.mark.parametrize("classes", [4, 1000])
def test_samples_without_a_label_and_what_is_no_number_count_for_nothing(classes: int) -> None:
    joint = torch.zeros(4, classes)
    joint[:, 1] = 50.0
    meter = ConfusionMeter()
    meter.add([joint], joint, torch.tensor([1, -100, 1, -100]))
    assert meter.matrix().mass.sum() == pytest.approx(2)
    assert set(meter.matrix().label.tolist()) == {1}


def test_nothing_added_is_an_empty_matrix() -> None:
    assert len(ConfusionMeter().matrix().label) == 0


def test_logits_and_labels_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="joint_logits"):
        ConfusionMeter().add([torch.zeros(3, 4)], torch.zeros(3, 5), torch.zeros(3, dtype=torch.long))
