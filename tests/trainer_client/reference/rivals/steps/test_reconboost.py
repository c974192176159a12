"""ReconBoost, beside numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from tests.trainer_client.reference.rivals.worlds import Pair, heads, started, step
from trainer_client.reference.rivals.steps.reconboost import OfLogits, ReconBoost

LOG3 = math.log(3)
OWN, OTHER = [[LOG3, 0.0]], [[0.0, 0.0]]  # 3/4 and 1/2


def model_with_heads() -> Pair:
    model = Pair()
    head = nn.Linear(2, 2, bias=False)
    nn.init.eye_(head.weight)
    model.heads = nn.ModuleDict({"a": head, "b": head})
    return model


def test_what_the_others_know_pulls_less() -> None:
    # (5 - 1 * .5) * log(4/3) / 2 = .647285; the gap to what b says is (.25, -.25), its mean square .0625.
    unimodal, label = [torch.tensor(OWN), torch.tensor(OTHER)], torch.tensor([0])
    assert ReconBoost(alpha=0).boosting(unimodal, label, 0, 1).item() == pytest.approx(0.647285, abs=1e-6)
    assert ReconBoost(alpha=2).boosting(unimodal, label, 0, 1).item() == pytest.approx(0.772285, abs=1e-6)


def test_in_the_first_stage_there_are_no_others() -> None:
    # b would say 9/10, and is not asked. (5 - .5) * log(4/3) / 2, as released (5 - 1) * log(4/3) / 2; then a alone.
    losses = {}
    for form in ("paper", "code"):
        model = model_with_heads()
        rival = started(ReconBoost(epochs_per_stage=1, correct_epochs=1, form=form), model)
        given, label = heads(model, OWN, [[2 * LOG3, 0.0]]), torch.tensor([0])
        losses[form] = rival.loss(given, label).item()
        rival.memory["epoch"] = 1
        assert rival.loss(given, label).item() == pytest.approx(math.log(4 / 3), abs=1e-6)
    assert losses == pytest.approx({"paper": 2.25 * math.log(4 / 3), "code": 2 * math.log(4 / 3)})


def test_as_released_the_last_term_has_no_gradient() -> None:
    gradients = {}
    for form in ("paper", "code"):
        own = torch.tensor(OWN, requires_grad=True)
        losses = ReconBoost(alpha=2, form=form).boosting([own, torch.tensor(OTHER)], torch.tensor([0]), 0, 1)
        losses.sum().backward()
        gradients[form] = own.grad
    # 4.5/2 * (p - y) = 2.25 * (-.25, .25); of the gap 2 * .25 * (2 * .75 * .25) * (1, -1)... = 2 * .09375 * (1, -1)
    assert torch.allclose(gradients["code"], torch.tensor([[-0.5625, 0.5625]]))
    assert torch.allclose(gradients["paper"], torch.tensor([[-0.5625 + 0.1875, 0.5625 - 0.1875]]))


def test_modalities_take_turns_and_then_all_that_had_one_are_corrected() -> None:
    moved = []
    for epoch in range(4):
        model = model_with_heads()
        rival = started(ReconBoost(epochs_per_stage=1, correct_epochs=1), model)
        rival.memory["epoch"] = epoch
        assert isinstance(model.joint, OfLogits)
        step(rival, heads(model, OWN, OWN), [0])
        moved.append([not torch.equal(encoder.weight, torch.ones(2)) for encoder in model.encoders.values()])
    assert moved == [[True, False], [True, False], [False, True], [True, True]]
