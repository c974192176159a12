"""Training runs as sequences of decisions: cut from the decision log of a job, or made in an environment."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from bss_service.core.action import NAMED_ACTIONS
from bss_service.core.arrays import Float32, Float64, Floats, Int64
from bss_service.protocol.decisions import Decision


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """T ≥ 1 consecutive decisions of one training run, each with its reward.

    part: 0, or where rewards are missing in between, the number of this piece of the run. terminated: the run ended
    with the last decision, and the last observation is that decision's once more, since there is none after it.
    """

    name: str
    observations: Float32  # (T + 1, len(FIELDS))
    actions: Float32  # (T, DIMENSION) raw, before clipping
    clipped_actions: Float32  # (T, DIMENSION) as the plan was drawn with, in [−1, 1]
    rewards: Float64  # (T,)
    log_probabilities: Float64  # (T,) of the raw action; 0 where the policy was deterministic, NaN where not known
    first_steps: Int64  # (T,) of the plan
    policy_versions: Int64  # (T,)
    terminated: bool
    part: int = 0


def runs_of_log(name: str, rows: Sequence[Decision]) -> list[LoggedRun]:
    """The decision log of one job, in order, as a run; as several parts of one where rewards are missing in between.

    A decision has no reward until a validation report tells. Those at the start, before the first report, and at the
    end, after the last one, are left out. One in between splits the run: its reward is not known, 0 would be invented,
    and the decisions around it are not consecutive. Decisions whose plan was replaced before its first step are left
    out; a swap keeps the run whole and shows in `policy_versions`.
    """
    used = [row for row in rows if row.first_step < row.end_step]
    pieces = list(_rewarded_pieces(used))
    return [_run(name, used[start:stop], used[stop : stop + 1], part) for part, (start, stop) in enumerate(pieces)]


class Behaviour(Protocol):
    """A policy that acts in an environment and knows how likely it was to act so."""

    def act(self, observation: Float32, rng: np.random.Generator) -> tuple[Any, float]:
        """Raw action, and the logarithm of its probability or of its density before clipping."""


def episodes_of_environment(
    env: gymnasium.Env[Any, Any], policy: Behaviour, seeds: Iterable[int], *, version: int = 1
) -> list[LoggedRun]:
    """One run a seed, which seeds both the environment and the policy's generator.

    Actions of a Box are clipped to it before the step, and kept as they were drawn; those of a Discrete space are the
    k-th of NAMED_ACTIONS, and kept as its vector. `first_steps` counts decisions: an environment tells of no others.
    """
    return [_episode(env, policy, seed, version) for seed in seeds]


def _rewarded_pieces(rows: Sequence[Decision]) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive rows with a reward."""
    for has_reward, group in groupby(range(len(rows)), key=lambda k: rows[k].reward is not None):
        numbers = list(group)
        if has_reward:
            yield numbers[0], numbers[-1] + 1


def _run(name: str, rows: Sequence[Decision], following: Sequence[Decision], part: int) -> LoggedRun:
    seen = [row.observation.vector for row in (*rows, *following)]
    if not following:
        seen.append(seen[-1])
    return LoggedRun(
        name=name,
        observations=np.stack(seen),
        actions=np.stack([_raw_action(row) for row in rows]),
        clipped_actions=np.stack([row.action.to_vector() for row in rows]),
        rewards=np.array([row.reward for row in rows], dtype=np.float64),
        log_probabilities=np.array([_log_probability(row) for row in rows]),
        first_steps=np.array([row.first_step for row in rows], dtype=np.int64),
        policy_versions=np.array([row.policy_version for row in rows], dtype=np.int64),
        terminated=not following,
        part=part,
    )


def _raw_action(row: Decision) -> Float32:
    """What the policy drew: a vector or the name of an action in `raw_action`, else the action that it gave."""
    raw = row.detail.get("raw_action")
    if raw is None:
        return row.action.to_vector()
    return NAMED_ACTIONS[raw].to_vector() if isinstance(raw, str) else np.array(raw, dtype=np.float32)


def _log_probability(row: Decision) -> float:
    """As the policy logged it, else of the propensity, which a density may have rounded or clipped."""
    exact = row.detail.get("log_probability")
    if isinstance(exact, int | float):
        return float(exact)
    return float(np.log(row.propensity)) if row.propensity > 0 else np.nan


def _episode(env: gymnasium.Env[Any, Any], policy: Behaviour, seed: int, version: int) -> LoggedRun:
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    seen, raw, taken, rewards, logs = [observation], [], [], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        drawn, log_probability = policy.act(observation, rng)
        step, vector, clipped = _prepared(env.action_space, drawn)
        observation, reward, terminated, truncated, _ = env.step(step)
        seen.append(observation)
        raw.append(vector)
        taken.append(clipped)
        rewards.append(float(reward))
        logs.append(log_probability)
    return LoggedRun(
        name=f"seed-{seed}",
        observations=np.stack(seen).astype(np.float32),
        actions=np.stack(raw),
        clipped_actions=np.stack(taken),
        rewards=np.array(rewards),
        log_probabilities=np.array(logs),
        first_steps=np.arange(len(rewards), dtype=np.int64),
        policy_versions=np.full(len(rewards), version, dtype=np.int64),
        terminated=terminated,
    )


def _prepared(space: gymnasium.Space[Any], drawn: Any) -> tuple[Any, Float32, Float32]:
    """What to step with, and the action's vector raw and clipped."""
    if isinstance(space, Discrete):
        vector = list(NAMED_ACTIONS.values())[int(drawn)].to_vector()
        return int(drawn), vector, vector
    raw: Floats = np.asarray(drawn, dtype=np.float32)
    clipped = np.clip(raw, space.low, space.high).astype(np.float32)  # type: ignore[attr-defined]
    return clipped, raw.astype(np.float32), clipped
