"""G-Blending, beside weights worked out by hand."""

import math

import pytest
import torch

from tests.trainer_client.reference.rivals.worlds import Loader, Pair, heads, started
from trainer_client.reference.rivals.losses.g_blending import GBlending, blending


def test_weights_are_what_is_generalised_over_the_square_of_what_is_overfitted() -> None:
    # .2/.1^2 = 20, .1/.1^2 = 10, .4/.2^2 = 10.
    weights = blending(torch.tensor([0.2, 0.1, 0.4]), torch.tensor([0.1, 0.1, -0.2]))
    assert torch.allclose(weights, torch.tensor([0.5, 0.25, 0.25]))


def test_a_head_that_gets_worse_counts_for_nothing() -> None:
    assert blending(torch.tensor([0.2, -0.3]), torch.tensor([0.1, 0.1])).tolist() == [1, 0]
    assert blending(torch.tensor([-0.2, -0.3]), torch.tensor([0.1, 0.1])).tolist() == [0.5, 0.5]


def test_the_loss_is_the_weighted_sum_of_all_heads() -> None:
    model = Pair()
    rival = started(GBlending(), model)
    rival.memory["weights"] = [0.5, 0.25, 0.25]
    given = heads(model, [[math.log(3), 0.0]], [[0.0, 0.0]])  # 3/4, 1/2 and 3/4
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2) + 0.25 * math.log(4 / 3)
    assert rival.loss(given, torch.tensor([0])).item() == pytest.approx(expected)


def test_heads_are_tried_on_copies_and_once_a_super_epoch() -> None:
    model = Pair()
    rival = started(GBlending(super_epoch=2), model)
    # a tells the classes apart; b is the same for all, so that nothing is gained by it.
    loader = Loader([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]], [0, 1])
    rival.on_epoch(loader)  # type: ignore[arg-type]
    assert rival.memory["weights"] == pytest.approx([0.5, 0.0, 0.5])
    assert torch.equal(model.encoders["a"].weight, torch.ones(2))
    rival.memory.update(epoch=1, weights="untouched")
    rival.on_epoch(loader)  # type: ignore[arg-type]
    assert rival.memory["weights"] == "untouched"
