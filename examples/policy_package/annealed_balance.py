"""A scheduling policy in a package of its own: `annealed_balance`, once this is installed beside the service."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from bss_service.policies import Action, Choice, Observation, Policy


class AnnealedBalance(Policy):
    """Prefer balanced samples as long as validation gets better by it, and shuffle plainly the longer it does not.

    After the warm-up, samples are drawn by e^(κ·s): s is similarity less loss, κ = strength·(1 − plateau), and plateau
    is k / (k + 5) after k validation reports without a better loss. So κ is halved by five such reports, and the next
    better one restores it.
    """

    stateless: ClassVar[bool] = True  # `act` depends on nothing but its arguments

    strength: Annotated[float, Field(gt=0, le=6)] = 2.0  # κ while validation gets better
    warm_up: Annotated[int, Field(ge=0)] = 2  # epochs of plain shuffling: an untrained model's scores are noise

    def needs(self) -> Mapping[str, int]:
        return self._drawn_by_balance(self.strength).needs()

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        if observation.epoch < self.warm_up or observation["measured_share"] <= 0:
            return Choice(Action(), detail={"strength": 0.0})
        strength = self.strength * (1 - max(0.0, observation["plateau"]))
        return Choice(self._drawn_by_balance(strength), detail={"strength": strength})

    def _drawn_by_balance(self, strength: float) -> Action:
        return Action(kappa_similarity=strength, kappa_loss=strength, coverage="draw")
