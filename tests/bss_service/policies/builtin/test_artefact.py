import math
import sys

import numpy as np
import pydantic
import pytest

from bss_service.core.action import BEFORE_EVIDENCE, NAMED_ACTIONS, Action
from bss_service.policies import artefact
from bss_service.policies.artefact import Artefact
from bss_service.policies.base import Choice, create_policy
from bss_service.policies.builtin.bandit import ARMS
from tests.support.observations import observation
from tests.support.trained import WIDTH, artefacts, made_up, manifest, tensors

SEEN = observation(5)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def act(data: bytes, **parameters: bool) -> tuple[Choice, Artefact]:
    """What a policy made of these bytes does, and its artefact."""
    stored = artefacts(data)
    (sha256,) = stored
    return create_policy("artefact", {"sha256": sha256, **parameters}, stored).act(SEEN, rng()), stored[sha256]


def test_it_draws_from_the_distribution_of_its_network() -> None:
    choice, source = act(made_up())
    raw, log_density = source.distribution(SEEN.vector).draw(rng())
    assert choice.action == Action.from_vector(raw, BEFORE_EVIDENCE)  # type: ignore[arg-type]
    assert choice.detail["raw_action"] == raw.tolist()  # type: ignore[union-attr]
    assert choice.propensity == pytest.approx(math.exp(log_density), rel=1e-6)
    assert choice.detail["log_probability"] == pytest.approx(float(log_density), rel=1e-6)
    assert choice.detail["artefact"] == source.sha256


def test_the_density_is_that_of_the_action_before_clipping() -> None:
    fields = manifest("gaussian", [])
    numbers = {**tensors(fields), "mean.bias": np.full(WIDTH, 50.0), "log_std": np.zeros(WIDTH)}
    choice, _ = act(artefact.write(fields, numbers))
    assert min(choice.detail["raw_action"]) > 40
    assert choice.action == Action.from_vector(np.ones(WIDTH), BEFORE_EVIDENCE)
    assert choice.detail["log_probability"] > -40  # of the clipped one it would be about −1,200 a component


def test_the_deterministic_one_takes_the_mean_with_certainty_and_says_so() -> None:
    choice, source = act(made_up(), deterministic=True)
    mean = source.distribution(SEEN.vector).mode()
    assert (choice.action, choice.propensity) == (Action.from_vector(mean, BEFORE_EVIDENCE), 1.0)  # type: ignore[arg-type]
    assert choice.detail["deterministic"] is True


def test_a_discrete_one_draws_a_named_action_with_its_probability() -> None:
    choice, source = act(made_up("categorical"))
    name = choice.detail["raw_action"]
    logs = source.distribution(SEEN.vector).log_probabilities()  # type: ignore[union-attr]
    assert choice.action == NAMED_ACTIONS[name]
    assert choice.propensity == pytest.approx(math.exp(logs[ARMS.index(name)]), rel=1e-6)


def test_a_squashed_one_stays_within_bounds() -> None:
    choice, _ = act(made_up("squashed_gaussian"))
    assert max(map(abs, choice.detail["raw_action"])) <= 1


@pytest.mark.parametrize(("log_std", "bound"), [(20.0, sys.float_info.min), (-20.0, 1.0)])
def test_propensities_of_extreme_densities_are_positive_and_finite(log_std: float, bound: float) -> None:
    fields = manifest("gaussian", [])
    choice, _ = act(artefact.write(fields, {**tensors(fields), "log_std": np.full(WIDTH, log_std)}))
    assert 0 < choice.propensity < math.inf
    assert (choice.propensity > bound) is True


def test_a_saturated_squashed_density_is_finite() -> None:
    fields = manifest("squashed_gaussian", [])
    numbers = {**tensors(fields), "mean.bias": np.full(WIDTH, 1e30)}
    choice, _ = act(artefact.write(fields, numbers))
    assert 1e300 < choice.propensity < math.inf


def test_an_artefact_that_is_not_there_is_named() -> None:
    with pytest.raises(pydantic.ValidationError, match="must be the hash of a trained policy that was uploaded"):
        create_policy("artefact", {"sha256": "0" * 64})


@pytest.mark.parametrize("sha256", ["../secret", "0" * 63, "A" * 64, 7])
def test_a_hash_is_64_hexadecimal_digits(sha256: object) -> None:
    with pytest.raises(pydantic.ValidationError, match="sha256"):
        create_policy("artefact", {"sha256": sha256})
