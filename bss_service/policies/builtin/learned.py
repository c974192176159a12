"""The trained policy that comes with this package."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import ClassVar

import numpy as np

from bss_service.core.observation import Observation
from bss_service.policies import artefact
from bss_service.policies.base import Choice, Policy
from bss_service.policies.builtin.artefact import choose


class Learned(Policy):
    """Act as the network does that was trained offline on the scheduling environments; it does not learn any more."""

    stateless: ClassVar[bool] = True

    deterministic: bool = False

    def needs(self) -> Mapping[str, int]:
        return shipped().needs()

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return choose(shipped(), observation, None if self.deterministic else rng)


@cache
def shipped() -> artefact.Artefact:
    """The artefact in this package. Raises ArtefactError where it does not fit the code."""
    return artefact.read(files(__package__).joinpath("learned.safetensors").read_bytes())
