"""Policies as actors of runs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Float32
from bss_service.core.evidence.features import FIELDS, MODALITY_FIELDS
from bss_service.core.evidence.posterior import OUTCOMES, Judge
from bss_service.core.observation import Observation
from bss_service.policies import artefact
from bss_service.policies.base import Choice, Policy, create_policy
from bss_service.policies.builtin.artefact import choose
from bss_service.policies.shipped import shipped_acting_policy, shipped_policy
from bss_service.protocol.decisions import Decision
from envs.research.export import of_judge
from envs.research.rollouts import Actor

WARM_UP: Final = 0.2  # of a run


@dataclass(frozen=True, slots=True)
class PolicyActor:
    """A policy of the service, and its random generator."""

    policy: Policy
    rng: np.random.Generator

    @property
    def judge(self) -> Judge | None:
        return self.policy.own_judge()

    def act(self, observation: Observation) -> Choice:
        return self.policy.act(observation, self.rng)

    def learn(self, decision: Decision) -> None:
        if decision.reward is not None:
            self.policy.learn(decision)


@dataclass(frozen=True, slots=True)
class ArtefactActor:
    """An artefact, and its random generator; without one it takes its likeliest action."""

    artefact: artefact.Artefact
    rng: np.random.Generator | None
    judge: Judge | None = None

    def act(self, observation: Observation) -> Choice:
        return choose(self.artefact, observation, self.rng)

    def learn(self, decision: Decision) -> None:
        """It does not learn within a run."""


@dataclass(frozen=True, slots=True)
class DrawingActor:
    """An artefact that tells how likely each action was, for logs of runs in an environment."""

    artefact: artefact.Artefact

    def act(self, observation: Float32, rng: np.random.Generator) -> tuple[Any, float]:
        """Raw action, and the logarithm of its probability or of its density before clipping."""
        action, log_probability = self.artefact.distribution(observation).draw(rng)
        return action, float(log_probability)


def of_name(name: str, parameters: dict[str, Any], seed: int) -> PolicyActor:
    """The actor of an installed policy."""
    return PolicyActor(create_policy(name, parameters), np.random.default_rng([seed, 1]))


def of_artefact(data: bytes, seed: int) -> ArtefactActor:
    """The actor of an artefact's bytes."""
    return ArtefactActor(_read(data), np.random.default_rng([seed, 1]))


def of_likeliest(seed: int) -> PolicyActor:
    """A simple control: keeps samples whose label is the class that the heads, summed and averaged, find likeliest."""
    trained = likeliest()
    parameters = {"judge": trained.sha256, "pull": 0.0}
    return PolicyActor(create_policy("evidence", parameters, {trained.sha256: trained}), np.random.default_rng(seed))


@cache
def likeliest() -> artefact.JudgeArtefact:
    """A judge that is sure of a label as soon as it leads before its rival, and of nothing else."""
    weight = np.zeros((OUTCOMES, len(FIELDS)), np.float32)
    weight[0, FIELDS.index("lead")] = 1000.0
    modality = np.zeros((1, len(FIELDS) + len(MODALITY_FIELDS)), np.float32)
    nothing, never = np.zeros(OUTCOMES, np.float32), np.full(1, -20.0, np.float32)
    nothing[2] = -1000.0  # neither: of the others the rival is the likelier
    judge = Judge([(weight, nothing)], [(modality, never)])
    return artefact.read_judge(of_judge(judge, name="likeliest", training={}))


@lru_cache(maxsize=256)
def _read(data: bytes) -> artefact.Artefact:
    return artefact.read(data)


@dataclass(frozen=True, slots=True)
class FixedActor:
    """One action, after plain shuffling in the first fifth of the run: an untrained model's scores are noise."""

    action: Action
    seed: int  # not used: it has no chance in it
    judge: Judge | None = None

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


@dataclass(frozen=True, slots=True)
class Reference:
    """What a user's word for a policy stands for."""

    actor: Callable[[int], Actor]
    identity: str  # the same for what acts the same
    trained_on: tuple[str, ...] = ()  # sources


def parse(reference: str) -> Reference:
    """The policy by what a user types: a name, a name with parameters as JSON, or an artefact's path.

    `balance`, `curriculum:{"reverse": true}`, `policy.safetensors`. Raises ValueError saying what is wrong with it.
    """
    if reference.endswith(".safetensors"):
        trained = read_artefact(Path(reference))
        return Reference(partial(of_artefact, trained.data), trained.sha256, _sources(trained))
    name, _, parameters = reference.partition(":")
    try:
        values = dict(json.loads(parameters or "{}"))
        known = create_policy(name, values).model_dump(mode="json")  # defaults too: they may become others
    except TypeError:
        raise ValueError(f"parameters of {name!r} must be a JSON object, got {parameters!r}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"parameters of {name!r} must be JSON, got {parameters!r}: {error}") from None
    shipped = (shipped_policy(), shipped_acting_policy()) if name == "learned" else ()
    sources = tuple(source for trained in shipped for source in _sources(trained))
    return Reference(partial(of_name, name, values), f"{name} {json.dumps(known, sort_keys=True)}", sources)


def _sources(trained: artefact.Artefact) -> tuple[str, ...]:
    tasks: Any = trained.manifest.training.get("tasks", {})
    return tuple(tasks.get("sources", ()))
