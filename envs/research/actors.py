"""Policies as actors of runs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bss_service import artefact
from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.policies.artefact import choose
from bss_service.policies.base import Choice, Decision, Policy, create_policy
from envs.research.rollouts import Actor

WARM_UP: Final = 0.2  # of a run


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


@dataclass(frozen=True, slots=True)
class Fixed:
    """One action, after plain shuffling in the first fifth of the run: an untrained model's scores are noise."""

    action: Action
    seed: int  # not used: it has no chance in it

    def act(self, observation: Observation) -> Choice:
        return Choice(self.action if observation["progress"] >= WARM_UP else Action(ema=self.action.ema))

    def learn(self, decision: Decision) -> None:
        """It does not learn."""


def read_artefact(path: Path) -> artefact.Artefact:
    """The artefact in a file. Raises ValueError saying what is wrong with it, FileNotFoundError for no file."""
    try:
        return artefact.read(path.read_bytes())
    except artefact.ArtefactError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(reference: str) -> Callable[[int], Actor]:
    """The actor of a policy by what a user types: a name, a name with parameters as JSON, or an artefact's path.

    `balance`, `curriculum:{"reverse": true}`, `policy.safetensors`. Raises ValueError saying what is wrong with it.
    """
    if reference.endswith(".safetensors"):
        return partial(of_artefact, read_artefact(Path(reference)).data)
    name, _, parameters = reference.partition(":")
    try:
        values = json.loads(parameters or "{}")
        create_policy(name, values)
    except json.JSONDecodeError as error:
        raise ValueError(f"parameters of {name!r} must be JSON, got {parameters!r}: {error}") from None
    return partial(of_name, name, values)
