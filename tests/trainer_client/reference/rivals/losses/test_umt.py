"""UMT, beside numbers worked out by hand."""

import math

import pytest
import torch

from tests.trainer_client.reference.rivals.worlds import Loader, Pair, heads, started
from trainer_client.reference.rivals.losses.umt import Umt


def test_encoders_are_drawn_to_what_their_teachers_make_of_the_sample() -> None:
    model = Pair()
    rival = started(Umt(scale=10, unimodal_weight=0), model)
    rival.memory["embeddings"] = torch.zeros(2, 6, 2)
    rival.memory["embeddings"][1, 3] = torch.tensor([0.0, 1.0])  # b's teacher says of sample 3 what b does
    loss = rival.loss(heads(model, [[1.0, 0.0]], [[0.0, 1.0]], samples=[3]), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(2) + 10 * (1 + 0) / 2)  # joint logits (1, 1); a is 1 off in one of two


def test_teachers_are_trained_once_and_alone() -> None:
    model = Pair()
    rival = started(Umt(teacher_epochs=1), model, rate=1.0)
    inputs = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [2.0, 0.0]]]
    rival.on_epoch(Loader(inputs, [0, 1]))  # type: ignore[arg-type]
    # Of a each label has p = 1/(1 + e^-1) = .731059: each weight gains .268941/2. Of b it has 1/(1 + e^2) = .119203,
    # the wrong class being told: weights lose .880797 * 2/2.
    assert torch.allclose(rival.memory["embeddings"][0], torch.tensor([[1.134471, 0.0], [0.0, 1.134471]]), atol=1e-5)
    assert torch.allclose(rival.memory["embeddings"][1], torch.tensor([[0.0, 0.238406], [0.238406, 0.0]]), atol=1e-5)
    assert torch.equal(model.encoders["a"].weight, torch.ones(2))
    before = rival.memory["embeddings"]
    rival.on_epoch(Loader(inputs, [0, 1]))  # type: ignore[arg-type]
    assert rival.memory["embeddings"] is before
