"""What is told of a network, against cases by hand."""

import numpy as np
import pytest
import torch

from envs.research.suite.metrics import figures, macro_f1, mean_average_precision
from tests.trainer_client.support.clusters import clusters
from trainer_client.reference.model import build_model


def test_macro_f1_is_the_mean_over_classes() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    # TP, predicted, of the class: 2, 4, 3; 1, 2, 2; 0, 0, 1
    assert macro_f1(predicted, labels) == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)


def test_average_precision_is_the_mean_precision_at_the_ranks_of_a_class() -> None:
    first = np.array([0.9, 0.8, 0.7, 0.6])
    labels = np.array([0, 1, 0, 1])
    of_first = (1 / 1 + 2 / 3) / 2
    of_second = (1 / 1 + 2 / 3) / 2  # by 1 − first its samples have ranks 1 and 3
    assert mean_average_precision(np.stack([first, 1 - first], 1), labels) == pytest.approx((of_first + of_second) / 2)


def test_samples_of_one_probability_share_the_last_rank() -> None:
    probabilities = np.array([[0.5, 0.2], [0.5, 0.8], [0.9, 0.3]])  # of the first class the ranks are 3, 3, 1
    of_first = (1 / 1 + 2 / 3) / 2
    assert mean_average_precision(probabilities, np.array([0, 1, 0])) == pytest.approx((of_first + 1) / 2)


def test_a_modality_that_says_nothing_has_none_of_the_shapley_value() -> None:
    data = clusters()
    model = build_model(data, seed=0)
    with torch.no_grad():
        model.joint.weight[:, 64:] = 0  # of the second modality's embedding
        model.joint.bias[:] = 0
    told = figures(model, data, "test", torch.device("cpu"))
    labels = data.labels[data.indices("test")]
    nothing = float((labels == 0).mean())  # logits of 0, of which the first is taken
    # Worth: (0) a, (1) nothing, (0, 1) a. φ₀ = ½·a + ½·(a − nothing)
    accuracy = told["accuracy"]
    assert told["shapley"]["left"] == pytest.approx(accuracy - nothing / 2)
    assert sum(told["shapley"].values()) == pytest.approx(accuracy)
    assert told["gap"] == pytest.approx(abs(told["heads"]["left"] - told["heads"]["right"]))
    assert told["ratio"] >= 1
