"""LFM, beside numbers worked out by hand."""

import math

import pytest
import torch

from tests.trainer_client.reference.rivals.worlds import Pair, heads, started
from trainer_client.reference.rivals.losses.lfm import Lfm, contrastive


def test_the_first_epoch_is_mostly_contrast_and_later_ones_mostly_labels() -> None:
    # Embeddings are equal, and orthogonal between samples: each pair has log(1 + e^-1) = .313262 at temperature 1.
    # Joint logits (2, 0): log(1 + e^-2) = .126928. Shares 1 - e^-1 = .632121, in the tenth epoch 1 - e^-.1 = .095163.
    model = Pair()
    rival = started(Lfm(temperature=1, unimodal_weight=0), model)
    given = heads(model, [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert rival.loss(given, torch.tensor([0, 1])).tolist() == pytest.approx([0.244714] * 2, abs=1e-5)
    rival.memory["epoch"] = 9
    expected = 0.904837 * 0.126928 + 0.095163 * 0.313262
    assert rival.loss(given, torch.tensor([0, 1])).tolist() == pytest.approx([expected] * 2, abs=1e-5)


def test_contrast_is_the_mean_of_both_directions() -> None:
    # Logits [[1, 0], [0, 0]]: by rows log(1 + e^-1) and log 2, by columns the same.
    first, second = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = [math.log(1 + math.exp(-1)), math.log(2)]
    assert contrastive(first, second, 1.0).tolist() == pytest.approx(expected)
