"""SMV, beside Shapley values worked out by hand."""

import math

import pytest
import torch

from tests.trainer_client.reference.rivals.worlds import Loader, Pair, heads, started
from trainer_client.reference.rivals.samples.smv import Smv

# All of class 0. Right by a, b and both; by a and both; by a alone; by none.
A = [[1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
B = [[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 1.0]]


def test_a_sample_is_taken_again_with_the_modality_that_adds_little() -> None:
    # phi = (1, 1): none. phi = ((2 - 0 + 1)/2, (2 - 1 + 0)/2) = (1.5, .5): b once. phi = ((0 - 0 + 1)/2, (0 - 1)/2) =
    # (.5, -.5): a once, b three times. phi = (0, 0): each twice.
    rival = started(Smv(warm_up=0))
    rival.on_epoch(Loader([A, B], [0, 0, 0, 0]))  # type: ignore[arg-type]
    assert rival.memory["copies"].tolist() == [[0, 0], [0, 1], [1, 3], [2, 2]]


def test_copies_add_the_loss_of_one_modality_alone() -> None:
    model = Pair()
    rival = started(Smv(unimodal_weight=0), model)
    rival.memory["copies"] = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 3.0]])
    losses = rival.loss(heads(model, A[1:3], B[1:3], samples=[1, 2]), torch.tensor([0, 0]))
    one = math.log(1 + math.exp(-2)) + math.log(1 + math.e)  # joint (3, 1), b alone (0, 1)
    # Joint (1, 2); a alone (1, 0) once, b alone (0, 2) three times.
    two = math.log(1 + math.e) + math.log(1 + math.exp(-1)) + 3 * math.log(1 + math.exp(2))
    assert losses.tolist() == pytest.approx([one, two])


def test_while_it_warms_up_training_is_plain() -> None:
    model = Pair()
    rival = started(Smv(unimodal_weight=0, warm_up=1), model)
    rival.on_epoch(Loader([A, B], [0, 0, 0, 0]))  # type: ignore[arg-type]
    assert rival.loss(heads(model, [[0.0, 0.0]], [[0.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(math.log(2))
