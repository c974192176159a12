"""The spaces that every environment of this package shares; their meaning lies in `bss_service.core`."""

import numpy as np
from gymnasium.spaces import Box, Discrete

from bss_service.core.action import DIMENSION, NAMED_ACTIONS
from bss_service.core.observation import FIELDS


def observation_space() -> Box:
    """`Observation.vector`: (len(FIELDS),) float32 in [−1, 1]."""
    return Box(-1.0, 1.0, (len(FIELDS),), np.float32)


def action_space() -> Box:
    """`Action.to_vector`: (DIMENSION,) float32 in [−1, 1]."""
    return Box(-1.0, 1.0, (DIMENSION,), np.float32)


def discrete_action_space() -> Discrete:
    """The k-th of NAMED_ACTIONS, by position."""
    return Discrete(len(NAMED_ACTIONS))
