"""Plain shuffling: the baseline that everything else is judged against."""

from typing import ClassVar

import numpy as np

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Policy


class Uniform(Policy):
    """Every sample once an epoch, in random order."""

    stateless: ClassVar[bool] = True

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action())
