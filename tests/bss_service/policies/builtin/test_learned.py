import numpy as np

from bss_service.core.observation import SCHEMAS
from bss_service.policies.base import create_policy
from bss_service.policies.shipped import shipped_acting_policy, shipped_policy
from tests.support.observations import observation


def test_the_artefacts_in_the_package_fit_the_code() -> None:
    assert {shipped_policy().manifest.observation_schema, shipped_acting_policy().manifest.observation_schema} <= {
        *SCHEMAS
    }


def test_it_acts_on_evidence_where_there_is_any_and_by_scores_where_there_is_none() -> None:
    policy = create_policy("learned", {"deterministic": True})
    choices = [policy.act(observation(3, has_evidence=known), np.random.default_rng(0)) for known in (0.0, 1.0)]
    assert [choice.detail["artefact"] for choice in choices] == [
        shipped_policy().sha256,
        shipped_acting_policy().sha256,
    ]
    assert [choice.action.belief > 0 for choice in choices] == [False, True]


def test_the_more_labels_seem_wrong_the_more_belief_it_asks_for() -> None:
    policy = create_policy("learned", {"deterministic": True})
    seen = [observation(3, has_evidence=1.0, progress=0.5, right_labels=share) for share in (0.95, 0.8, 0.6)]
    beliefs = [policy.act(each, np.random.default_rng(0)).action.belief for each in seen]
    assert beliefs == sorted(beliefs)
    assert 0.2 < beliefs[0] < beliefs[-1] < 0.9


def test_it_asks_for_no_signals_of_evidence() -> None:
    assert set(create_policy("learned", {}).needs()) == {"similarity", "loss", "probability"}


def test_the_deterministic_one_needs_no_chance() -> None:
    policy = create_policy("learned", {"deterministic": True})
    choices = [policy.act(observation(3), np.random.default_rng(seed)) for seed in (0, 1)]
    assert choices[0] == choices[1]
