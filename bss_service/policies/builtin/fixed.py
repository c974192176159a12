"""Any one point of the action space."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from bss_service.core.action import Action, Coverage, Keep, Link, RankBy, WrongPairs
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Policy


class Fixed(Policy):
    """The same action at every interval; the parameters are the fields of `Action`."""

    stateless: ClassVar[bool] = True

    kappa_similarity: float = 0.0
    kappa_loss: float = 0.0
    kappa_weak: float = 0.0
    kappa_stale: float = 0.0
    share: Annotated[float, Field(ge=0.001, le=1)] = 1.0
    floor: float = 0.0
    ema: float = 0.5
    link: Link = "exponential"
    coverage: Coverage = "draw"
    rank_by: RankBy = "balance"
    keep: Keep = "top"
    belief: float = 0.0
    left_out: float = 1.0
    probes: float = 0.0
    pull: float = 0.0
    wrong_pairs: WrongPairs = "keep"
    group_balance: float = 0.0
    mixture: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _lies_in_the_action_space(self) -> Self:
        self._action()
        return self

    def needs(self) -> Mapping[str, int]:
        return self._action().needs()

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(self._action())

    def _action(self) -> Action:
        return Action(**self.model_dump())
