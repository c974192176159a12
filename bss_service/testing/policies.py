"""What every policy owes the service, as tests for whoever writes one."""

import copy
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pydantic

from bss_service.core.observation import FIELDS, Observation
from bss_service.policies.base import Choice, Policy
from bss_service.protocol.decisions import Decision

EPOCHS: Final = 12
STEPS: Final = 5  # of an epoch


class PolicyContract:
    """The contract of a policy: subclass it among your tests, under a name that pytest collects.

    ```python
    class TestMine(PolicyContract):
        policy = Mine
    ```

    Where calling the class is not enough, override `make`.
    """

    policy: type[Policy]

    def make(self, **parameters: Any) -> Policy:
        """A new policy with these parameters and otherwise its defaults. Raises pydantic.ValidationError."""
        return self.policy(**parameters)

    def observation(self, epoch: int) -> Observation:
        """What it sees before an epoch: nothing is known before the first; then come any numbers of the schema."""
        rng = np.random.default_rng(epoch)
        vector = rng.uniform(-1, 1, len(FIELDS)) if epoch else np.zeros(len(FIELDS))
        return Observation(vector.astype(np.float32), STEPS * epoch, epoch)

    def test_it_acts_on_nothing_and_on_a_whole_run(self) -> None:
        assert [type(choice) for choice in self._run(self.make())] == [Choice] * EPOCHS

    def test_it_acts_at_the_bounds_of_the_observation(self) -> None:
        for bound in (-1, 1):
            observation = Observation(np.full(len(FIELDS), bound, np.float32), STEPS, 1)
            assert type(self.make().act(observation, _generator(1))) is Choice

    def test_its_actions_lie_in_the_action_space(self) -> None:
        for choice in self._run(self.make()):
            assert replace(choice.action) == choice.action  # validated anew
            assert np.isfinite(choice.action.to_vector()).all()

    def test_its_propensities_are_probabilities_or_densities(self) -> None:
        for choice in self._run(self.make()):
            is_density = isinstance(choice.detail.get("raw_action"), list)
            assert 0 < choice.propensity <= (np.finfo(float).max if is_density else 1)

    def test_it_is_restored_by_the_same_observations_generators_and_rewards(self) -> None:
        assert list(self._run(self.make())) == list(self._run(self.make()))

    def test_the_state_that_it_tells_is_json_and_all_that_counts_of_its_past(self) -> None:
        policy, again = self.make(), self.make()
        run = self._run(policy)
        before = [next(run) for _ in range(EPOCHS // 2)]
        state = policy.state()
        if state is not None:
            told = json.loads(json.dumps(dict(state), allow_nan=False))
            rest = list(run)
            again.resume(told)
            assert list(self._run(again, before)) == [*before, *rest]

    def test_if_it_says_that_it_is_stateless_its_past_does_not_count(self) -> None:
        policy = self.make()
        *_, last = self._run(policy)
        alone = self.make().act(self.observation(EPOCHS - 1), _generator(EPOCHS - 1))
        assert alone == last or not policy.stateless

    def test_the_detail_of_its_choices_is_json(self) -> None:
        for choice in self._run(self.make()):
            assert json.loads(json.dumps(choice.detail, allow_nan=False)) == choice.detail

    def test_it_draws_from_no_generator_but_its_own(self) -> None:
        before = copy.deepcopy((random.getstate(), np.random.get_state()))  # noqa: NPY002
        list(self._run(self.make()))
        np.testing.assert_equal((random.getstate(), np.random.get_state()), before)  # noqa: NPY002

    def test_it_leaves_the_observation_as_it_was(self) -> None:
        observation = self.observation(5)
        self.make().act(observation, _generator(5))
        assert observation.vector.tobytes() == self.observation(5).vector.tobytes()

    def test_an_unknown_parameter_is_refused_by_name(self) -> None:
        assert "no_such_parameter" in self._refusal(no_such_parameter=1)

    def test_no_parameter_may_be_nan(self) -> None:
        fields = type(self.make()).model_fields.items()
        for name in [name for name, info in fields if info.annotation is float]:
            assert name in self._refusal(**{name: float("nan")})

    def test_its_parameters_survive_json(self) -> None:
        policy = self.make()
        again = self.make(**json.loads(policy.model_dump_json()))
        assert again.model_dump() == policy.model_dump()

    def _run(self, policy: Policy, before: Sequence[Choice] = ()) -> Iterator[Choice]:
        """A training run: act, and two epochs later learn what came of it. before: choices that it has behind it."""
        decisions: list[Decision] = []
        for epoch in range(EPOCHS):
            observation, is_new = self.observation(epoch), epoch >= len(before)
            if epoch >= 2 and is_new:
                policy.learn(decisions[epoch - 2])
            choice = policy.act(observation, _generator(epoch)) if is_new else before[epoch]
            decisions.append(_decision(observation, choice))
            yield choice

    def _refusal(self, **parameters: Any) -> str:
        """The error that parameters raise; empty where they are accepted."""
        try:
            self.make(**parameters)
        except pydantic.ValidationError as error:
            return str(error)
        return ""


def _decision(observation: Observation, choice: Choice) -> Decision:
    return Decision.model_construct(  # what is wrong with a choice is for one test to say
        first_step=observation.step,
        end_step=observation.step + STEPS,
        epoch=observation.epoch,
        policy="",
        policy_version=1,
        observation=observation,
        reward=_reward(observation.epoch),
        **choice.fields(),
    )


def _generator(epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=epoch))


def _reward(epoch: int) -> float:
    """Now more, now less, and ever larger."""
    return float((-1) ** epoch * (0.1 + epoch / EPOCHS))
