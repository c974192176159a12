"""EXP3.S over named actions: the scheduler that learns from the reward while the job runs."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import numpy as np
from pydantic import AfterValidator, Field, PrivateAttr, field_validator

from bss_service.core.action import NAMED_ACTIONS, needs_of
from bss_service.core.arrays import Float64
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Policy, counted
from bss_service.protocol.decisions import Decision


def _named(arm: str) -> str:
    if arm not in NAMED_ACTIONS:
        raise ValueError(f"must be one of {', '.join(NAMED_ACTIONS)}")
    return arm


ARMS: Final = ("uniform", "balance", "agreement", "low_loss", "hard", "anti")  # which need the paper's signals alone
Arm = Annotated[str, AfterValidator(_named)]


class Bandit(Policy):
    """EXP3.S (Auer et al. 2002, section 8) on the reward of each interval.

    π = (1 − ε)·softmax(w) + ε/K; r̂_i = r·1[a = i]/π_i;
    w_i ← log[(1 − α_t)·e^{w_i + η·r̂_i} + α_t/(K − 1)·Σ_{j≠i} e^{w_j + η·r̂_j}], α_t = 1/t, where t counts from 2: at
    t = 1 an arm would hand all of its weight to the others.

    Its arms are named actions. With "evidence" among them it learns from the run's own validation whether to leave out
    what evidence disbelieves.
    """

    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.1  # η
    exploration: Annotated[float, Field(gt=0, le=1)] = 0.1  # ε
    warm_up: Annotated[int, Field(ge=0)] = 2  # intervals of plain shuffling: an untrained model's scores are noise
    arms: Annotated[tuple[Arm, ...], Field(min_length=2, max_length=len(NAMED_ACTIONS))] = ARMS

    _weights: Float64 = PrivateAttr()
    _acted: int = PrivateAttr(default=0)
    _learned: int = PrivateAttr(default=0)

    @field_validator("arms")
    @classmethod
    def _differ(cls, arms: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(arms)) < len(arms):
            raise ValueError("must differ from one another")
        return arms

    def model_post_init(self, context: Any) -> None:
        self._weights = np.zeros(len(self.arms))

    def needs(self) -> Mapping[str, int]:
        return needs_of(NAMED_ACTIONS[arm] for arm in self.arms)

    def state(self) -> Mapping[str, Any]:
        return {"weights": self._weights.tolist(), "acted": self._acted, "learned": self._learned}

    def resume(self, state: Mapping[str, Any]) -> None:
        weights = np.array(state["weights"], np.float64)
        if weights.shape != (len(self.arms),) or not np.isfinite(weights).all():
            raise ValueError(f"weights must be {len(self.arms)} numbers, got {state['weights']}")
        self._weights, self._acted, self._learned = weights, counted(state, "acted"), counted(state, "learned")

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        self._acted += 1
        names = self.arms
        if self._acted <= self.warm_up:
            return Choice(NAMED_ACTIONS["uniform"], 1.0, {"arm": "uniform", "warm_up": True})
        probabilities = self._probabilities()
        arm = int(np.searchsorted(np.cumsum(probabilities), rng.random() * probabilities.sum(), side="right"))
        detail = {
            "arm": names[arm],
            "warm_up": False,
            "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
        }
        return Choice(NAMED_ACTIONS[names[arm]], float(probabilities[arm]), detail)

    def learn(self, decision: Decision) -> None:
        detail: dict[str, Any] = decision.detail
        if detail["warm_up"] or decision.reward is None:
            return
        self._learned += 1
        estimate = np.zeros(len(self.arms))
        estimate[self.arms.index(detail["arm"])] = decision.reward / decision.propensity
        self._weights = _exp3s(self._weights + self.learning_rate * estimate, share=1 / (self._learned + 1))

    def _probabilities(self) -> Float64:
        weights = np.exp(self._weights - self._weights.max())
        mixed: Float64 = (1 - self.exploration) * weights / weights.sum() + self.exploration / len(weights)
        return mixed


def _exp3s(weights: Float64, share: float) -> Float64:
    """Each arm gives `share` of its weight to the others; scaled by the largest, so nothing overflows."""
    top = weights.max()
    scaled = np.exp(weights - top)
    others = (scaled.sum() - scaled) / (len(scaled) - 1)
    mixed: Float64 = np.log((1 - share) * scaled + share * others) + top
    return mixed
