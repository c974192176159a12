"""Two small worlds in which the value of every policy is known exactly: what estimators are judged by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.research.offline.episodes import Episodes, TargetPolicy
from envs.research.offline.fitted_q import Features


class World(Protocol):
    """A source of runs of a behaviour policy, and what a target policy is truly worth."""

    target: TargetPolicy
    features: Features  # a function class that holds Q

    def value(self) -> float:
        """Expected sum of rewards of the target policy."""

    def runs(self, n: int, rng: np.random.Generator) -> Episodes:
        """n runs of the behaviour policy."""


@dataclass(frozen=True)
class TabularPolicy:
    """π(a | s), (S, A). Observations are (t, s), actions (a)."""

    table: np.ndarray

    def log_probability(self, observations: np.ndarray, raw_actions: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):  # an action never taken
            return np.log(self.table[observations[:, 1].astype(int), raw_actions[:, 0].astype(int)])

    def sample(self, observations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        cumulated = self.table[observations[:, 1].astype(int)].cumsum(axis=1)
        drawn = (rng.random((len(observations), 1)) > cumulated).sum(axis=1)
        return np.minimum(drawn, self.table.shape[1] - 1)[:, None].astype(float)


class Tabular:
    """A random Markov decision process of S states, A actions and H steps, solved by backward recursion.

    away: part of the target policy that differs from the behaviour policy, in [0, 1].
    """

    def __init__(self, away: float = 0.5, states: int = 3, actions: int = 2, horizon: int = 5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.horizon = horizon
        self.next = rng.dirichlet(np.ones(states), size=(states, actions))  # (S, A, S)
        self.reward = rng.normal(size=(states, actions))  # mean; noise of deviation 1/2 on top
        behaviour = 0.2 / actions + 0.8 * rng.dirichlet(2 * np.ones(actions), size=states)
        other = rng.dirichlet(np.ones(actions), size=states)
        self.behaviour = TabularPolicy(behaviour)
        self.target: TargetPolicy = TabularPolicy((1 - away) * behaviour + away * other)
        self.target_table = (1 - away) * behaviour + away * other

    def features(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        states, choices = self.reward.shape
        cell = (observations[:, 0] * states + observations[:, 1]) * choices + actions[:, 0]
        return np.eye(self.horizon * states * choices)[cell.astype(int)]

    def value(self) -> float:
        v = np.zeros(len(self.reward))
        for _ in range(self.horizon):
            v = (self.target_table * (self.reward + self.next @ v)).sum(axis=1)
        return float(v.mean())  # runs start in any state alike

    def runs(self, n: int, rng: np.random.Generator) -> Episodes:
        def move(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            at = state[:, 0].astype(int), action[:, 0].astype(int)
            rewards = self.reward[at] + rng.normal(scale=0.5, size=n)
            following = (rng.random((n, 1)) > self.next[at].cumsum(axis=1)).sum(axis=1)
            return rewards, np.minimum(following, len(self.reward) - 1)[:, None].astype(float)

        first = rng.integers(len(self.reward), size=(n, 1)).astype(float)
        return simulated(self.behaviour, first, move, self.horizon, rng)


@dataclass(frozen=True)
class GaussianPolicy:
    """a ~ N(gain·s, deviation²). Observations are (t, s)."""

    gain: float
    deviation: float

    def log_probability(self, observations: np.ndarray, raw_actions: np.ndarray) -> np.ndarray:
        z = (raw_actions[:, 0] - self.gain * observations[:, 1]) / self.deviation
        return -0.5 * z**2 - np.log(self.deviation) - 0.5 * np.log(2 * np.pi)

    def sample(self, observations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.gain * observations[:, 1:] + self.deviation * rng.normal(size=(len(observations), 1))


class LinearGaussian:
    """s' = 0.8·s + 0.4·a + 0.2·noise, r = 1 − s² − 0.1·a², s_0 ~ N(0, 1), H steps; its value follows from E[s²].

    away: by how much the target's gain differs from the behaviour's.
    """

    def __init__(self, away: float = 0.2, horizon: int = 5) -> None:
        self.horizon = horizon
        self.behaviour = GaussianPolicy(-0.3, 0.6)
        self._target = GaussianPolicy(-0.3 - away, 0.5)
        self.target: TargetPolicy = self._target

    def features(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        s, a = observations[:, 1], actions[:, 0]
        quadratic = np.stack([np.ones_like(s), s, a, s * s, s * a, a * a], axis=1)
        time = np.eye(self.horizon)[observations[:, 0].astype(int)]
        return (time[:, :, None] * quadratic[:, None, :]).reshape(len(s), -1)

    def value(self) -> float:
        total, square = 0.0, 1.0  # E[s²]
        gain, variance = self._target.gain, self._target.deviation**2
        for _ in range(self.horizon):
            total += 1 - square - 0.1 * (gain**2 * square + variance)
            square = (0.8 + 0.4 * gain) ** 2 * square + 0.16 * variance + 0.04
        return total

    def runs(self, n: int, rng: np.random.Generator) -> Episodes:
        def move(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            s, a = state[:, 0], action[:, 0]
            return 1 - s**2 - 0.1 * a**2, (0.8 * s + 0.4 * a + 0.2 * rng.normal(size=n))[:, None]

        return simulated(self.behaviour, rng.normal(size=(n, 1)), move, self.horizon, rng)


def simulated(
    policy: TargetPolicy,
    state: np.ndarray,
    move: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    horizon: int,
    rng: np.random.Generator,
) -> Episodes:
    """Runs side by side from the states (n, 1); an observation is (t, state)."""
    observations, actions, rewards, logs = [], [], [], []
    for t in range(horizon):
        observed = np.concatenate([np.full_like(state, t), state], axis=1)
        action = policy.sample(observed, rng)
        reward, state = move(state, action)
        observations.append(observed)
        actions.append(action)
        rewards.append(reward)
        logs.append(policy.log_probability(observed, action))
    valid = np.ones((len(state), horizon), dtype=bool)
    return Episodes(*(np.stack(parts, axis=1) for parts in (observations, actions, rewards, logs)), valid)
