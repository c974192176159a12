"""Every installed policy keeps the contract; and the contract notices who does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ConfigDict

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Decision, Policy, create_policy, policy_names
from bss_service.testing import PolicyContract
from tests.support import observations
from tests.support.trained import artefacts

ARTEFACTS = artefacts()
NEEDED = {"artefact": {"sha256": next(iter(ARTEFACTS))}}  # parameters without a default


class TestEveryPolicy(PolicyContract):
    @pytest.fixture(autouse=True, params=policy_names())
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def make(self, **parameters: Any) -> Policy:
        return create_policy(self.name, NEEDED.get(self.name, {}) | parameters, ARTEFACTS)


class TestEveryPolicyInARun(TestEveryPolicy):
    """On what the service shows in the course of a run."""

    def observation(self, epoch: int) -> Observation:
        return observations.observation(epoch)


class Sound(Policy):
    """A policy that does nothing wrong, and each of those below one thing."""

    strength: float = 1.0
    _learned: int = 0

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action(kappa_loss=self.strength))

    def learn(self, decision: Decision) -> None:
        self._learned += 1


class Impossible(Sound):
    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action(), propensity=0.0)


class Global(Sound):
    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action(kappa_loss=np.random.random()))  # noqa: NPY002


class Opaque(Sound):
    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action(), detail={"kept": {1, 2}})


class Careless(Sound):
    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        observation.vector[0] = 0.5
        return Choice(Action())


class Forgetful(Sound):
    """Says that it forgets, and does not."""

    stateless = True

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action(kappa_loss=float(self._learned)))


class Lenient(Sound):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)


def broken(policy: type[Policy]) -> set[str]:
    """The names of the contract's tests that a policy fails."""
    contract = type("TestPolicy", (PolicyContract,), {"policy": policy})()
    return {name for name in dir(contract) if name.startswith("test_") and fails(getattr(contract, name))}


def fails(test: Callable[[], None]) -> bool:
    try:
        test()
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    ("policy", "tests"),
    [
        (Sound, set()),
        (Impossible, {"test_its_propensities_are_probabilities_or_densities"}),
        (Opaque, {"test_the_detail_of_its_choices_is_json"}),
        (Careless, {"test_it_leaves_the_observation_as_it_was"}),
        (Forgetful, {"test_if_it_says_that_it_is_stateless_its_past_does_not_count"}),
        (Lenient, {"test_an_unknown_parameter_is_refused_by_name", "test_no_parameter_may_be_nan"}),
        (
            Global,
            {
                "test_it_draws_from_no_generator_but_its_own",
                "test_it_is_restored_by_the_same_observations_generators_and_rewards",
            },
        ),
    ],
)
def test_the_contract_notices_what_a_policy_does_wrong(policy: type[Policy], tests: set[str]) -> None:
    assert broken(policy) == tests
