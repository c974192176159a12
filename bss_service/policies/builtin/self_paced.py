"""Self-paced learning: easy samples first."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.core.samples.scores import RANKED_SHARE, admitted_share
from bss_service.policies.base import Choice, Policy


class SelfPaced(Policy):
    """Admit the samples of least current loss, a growing share of them (Kumar, Packer & Koller 2010).

    The threshold on the loss that the paper raises from epoch to epoch is set so as to admit the share that the
    pacing function gives; samples are ranked anew at every interval.
    """

    stateless: ClassVar[bool] = True

    initial_share: Annotated[float, Field(ge=0.001, le=1)] = 0.5
    growth_epochs: Annotated[float, Field(gt=0)] = 20.0

    def needs(self) -> Mapping[str, int]:
        return {"loss": 0}

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        if observation["measured_share"] < RANKED_SHARE:
            return Choice(Action())
        share = admitted_share(observation.epoch, initial_share=self.initial_share, growth_epochs=self.growth_epochs)
        return Choice(Action(share=share, coverage="subset", rank_by="loss"))
