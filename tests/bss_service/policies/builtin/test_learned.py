import numpy as np

from bss_service.core.observation import SCHEMAS
from bss_service.policies.base import create_policy
from bss_service.policies.shipped import shipped_policy
from tests.support.observations import observation


def test_the_artefact_in_the_package_fits_the_code() -> None:
    assert shipped_policy().manifest.observation_schema in SCHEMAS


def test_it_acts_as_the_artefact_in_the_package() -> None:
    choice = create_policy("learned", {}).act(observation(3), np.random.default_rng(0))
    assert choice.detail["artefact"] == shipped_policy().sha256


def test_the_deterministic_one_needs_no_chance() -> None:
    policy = create_policy("learned", {"deterministic": True})
    choices = [policy.act(observation(3), np.random.default_rng(seed)) for seed in (0, 1)]
    assert choices[0] == choices[1]
