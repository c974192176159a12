"""The trained policies that come with this package."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Policy
from bss_service.policies.builtin.artefact import choose
from bss_service.policies.shipped import shipped_acting_policy, shipped_policy


class Learned(Policy):
    """Act as was learnt offline on the scheduling environments, on evidence where there is any; it learns no more.

    A job that sends the signals of evidence is run by the policy that was trained to act on it, from its second epoch
    on; any other, by the one that ranks samples by similarity and loss.
    """

    stateless: ClassVar[bool] = True

    deterministic: bool = False

    def needs(self) -> Mapping[str, int]:
        return shipped_policy().needs()  # where there is no evidence, none is asked for

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        trained = shipped_acting_policy() if observation["has_evidence"] else shipped_policy()
        return choose(trained, observation, None if self.deterministic else rng)
