"""DI-MML, beside numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from tests.trainer_client.reference.rivals.worlds import Loader, Pair, heads, started
from trainer_client.reference.fusion import Concat
from trainer_client.reference.rivals.steps.di_mml import BySurety, DiMml, complement, effective

LOG3 = math.log(3)


def rival_and_model(**parameters: float) -> tuple[DiMml, Pair]:
    model = Pair()
    model.joint = Concat(2, 2, 2)
    rival = DiMml(**parameters)
    started(rival, model)
    for parameter in model.joint.parameters():
        nn.init.zeros_(parameter)
    return rival, model


def test_dimensions_that_tell_classes_apart_are_effective() -> None:
    # Dimension 0 is nearest to its class's mean for all four, dimension 1 is the same for all: right for two.
    features = torch.tensor([[[0.0, 1.0], [0.1, 1.0], [1.0, 1.0], [1.1, 1.0]]])
    assert effective(features, torch.tensor([0, 0, 1, 1]), 2).tolist() == [[True, False]]


def test_each_modality_is_drawn_to_the_other_where_that_one_alone_is_effective() -> None:
    # On dimension 0 logits [[1, 0], [0, 0]], on dimension 1 [[0, 0], [0, 1]]: log(1 + e^-1) + log 2 for each sample.
    same = torch.eye(2)
    losses = complement([same, same], torch.tensor([[True, False], [False, True]]), 1.0)
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1)) + math.log(2)] * 2)
    assert complement([same, same], torch.tensor([[True, False], [True, False]]), 1.0).tolist() == [0, 0]


def test_the_loss_sums_separate_common_and_joint_heads() -> None:
    rival, model = rival_and_model(weight=2)
    losses = rival.loss(heads(model, [[LOG3, 0.0]], [[0.0, 0.0]]), torch.tensor([0]))
    # Own heads 3/4 and 1/2; the common and the joint one, of zeros, 1/2 each.
    assert losses.item() == pytest.approx(math.log(4 / 3) + math.log(2) + 2 * 2 * math.log(2) + math.log(2), abs=1e-6)


def test_the_prediction_weighs_heads_by_surety_and_leaves_encoders_alone() -> None:
    _, model = rival_and_model()
    given = heads(model, [[LOG3, 0.0]], [[0.0, 0.0]])
    # softmax(.75, .5, .5) at the first: e^.75 / (e^.75 + 2 e^.5) = .390991.
    assert torch.allclose(given.joint, torch.tensor([[0.390991 * LOG3, 0.0]]), atol=1e-5)
    assert isinstance(model.joint, BySurety)
    model.joint.fused(given.features).sum().backward()
    assert model.encoders["a"].weight.grad is None


def test_effective_dimensions_are_looked_for_once_when_it_begins() -> None:
    rival, _ = rival_and_model(begins=1)
    loader = Loader([[[0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]], [0, 1])
    rival.on_epoch(loader)  # type: ignore[arg-type]
    assert "effective" not in rival.memory
    rival.memory["epoch"] = 1
    rival.on_epoch(loader)  # type: ignore[arg-type]
    assert rival.memory["effective"].tolist() == [[True, False], [False, True]]
    rival.memory["epoch"] = 2
    rival.on_epoch(Loader([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]], [0, 1]))  # type: ignore[arg-type]
    assert rival.memory["effective"].tolist() == [[True, False], [False, True]]
