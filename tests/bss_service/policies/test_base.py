import pytest

from bss_service.policies.base import UnknownPolicyError, create_policy, policy_names


def test_the_policies_of_the_issue_are_installed() -> None:
    assert {"uniform", "curriculum", "balance", "balance_code", "self_paced", "fixed", "bandit"} <= set(policy_names())


def test_an_unknown_policy_is_refused_by_name_with_those_there_are() -> None:
    with pytest.raises(UnknownPolicyError, match=r"balance, .*uniform.*, got 'banlance'"):
        create_policy("banlance", {})
