"""OGM-GE, beside numbers worked out from eq. (10)."""

import math

import torch

from tests.trainer_client.reference.rivals.worlds import Pair, heads, started, step
from trainer_client.reference.rivals.gradients.ogm_ge import OgmGe, coefficients

LOG3 = math.log(3)  # logits (log 3, 0) give the first class a probability of 3/4


def updated(rival: OgmGe, model: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """What one step at rate 1 subtracts from each encoder, where a says 3/4, b says 1/2 and the joint head 3/4."""
    step(started(rival, model), heads(model, [[LOG3, 0.0]], [[0.0, 0.0]]), [0])
    return tuple(1 - encoder.weight.detach() for encoder in model.encoders.values())


def test_the_leading_modality_learns_by_one_minus_tanh_of_its_lead() -> None:
    # rho of a = .75/.5 = 1.5, k = 1 - tanh(.5 * 1.5) = .364851; of b = 2/3, k = 1.
    # The joint loss has the gradient p - y = (-.25, .25) for the logits, times the input for the weights.
    a, b = updated(OgmGe(alpha=0.5, noise=False, unimodal_weight=0), Pair())
    assert torch.allclose(a, 0.364851 * torch.tensor([-0.25 * LOG3, 0.0]), atol=1e-6)
    assert torch.equal(b, torch.zeros(2))  # its input is 0


def test_the_weaker_modality_is_left_as_it_is() -> None:
    assert torch.allclose(coefficients(torch.tensor([0.6, 0.3]), 0.1), torch.tensor([1 - math.tanh(0.2), 1.0]))
    assert torch.allclose(coefficients(torch.tensor([0.3, 0.3]), 0.1), torch.ones(2))


def test_noise_has_the_deviation_of_the_gradient_and_follows_from_the_seed() -> None:
    gradient = torch.tensor([-0.25 * LOG3, 0.0]) * (1 - math.tanh(0.75))
    plain = torch.tensor([-0.25 * LOG3, 0.0])
    first, again = (updated(OgmGe(alpha=0.5, unimodal_weight=0), Pair())[0] for _ in range(2))
    assert torch.equal(first, again)
    normal = torch.randn(2, generator=torch.Generator().manual_seed(1))  # seed 0, step 1
    assert torch.allclose(first, gradient + normal * plain.std(), atol=1e-6)


def test_outside_its_epochs_nothing_happens() -> None:
    a, _ = updated(OgmGe(starts=1, unimodal_weight=0), Pair())
    assert torch.allclose(a, torch.tensor([-0.25 * LOG3, 0.0]))


def test_as_released_only_kernels_of_images_are_modulated() -> None:
    a, _ = updated(OgmGe(form="code", unimodal_weight=0), Pair())
    assert torch.allclose(a, torch.tensor([-0.25 * LOG3, 0.0]))
