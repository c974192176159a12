"""A policy whose actions come from outside, over the service's interface."""

from typing import ClassVar, Final

import numpy as np

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Policy

EXTERNAL: Final = "external"


class External(Policy):
    """Whoever drives the job sets the action of each interval by `PUT …/action`; the trainer is held until it came.

    A job asks for no choice while this policy is in force. `act` says what is done where nobody ever acts.
    """

    waits_for_action: ClassVar[bool] = True

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action())
