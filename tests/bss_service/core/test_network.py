"""Distributions over actions, checked against torch's and against what is known of them."""

import numpy as np
import pytest
import torch

from bss_service.core import network
from bss_service.core.network import Categorical, Gaussian, SquashedGaussian

MEAN = np.array([[0.3, -1.2], [2.0, 0.0]], np.float32)
LOG_STD = np.array([-0.5, 0.7], np.float32)


def test_without_layers_the_network_is_its_input() -> None:
    x = np.arange(3, dtype=np.float32)
    assert network.forward(x, [], "tanh").tolist() == [0, 1, 2]


def test_a_layer_is_a_weight_a_bias_and_an_activation() -> None:
    layer = (np.array([[1, 2], [-1, 0]], np.float32), np.array([0.5, 0], np.float32))
    x = np.array([1, 1], np.float32)
    assert network.forward(x, [layer], "relu").tolist() == [3.5, 0]
    np.testing.assert_allclose(network.forward(x, [layer], "tanh"), np.tanh([3.5, -1]))


def test_normalised_observations_are_clipped() -> None:
    x = np.array([2.0, 100.0, 1.0], np.float32)
    scaled = network.normalised(x, np.ones(3), np.array([4.0, 4.0, 0.0]), epsilon=1e-8, clip=10.0)
    np.testing.assert_allclose(scaled, [0.5, 10.0, 0.0])


def test_gaussian_densities_are_those_of_torch() -> None:
    action, density = Gaussian(MEAN, LOG_STD).draw(np.random.default_rng(0))
    same = torch.distributions.Normal(torch.tensor(MEAN).double(), torch.tensor(LOG_STD).double().exp())
    np.testing.assert_allclose(density, same.log_prob(torch.tensor(action).double()).sum(-1))


def test_squashed_densities_are_those_of_torch() -> None:
    squashed = SquashedGaussian(Gaussian(MEAN, np.broadcast_to(LOG_STD, MEAN.shape)))
    normal = torch.distributions.Normal(torch.tensor(MEAN).double(), torch.tensor(LOG_STD).double().exp())
    same = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform()])
    u = np.array([[0.1, -0.4], [1.5, 3.0]])
    np.testing.assert_allclose(squashed.log_density(u), same.log_prob(torch.tanh(torch.tensor(u))).sum(-1), rtol=1e-6)


def test_a_squashed_density_integrates_to_1() -> None:
    squashed = SquashedGaussian(Gaussian(np.array([0.4], np.float32), np.array([-0.3], np.float32)))
    actions = (np.arange(200_000) + 0.5) / 100_000 - 1
    density = np.exp(squashed.log_density(np.arctanh(actions)[:, None]))
    assert density.mean() * 2 == pytest.approx(1, abs=1e-6)


def test_a_squashed_density_is_finite_where_tanh_is_1() -> None:
    far = SquashedGaussian(Gaussian(np.array([200.0], np.float32), np.array([0.0], np.float32)))
    action, density = far.draw(np.random.default_rng(0))
    assert action.tolist() == [1.0]
    assert 300 < density < 500


def test_draws_have_the_mean_and_deviation_asked_for() -> None:
    wide = Gaussian(np.broadcast_to(MEAN[0], (40_000, 2)), LOG_STD)
    drawn, _ = wide.draw(np.random.default_rng(0))  # five standard errors: one in two million
    assert (abs(drawn.mean(axis=0) - MEAN[0]) < 5 * np.exp(LOG_STD) / 200).all()
    assert (abs(drawn.std(axis=0) - np.exp(LOG_STD)) < 5 * np.exp(LOG_STD) / 280).all()


def test_numbers_are_drawn_as_often_as_their_probabilities_say() -> None:
    logits = np.log(np.array([0.5, 0.2, 0.3], np.float32))
    rng = np.random.default_rng(0)
    drawn = [Categorical(logits).draw(rng) for _ in range(20_000)]
    counts = np.bincount([k for k, _ in drawn], minlength=3)
    expected = 20_000 * np.array([0.5, 0.2, 0.3])
    assert ((counts - expected) ** 2 / expected).sum() < 18.4  # χ² of two degrees of freedom: one in ten thousand
    assert {k: round(np.exp(log), 6) for k, log in drawn} == {0: 0.5, 1: 0.2, 2: 0.3}


def test_large_logits_do_not_overflow() -> None:
    logs = Categorical(np.array([1e30, 0, -1e30], np.float32)).log_probabilities()
    assert logs.tolist() == pytest.approx([0, -1e30, -2e30])


def test_the_likeliest_action_is_the_mode() -> None:
    assert Gaussian(MEAN, LOG_STD).mode() is MEAN
    np.testing.assert_allclose(SquashedGaussian(Gaussian(MEAN, LOG_STD)).mode(), np.tanh(MEAN), rtol=1e-6)
    assert Categorical(np.array([0, 3, 3], np.float32)).mode() == 1


def test_a_network_that_overflows_is_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match="the network gave 1e\\+39, which is no finite float32"):
        network.rounded(np.array([1.0, 1e39]))
