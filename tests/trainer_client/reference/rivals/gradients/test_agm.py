"""AGM, beside numbers worked out from the paper."""

import math

import torch

from tests.trainer_client.reference.rivals.worlds import Pair, heads, started, step
from trainer_client.reference.fusion import Concat
from trainer_client.reference.rivals.base import shapley
from trainer_client.reference.rivals.gradients.agm import Agm, coefficients

LOG3 = math.log(3)


def test_each_encoder_learns_by_how_far_its_modality_is_ahead_of_before() -> None:
    # a says 3/4 and b 1/2: s = .287682, .693147; r of a = exp(.693147 - .287682) = 1.5, of b = 2/3; before, all were 0:
    # tau = 1. kappa of a = exp(.5 * (1 - 1.5)) = .778801, of b = exp(.5 * (1 - 2/3)) = 1.181360.
    model = Pair()
    rival = started(Agm(alpha=0.5, unimodal_weight=0), model)
    step(rival, heads(model, [[LOG3, 0.0]], [[0.0, 0.0]]), [0])
    assert torch.allclose(rival.memory["coefficients"], torch.tensor([0.778801, 1.181360]), atol=1e-6)
    change = 1 - next(iter(model.encoders.values())).weight.detach()
    assert torch.allclose(change, 0.778801 * torch.tensor([-0.25 * LOG3, 0.0]), atol=1e-6)


def test_the_joint_heads_part_of_a_modality_is_scaled_with_its_encoder() -> None:
    # A joint head that adds up the embeddings (log 3, 0) of a and (1, 1) of b: as above, and the joint logits' gradient
    # is (-.25, .25), which goes to a's columns times .778801, to b's times 1.181360, and to the bias half of each.
    model = Pair()
    model.joint = Concat(2, 2, 2)
    with torch.no_grad():
        model.joint.weight.copy_(torch.eye(2).repeat(1, 2))
        model.joint.bias.zero_()
    before = model.joint.weight.detach().clone()
    step(started(Agm(alpha=0.5, unimodal_weight=0), model), heads(model, [[LOG3, 0.0]], [[1.0, 1.0]]), [0])
    row = torch.tensor([0.778801 * 0.25 * LOG3, 0.0, 0.295340, 0.295340])
    assert torch.allclose(model.joint.weight.detach() - before, torch.stack([row, -row]), atol=1e-6)
    assert torch.allclose(model.joint.bias.detach(), torch.tensor([0.245020, -0.245020]), atol=1e-6)
    assert torch.allclose(model.encoders["b"].weight.detach(), torch.tensor([1.295340, 0.704660]), atol=1e-6)


def test_after_its_epochs_training_is_plain() -> None:
    model = Pair()
    rival = started(Agm(unimodal_weight=0, ends=0), model)
    rival.memory["epoch"] = 1
    step(rival, heads(model, [[LOG3, 0.0]], [[0.0, 0.0]]), [0])
    assert torch.allclose(model.encoders["a"].weight.detach(), torch.tensor([1 + 0.25 * LOG3, 1.0]))


def test_the_exponent_is_bounded_by_how_many_modalities_there_are() -> None:
    # tau of the first is e^5 and more, r is 1.
    equal = torch.ones(3)
    assert torch.allclose(coefficients(equal[:2], torch.tensor([0.0, 5.0]), 0.1)[0], torch.tensor(1.0).exp())
    assert torch.allclose(coefficients(equal, torch.tensor([0.0, 5.0, 5.0]), 0.1)[0], torch.tensor(0.7).exp())


def test_who_leads_as_much_as_ever_is_left_alone() -> None:
    scores = torch.tensor([0.3, 0.7, 0.2])
    assert torch.allclose(coefficients(scores, scores, 0.5), torch.ones(3))


def test_the_mean_of_scores_is_over_all_steps() -> None:
    model = Pair()
    rival = started(Agm(unimodal_weight=0), model)
    for label in (0, 1):  # b's input is 0, so that it always says 1/2
        step(rival, heads(model, [[0.0, 0.0]], [[0.0, 0.0]]), [label])
    assert torch.allclose(rival.memory["scores"], torch.full((2,), math.log(2)))


def test_shapley_values_of_three_share_out_the_whole() -> None:
    # Worth: each alone 1, 2, 3; pairs 4, 4, 6; all 9. phi_1 = 1/3 + (2 + 1)/6 + 3/3 = 1.8333...
    worth = {(0,): 1.0, (1,): 2.0, (2,): 3.0, (0, 1): 4.0, (0, 2): 4.0, (1, 2): 6.0, (0, 1, 2): 9.0}
    phi = shapley({subset: torch.tensor(value) for subset, value in worth.items()}, 3)
    assert torch.allclose(torch.stack(phi), torch.tensor([11 / 6, 20 / 6, 23 / 6]))
