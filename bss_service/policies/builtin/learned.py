"""The trained policy that comes with this package."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Policy
from bss_service.policies.builtin.artefact import choose
from bss_service.policies.shipped import shipped_policy


class Learned(Policy):
    """Act as the network does that was trained offline on the scheduling environments; it does not learn any more."""

    stateless: ClassVar[bool] = True

    deterministic: bool = False

    def needs(self) -> Mapping[str, int]:
        return shipped_policy().needs()

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return choose(shipped_policy(), observation, None if self.deterministic else rng)
