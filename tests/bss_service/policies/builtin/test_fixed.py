from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.core.action import RANGES, Action
from bss_service.policies.base import create_policy
from bss_service.policies.builtin.fixed import Fixed
from tests.bss_service.core.worlds import actions
from tests.support.observations import observation


@given(actions(share=st.floats(0.01, 1)))
def test_any_action_can_be_fixed(action: Action) -> None:
    policy = create_policy("fixed", action.as_dict())
    assert policy.act(observation(2), np.random.default_rng(0)).action == action


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [-13.0, 12.5, float("inf")])
def test_a_value_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        create_policy("fixed", {name: value})


@pytest.mark.parametrize("name", ["link", "coverage", "rank_by", "keep"])
def test_an_unknown_choice_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        create_policy("fixed", {name: "nonsense"})


def test_its_parameters_are_the_fields_of_an_action() -> None:
    assert set(Fixed.model_fields) == {field.name for field in fields(Action)}
