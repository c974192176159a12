"""BSS-H, the paper's heuristic scheduler, and its negative control."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from bss_service.core.action import Action, Keep
from bss_service.core.observation import Observation
from bss_service.core.samples.scores import RANKED_SHARE, admitted_share
from bss_service.policies.base import BALANCE, Choice, Policy


class Curriculum(Policy):
    """Rank once by the balance score as first measured, most balanced first, and admit a growing share of the ranking.

    Epochs count from the start of the job. Until samples are scored (by a measuring pass before training, or by the
    feedback of the first interval) every sample is used.
    """

    stateless: ClassVar[bool] = True

    initial_share: Annotated[float, Field(ge=0.001, le=1)] = 0.1  # λ0
    growth_epochs: Annotated[float, Field(gt=0)] = 40.0  # T_grow
    reverse: bool = False  # least balanced first: the anti-curriculum of the paper's Figure 1

    def needs(self) -> Mapping[str, int]:
        return BALANCE

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        if observation["measured_share"] < RANKED_SHARE:
            return Choice(Action())
        share = admitted_share(observation.epoch, initial_share=self.initial_share, growth_epochs=self.growth_epochs)
        keep: Keep = "bottom" if self.reverse else "top"
        return Choice(Action(share=share, coverage="subset", rank_by="first_balance", keep=keep))
