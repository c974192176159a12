"""MMPareto, beside the shortest vector between two gradients worked out by hand."""

import math

import torch

from tests.trainer_client.reference.rivals.worlds import Pair, heads, started, step
from trainer_client.reference.rivals.gradients.mmpareto import MmPareto, share_of_first

LOG3 = math.log(3)
JOINT, OWN = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])  # they conflict: their product is -1


def test_the_share_is_that_of_the_shortest_vector_between() -> None:
    assert share_of_first(JOINT, OWN) == 0.6  # (2 + 1)/(4 + 1): .6 * (1, 0) + .4 * (-1, 1) = (.2, .4)
    assert share_of_first(JOINT, -OWN) == 0.5  # no conflict
    assert share_of_first(torch.tensor([1.0]), torch.tensor([-3.0])) == 0.75


def test_the_direction_gets_the_length_of_the_sum_times_gamma() -> None:
    # 2 * (.2, .4) = (.4, .8) has length .894427, the sum (0, 1) has 1.
    (integrated,) = MmPareto(gamma=1.5)._integrated([JOINT], [OWN])
    assert torch.allclose(integrated, 1.5 * torch.tensor([0.4, 0.8]) / 0.894427, atol=1e-6)


def test_as_released_each_tensor_has_its_own_length() -> None:
    # (.4) is longer than its sum (0) and stays; (.8) is lengthened to 1.
    first, second = MmPareto(gamma=1.5, form="code")._integrated([JOINT[:1], JOINT[1:]], [OWN[:1], OWN[1:]])
    assert torch.allclose(torch.cat([first, second]), torch.tensor([0.6, 1.5]))


def test_in_either_form_a_short_gradient_may_count_for_nearly_all() -> None:
    # a = (2000000 + 1000)/(2000000 + 2000 + 1) = .9995, so that the direction is 2 * (.4995, .5), 1.4135 long; the sum
    # (-999, 1000) has length 1413.5.
    joint, own = torch.tensor([1.0, 0.0]), torch.tensor([-1000.0, 1000.0])
    for form in ("paper", "code"):
        (integrated,) = MmPareto(gamma=1, form=form)._integrated([joint], [own])
        assert torch.allclose(integrated, 1000 * torch.tensor([0.999, 1.0]), atol=1)


def test_a_step_without_conflict_is_gamma_times_the_sum() -> None:
    # Joint and own logits are the same, (log 3, 0): each gradient is -.25 * log 3, their sum times 1.5 is -.75 * log 3.
    model = Pair()
    step(started(MmPareto(gamma=1.5), model), heads(model, [[LOG3, 0.0]], [[0.0, 0.0]]), [0])
    change = 1 - model.encoders["a"].weight.detach()
    assert torch.allclose(change, torch.tensor([-0.75 * LOG3, 0.0]), atol=1e-6)
