"""Policies as what off-policy estimates are made of: the probability of a logged action, and actions of their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bss_service.core.action import NAMED_ACTIONS, Action
from bss_service.core.arrays import Float64, Floats
from bss_service.core.network import Categorical, SquashedGaussian
from bss_service.policies import artefact
from envs.research.actors import read_artefact
from envs.research.offline.episodes import TargetPolicy

_CLOSE: Final = 1e-5  # an action's vector travels as float32
_EDGE: Final = 1 - 1e-7  # tanh reaches ±1 in float32, where its inverse is not finite


@dataclass(frozen=True, slots=True)
class FixedAction:
    """The same action always: deterministic, so that a log of drawn named actions can tell of it and one of densities
    can't.
    """

    action: Action

    def log_probability(self, observations: Floats, raw_actions: Floats) -> Float64:
        """0 where the logged action is this one, else −inf."""
        same = (np.abs(raw_actions - self.action.to_vector()) <= _CLOSE).all(axis=1)
        return np.where(same, 0.0, -np.inf)

    def sample(self, observations: Floats, rng: np.random.Generator) -> Floats:
        """This action for each observation."""
        return np.tile(self.action.to_vector(), (len(observations), 1))


@dataclass(frozen=True, slots=True)
class ArtefactTarget:
    """An artefact. Data sets hold the vectors of named actions, and of squashed ones the action, not what tanh took."""

    artefact: artefact.Artefact

    def log_probability(self, observations: Floats, raw_actions: Floats) -> Float64:
        """Of each logged action; −inf for one that the artefact never takes."""
        distribution = self.artefact.distribution(observations)
        if isinstance(distribution, Categorical):
            return self._of_names(distribution.log_probabilities(), raw_actions)
        if isinstance(distribution, SquashedGaussian):
            return distribution.log_density(np.arctanh(np.clip(raw_actions.astype(np.float64), -_EDGE, _EDGE)))
        return distribution.log_density(raw_actions)

    def sample(self, observations: Floats, rng: np.random.Generator) -> Floats:
        """One raw action for each observation."""
        distribution = self.artefact.distribution(observations)
        if not isinstance(distribution, Categorical):
            actions: Floats = distribution.draw(rng)[0]
            return actions
        cumulated = np.exp(distribution.log_probabilities()).cumsum(axis=1)
        drawn = (rng.random((len(cumulated), 1)) * cumulated[:, -1:] >= cumulated).sum(axis=1)
        named: Floats = self._named()[np.minimum(drawn, cumulated.shape[1] - 1)]
        return named

    def _of_names(self, logs: Float64, raw_actions: Floats) -> Float64:
        same = (np.abs(raw_actions[:, None] - self._named()) <= _CLOSE).all(axis=2)  # (k, K)
        log_density: Float64 = np.where(same, logs, -np.inf).max(axis=1)
        return log_density

    def _named(self) -> Floats:
        names = self.artefact.manifest.action.names  # type: ignore[union-attr]  # a categorical one has them
        return np.stack([NAMED_ACTIONS[name].to_vector() for name in names])


def load_policy(reference: str) -> TargetPolicy:
    """The policy that a name of NAMED_ACTIONS, or the path of a .safetensors file, stands for.

    Raises ValueError saying what is wrong with it, FileNotFoundError for no file.
    """
    if reference in NAMED_ACTIONS:
        return FixedAction(NAMED_ACTIONS[reference])
    if reference.endswith(".safetensors"):
        return ArtefactTarget(read_artefact(Path(reference)))
    raise ValueError(
        f"policy must be one of {', '.join(NAMED_ACTIONS)} or a .safetensors file, got {reference!r}: other installed "
        "policies are deterministic paths or learn as they go, and neither has a probability for a logged action"
    )
