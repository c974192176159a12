"""BSS-L, the paper's learning-based scheduler."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PrivateAttr

from bss_service.core.action import Action, Coverage
from bss_service.core.observation import Observation
from bss_service.policies.base import BALANCE, Choice, Policy, counted


class Balance(Policy):
    """Draw in proportion to e^ŝ, where ŝ is the moving average of the balance score, refreshed every few intervals.

    While nothing has been measured every sample comes once an epoch, so that all of them get a score.
    """

    ema: Annotated[float, Field(gt=0, le=1)] = 0.6  # β
    refresh_every: Annotated[int, Field(ge=1)] = 1  # E, in intervals
    coverage: Coverage = "draw"
    share: Annotated[float, Field(ge=0.001, le=1)] = 1.0  # kept of the ranking by ŝ, under `subset` and `draw`

    _intervals: int = PrivateAttr(default=0)

    def needs(self) -> Mapping[str, int]:
        return BALANCE

    def state(self) -> Mapping[str, Any]:
        return {"intervals": self._intervals}

    def resume(self, state: Mapping[str, Any]) -> None:
        self._intervals = counted(state, "intervals")

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        if observation["measured_share"] == 0:
            return Choice(Action(ema=self.ema))
        refresh = self._intervals % self.refresh_every == 0
        self._intervals += 1
        return Choice(
            Action(
                kappa_similarity=1.0,
                kappa_loss=1.0,
                share=self.share,
                ema=self.ema if refresh else 0.0,
                coverage=self.coverage,
            )
        )
