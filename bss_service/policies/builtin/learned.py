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
    on; one without these, by the policy that ranks samples by similarity and loss, if it sends what that needs. Of a
    job that lacks some of that the first acts on what evidence there is, the loss at least.
    """

    stateless: ClassVar[bool] = True
    partial_evidence: ClassVar[bool] = True

    deterministic: bool = False

    def needs(self) -> Mapping[str, int]:
        return {"loss": 0}

    @classmethod
    def enough(cls) -> Mapping[str, int]:
        return shipped_policy().needs()

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        trained = shipped_acting_policy() if observation["has_evidence"] else shipped_policy()
        return choose(trained, observation, None if self.deterministic else rng)
