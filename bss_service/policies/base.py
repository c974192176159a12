"""What a policy is, and how one is found by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from bss_service.core.action import Action
from bss_service.core.evidence.posterior import Judge
from bss_service.core.observation import Observation
from bss_service.core.samples.dynamics import NEEDED
from bss_service.policies.artefact import NO_ARTEFACTS, Artefacts
from bss_service.protocol.decisions import Decision

GROUP: Final = "bss_service.policies"
BALANCE: Final = {"similarity": 0, "loss": 0}  # what a balance score is made of


@dataclass(frozen=True, slots=True)
class Choice:
    """An action, the probability (or density) with which it was picked, and what the decision log should tell of it."""

    action: Action
    propensity: float = 1.0
    detail: Mapping[str, Any] = field(default_factory=dict)  # JSON values

    def fields(self) -> dict[str, Any]:
        """Those of the decision that it makes."""
        return {"action": self.action, "propensity": self.propensity, "detail": dict(self.detail)}


class Policy(BaseModel, ABC):
    """A scheduling policy. Its public fields are its parameters, validated by pydantic; its state is private.

    The service restores a policy after a restart by creating it anew and handing it the same observations, random
    generators and rewards in the same order. So `act` and `learn` must depend on nothing else: no clock, no global
    random generator, no files. Of a policy that says it is `stateless` (its `act` depends on its parameters and
    arguments alone, and it learns nothing) only the last decision is asked again: the earlier ones go unchecked. One
    that tells its `state` is handed that, and what came after it.
    """

    stateless: ClassVar[bool] = False
    waits_for_action: ClassVar[bool] = False  # its actions come from outside; the job does not ask it for any
    partial_evidence: ClassVar[bool] = False  # it acts on what evidence a job's signals give, if not all that it needs

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def needs(self) -> Mapping[str, int]:
        """The signals that a job must have for it, and of how many unimodal heads at least."""
        return {}

    @classmethod
    def enough(cls) -> Mapping[str, int]:
        """Of a policy of `partial_evidence`: the signals with which a job needs none of that, as `needs` tells them.

        Where a job lacks some, its actions are left without what needs those.
        """
        return dict.fromkeys(NEEDED, 0)

    def own_judge(self) -> Judge | None:
        """What reads the evidence of samples while it is in force; None: the judge that comes with this package."""
        return None

    @abstractmethod
    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        """Choose how the next plan is drawn."""

    def learn(self, decision: Decision) -> None:
        """Take in the reward of an earlier choice; `decision.reward` is never None here."""

    def state(self) -> Mapping[str, Any] | None:
        """All that `act` and `learn` have changed, as JSON values; None where it is not told.

        With it a restart costs as much after a million decisions as after one.
        """
        return None

    def resume(self, state: Mapping[str, Any]) -> None:
        """Have the state that one of the same parameters told. Whatever it raises, its decisions are asked again."""
        raise NotImplementedError


def counted(state: Mapping[str, Any], name: str) -> int:
    """A number of times in a policy's state. Raises ValueError for anything else."""
    count = state[name]
    if type(count) is not int or count < 0:
        raise ValueError(f"{name} must be a number of times, got {count!r}")
    return count


class UnknownPolicyError(ValueError):
    """No installed package provides a policy of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"policy must be one of {', '.join(sorted(_installed()))}, got {name!r}")


class BrokenPolicyError(ValueError):
    """The package that provides a policy can't be imported."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(f"policy {name!r} can't be loaded: {type(error).__name__}: {error}")


def create_policy(name: str, parameters: Mapping[str, Any], artefacts: Artefacts = NO_ARTEFACTS) -> Policy:
    """The policy that an installed package provides under `name` in the entry-point group `bss_service.policies`.

    artefacts: those that it may name; its validators find them in pydantic's context. Raises UnknownPolicyError,
    BrokenPolicyError, or pydantic.ValidationError naming the wrong parameter.
    """
    return policy_class(name).model_validate(dict(parameters), context={"artefacts": artefacts})


def policy_class(name: str) -> type[Policy]:
    """Raises UnknownPolicyError, or BrokenPolicyError."""
    entry = _installed().get(name)
    if entry is None:
        raise UnknownPolicyError(name)
    try:
        kind: type[Policy] = entry.load()
    except Exception as error:  # of a package that this one knows nothing about
        raise BrokenPolicyError(name, error) from error
    return kind


def policy_names() -> list[str]:
    """The names of all installed policies, sorted."""
    return sorted(_installed())


@cache
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
