"""Policies as actors of runs."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from bss_service import artefact
from bss_service.core.observation import Observation
from bss_service.policies.artefact import choose
from bss_service.policies.base import Choice, Decision, Policy, create_policy


@dataclass(frozen=True, slots=True)
class Installed:
    """A policy of the service, and its random generator."""

    policy: Policy
    rng: np.random.Generator

    def act(self, observation: Observation) -> Choice:
        return self.policy.act(observation, self.rng)

    def learn(self, decision: Decision) -> None:
        if decision.reward is not None:
            self.policy.learn(decision)


@dataclass(frozen=True, slots=True)
class Trained:
    """An artefact, and its random generator; without one it takes its likeliest action."""

    artefact: artefact.Artefact
    rng: np.random.Generator | None

    def act(self, observation: Observation) -> Choice:
        return choose(self.artefact, observation, self.rng)

    def learn(self, decision: Decision) -> None:
        """It does not learn within a run."""


def of_name(name: str, parameters: dict[str, Any], seed: int) -> Installed:
    """The actor of an installed policy."""
    return Installed(create_policy(name, parameters), np.random.default_rng([seed, 1]))


def of_artefact(data: bytes, seed: int) -> Trained:
    """The actor of an artefact's bytes."""
    return Trained(_read(data), np.random.default_rng([seed, 1]))


@lru_cache(maxsize=256)
def _read(data: bytes) -> artefact.Artefact:
    return artefact.read(data)
