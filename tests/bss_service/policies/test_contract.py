"""What every policy owes the service, whoever wrote it."""

import copy
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pydantic
import pytest

from bss_service.core.action import Action
from bss_service.policies import base
from bss_service.policies.base import Choice, Policy, policy_names
from bss_service.protocol import Decision
from tests.bss_service.core.worlds import chosen, decision
from tests.support.observations import ROUNDS, observation, reward
from tests.support.trained import known

ARTEFACTS = known()
NEEDED = {"artefact": {"sha256": next(iter(ARTEFACTS))}}  # parameters without a default


def create_policy(name: str, parameters: Mapping[str, Any]) -> Policy:
    return base.create_policy(name, {**NEEDED.get(name, {}), **parameters}, ARTEFACTS)


def course(policy: Policy) -> Iterator[Choice]:
    """A training run: act, and two epochs later learn what came of it."""
    decisions: list[Decision] = []
    for epoch in range(ROUNDS):
        if epoch >= 2:
            policy.learn(decisions[epoch - 2])
        seen = observation(epoch)
        choice = policy.act(seen, np.random.Generator(np.random.Philox(key=epoch)))
        decisions.append(decision(5 * epoch, 5 * epoch + 5, observation=seen, **chosen(choice), reward=reward(epoch)))
        yield choice


@pytest.mark.parametrize("name", policy_names())
class TestEveryPolicy:
    def test_it_acts_on_nothing_and_on_a_whole_run(self, name: str) -> None:
        assert [type(choice) for choice in course(create_policy(name, {}))] == [Choice] * ROUNDS

    def test_its_actions_lie_in_the_action_space(self, name: str) -> None:
        for choice in course(create_policy(name, {})):
            assert Action(**choice.action.as_dict()) == choice.action
            assert np.isfinite(choice.action.to_vector()).all()

    def test_its_propensities_are_probabilities_or_densities(self, name: str) -> None:
        for choice in course(create_policy(name, {})):
            is_density = isinstance(choice.detail.get("raw_action"), list)
            assert 0 < choice.propensity <= (np.finfo(float).max if is_density else 1)

    def test_it_does_the_same_in_the_same_course(self, name: str) -> None:
        assert list(course(create_policy(name, {}))) == list(course(create_policy(name, {})))

    def test_what_it_tells_of_a_choice_is_json(self, name: str) -> None:
        for choice in course(create_policy(name, {})):
            assert json.loads(json.dumps(choice.detail, allow_nan=False)) == choice.detail

    def test_it_draws_from_no_generator_but_its_own(self, name: str) -> None:
        before = copy.deepcopy((random.getstate(), np.random.get_state()))  # noqa: NPY002
        list(course(create_policy(name, {})))
        np.testing.assert_equal((random.getstate(), np.random.get_state()), before)  # noqa: NPY002

    def test_it_leaves_the_observation_as_it_was(self, name: str) -> None:
        seen = observation(5)
        create_policy(name, {}).act(seen, np.random.default_rng(0))
        assert seen.vector.tobytes() == observation(5).vector.tobytes()

    def test_an_unknown_parameter_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(pydantic.ValidationError, match="no_such_parameter"):
            create_policy(name, {"no_such_parameter": 1})

    def test_no_parameter_may_be_nan(self, name: str) -> None:
        numbers = [
            field for field, info in type(create_policy(name, {})).model_fields.items() if info.annotation is float
        ]
        for field in numbers:
            with pytest.raises(pydantic.ValidationError, match=field):
                create_policy(name, {field: float("nan")})

    def test_its_parameters_survive_json(self, name: str) -> None:
        policy = create_policy(name, {})
        again = create_policy(name, json.loads(policy.model_dump_json()))
        assert again.model_dump() == policy.model_dump()
