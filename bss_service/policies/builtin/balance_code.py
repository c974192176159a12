"""BSS-L as its authors released it."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.policies.base import BALANCE, Choice, Policy


class BalanceCode(Policy):
    """Weights 1 + s + 0.01 of the latest scores, every sample once an epoch: only the order is the scheduler's."""

    stateless: ClassVar[bool] = True

    def needs(self) -> Mapping[str, int]:
        return BALANCE

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action(kappa_similarity=1.0, kappa_loss=1.0, floor=0.01, ema=1.0, link="linear"))
