"""Decision logs as a Minari data set, for offline reinforcement learning and `ope`.

An episode is a training run, a step is a decision. Observations are (T + 1, len(FIELDS)) float32, actions (T,
DIMENSION) float32 as drawn, before clipping. infos, one entry a decision: `log_propensity`, `propensity`,
`clipped_action`, `first_step`, `policy_version`, `run` (which run the episode belongs to) and `part` (which piece of
it, where rewards are missing in between). Data sets lie under MINARI_DATASETS_PATH, else under ~/.minari/datasets.

Whether rewards may be summed over a run is the jobs' doing: those of basis `improvement` add up to what the run
gained, those of `surprise` don't. The description tells which they are.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bss_service.core.action import DIMENSION
from bss_service.core.observation import FIELDS, SCHEMA_HASH
from bss_service.protocol.decisions import Decision, DecisionLog
from envs.research.offline.episodes import Episode, Episodes

if TYPE_CHECKING:
    from envs.research.offline.runs import LoggedRun
    from trainer_client.client import SchedulerClient

PAGE: Final = 100  # rows in one request


def played(environment: str, policy: Path, seeds: Iterable[int]) -> "list[LoggedRun]":
    """Runs of an artefact in an environment, one a seed. Raises ValueError for an artefact that can't be read."""
    import gymnasium

    from envs.research.actors import DrawingActor, read_artefact
    from envs.research.offline.runs import episodes_of_environment

    acting = DrawingActor(read_artefact(policy))
    env = gymnasium.make(environment)
    try:
        return episodes_of_environment(env, acting, seeds)
    finally:
        env.close()


def rewards(client: "SchedulerClient", jobs: Sequence[str]) -> str:
    """A sentence on what the rewards of the jobs are. Raises ValueError where they differ: their sums mean nothing."""
    specs = {job: client.job(job).spec.reward.model_dump_json() for job in jobs}
    if len(set(specs.values())) > 1:
        raise ValueError(f"jobs of one data set must be rewarded alike, got {specs}")
    return f"Rewards: {specs[jobs[0]]}."


def decisions(client: "SchedulerClient", job: str) -> list[Decision]:
    """The whole decision log of a job."""
    rows: list[Decision] = []
    while True:
        page = client.decisions(job, start=len(rows), count=PAGE)
        rows += page.decisions
        if len(rows) >= page.total or not page.decisions:
            return rows


def read_rows(path: Path) -> list[Decision]:
    """Decisions from a JSON file: a list of them, or an answer of the service. Raises ValueError."""
    stored = json.loads(path.read_text())
    rows = stored.get("decisions") if isinstance(stored, dict) else stored
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of decisions")
    return DecisionLog.model_validate({"start": 0, "total": len(rows), "decisions": rows}).decisions


def write(dataset_id: str, runs: "Sequence[LoggedRun]", *, description: str = "", author: str = "unknown") -> str:
    """Store runs as a new Minari data set; its id. Raises ValueError where there is no run, or the id is taken."""
    if not runs:
        raise ValueError("there is no decision with a reward: rewards come with validation reports")
    minari = _minari()
    numbers = {name: k for k, name in enumerate(dict.fromkeys(run.name for run in runs))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* None", UserWarning)  # links and addresses that nobody gave
        minari.create_dataset_from_buffers(
            dataset_id,
            [_buffer(run, numbers[run.name]) for run in runs],
            observation_space=_box(len(FIELDS), bound=1.0),
            action_space=_box(DIMENSION, bound=np.inf),  # raw actions lie anywhere
            description=f"{description} Observations of schema {SCHEMA_HASH}.".strip(),
            author=author,
            algorithm_name="bss-scheduler",
            requirements=["bss-scheduler"],
        )
    return dataset_id


def read(dataset_id: str) -> tuple[Episodes, int]:
    """The runs of a data set for off-policy evaluation, and how many were left out as rewards are missing in them.

    A part of a run would pass for a whole one. Raises ValueError where there is no such data set or no whole run.
    """
    try:
        stored = list(_minari().load_dataset(dataset_id).iterate_episodes())
    except FileNotFoundError:
        raise ValueError(f"there is no data set {dataset_id!r} here") from None
    broken = {int(e.infos["run"][0]) for e in stored if e.infos["part"][0] > 0}
    whole = [e for e in stored if int(e.infos["run"][0]) not in broken]
    if not whole:
        raise ValueError(f"data set {dataset_id!r} holds no run without a missing reward")
    episodes = [Episode(e.observations[:-1], e.actions, e.rewards, e.infos["log_propensity"]) for e in whole]
    return Episodes.of(episodes), len(broken)


def _buffer(run: "LoggedRun", number: int) -> Any:
    from minari.data_collector import EpisodeBuffer

    length = len(run.rewards)
    ends = np.arange(length) == length - 1
    return EpisodeBuffer(
        options={"job": run.name},
        observations=run.observations,
        actions=run.actions,
        rewards=run.rewards,
        terminations=ends & run.terminated,
        truncations=ends & (not run.terminated),
        infos={
            "log_propensity": run.log_probabilities,
            "propensity": np.exp(np.minimum(run.log_probabilities, 700.0)),
            "clipped_action": run.clipped_actions,
            "first_step": run.first_steps,
            "policy_version": run.policy_versions,
            "run": np.full(length, number),
            "part": np.full(length, run.part),
        },
    )


def _box(size: int, bound: float) -> Any:
    from gymnasium.spaces import Box

    return Box(-bound, bound, (size,), np.float32)


def _minari() -> Any:
    """Minari, which takes its time to import."""
    import minari

    return minari
