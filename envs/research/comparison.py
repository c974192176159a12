"""The comparison of schedulers on held-out tasks: which tasks, which controls, and what is said of the scores."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Float64
from envs.research import statistics
from envs.research.actors import FixedActor, Reference, parse
from envs.research.files import written_whole
from envs.research.rollouts import Actor, Control, Episode, Pool
from envs.research.statistics import Interval
from envs.tasks import Task

HARMS: Final[Mapping[str, dict[str, float]]] = {
    "clean": {},
    "noisy 40 %": {"noisy_labels": 0.4},
    "flipped 30 %": {"flipped_labels": 0.3},  # never in training
    "mispaired 40 %": {"mispaired": 0.4},
    "blank 40 %": {"blank": 0.4},  # never in training
}
BUILT_IN: Final = ("emoji", "watch")
SAMPLES, VALIDATION, INTERVALS, LEARNING_RATE = 600, 300, 25, 0.1
ORACLE, UNIFORM, ANTI, HINDSIGHT = "oracle", "uniform", "anti-curriculum", "best fixed in hindsight"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A task that no policy was trained on."""

    source: str
    harm: str

    def task(self, seed: int) -> Task:
        """The task's data for one of the paired seeds."""
        # No two tasks of a comparison share data or weights, so that their gains are independent.
        digest = hashlib.sha256(f"{self.source_name} {self.harm} {seed}".encode()).digest()
        own = int.from_bytes(digest[:7], "little")
        plain = Task(
            source=self.source,
            samples=SAMPLES,
            learning_rate=LEARNING_RATE,
            intervals=INTERVALS,
            seed=own,
            validation=VALIDATION,
        )
        return replace(plain, **HARMS[self.harm])  # type: ignore[arg-type]  # the harms are shares

    @property
    def name(self) -> str:
        """Without the directory of a prepared file."""
        return f"{self.source_name}, {self.harm}"

    @property
    def source_name(self) -> str:
        """Without the directory of a prepared file."""
        return self.source.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy, or a control, in the comparison."""

    actor: Callable[[int], Actor]
    identity: str  # of what acts: its results are kept under it
    control: Control | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Test accuracies (tasks, seeds) in percent of every contender, paired by task and seed."""

    tasks: tuple[HeldOut, ...]
    seeds: tuple[int, ...]
    of: Mapping[str, Float64]
    fixed: Mapping[str, Float64]  # of the fixed actions that hindsight chooses from


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one contender."""

    name: str
    gain: Interval  # interquartile mean of paired gains over uniform, in points
    improvement: Interval  # probability of improvement over uniform
    task_gains: tuple[Interval, ...]
    oracle_shares: Mapping[str, Interval]  # by harm


def held_out(sources: Sequence[str]) -> list[HeldOut]:
    """Every source with every harm."""
    return [HeldOut(source, harm) for source in sources for harm in HARMS]


def contenders(policies: Mapping[str, Reference]) -> dict[str, Contender]:
    """The policies and the controls. The first policy is the one that is run with shuffled scores.

    Raises ValueError for a policy that is called as a control is.
    """
    uniform, reverse = parse("uniform"), parse('curriculum:{"reverse": true}')
    chosen = {UNIFORM: Contender(uniform.actor, UNIFORM), ORACLE: Contender(uniform.actor, ORACLE, "oracle")}
    chosen[ANTI] = Contender(reverse.actor, reverse.identity)
    for name, policy in policies.items():
        if name in (*chosen, HINDSIGHT, ""):
            raise ValueError(f"a policy can't be called {name!r}, as a control or another policy is")
        chosen[name] = Contender(policy.actor, policy.identity)
    for name, policy in [*policies.items()][:1]:
        chosen[f"{name}, shuffled scores"] = Contender(policy.actor, f"{policy.identity} shuffled", "shuffled")
    return chosen


def check_held_out(policies: Mapping[str, Reference], tasks: Sequence[HeldOut]) -> None:
    """Raises ValueError where a policy was trained on the data of a task."""
    for name, policy in policies.items():
        for task in tasks:
            if _data(task.source) in map(_data, policy.trained_on) or task.source.startswith("synthetic:"):
                raise ValueError(f"{task.source} is no held-out data for {name}, which was trained on it")


def _data(source: str) -> str:
    """What a source is made of: a file wherever it lies, and whichever of its views are taken."""
    return source.rsplit("/", 1)[-1].partition(":")[0]


def fixed_actions() -> dict[str, Contender]:
    """The fixed actions that hindsight chooses from, plain shuffling among them."""
    drawn = {
        f"draw by {similarity}·similarity − {loss}·loss": Action(
            kappa_similarity=similarity, kappa_loss=loss, ema=0.5, coverage="draw"
        )
        for similarity, loss in product((-2, 0, 2, 4), (-2, 0, 2, 6, 10))
    }
    kept = {
        f"keep {share:.0%} by {similarity}·similarity − {loss}·loss + {weak}·weak": Action(
            kappa_similarity=similarity,
            kappa_loss=loss,
            kappa_weak=weak,
            share=share,
            ema=0.5,
            coverage="subset",
            rank_by="weight",
        )
        for share, (similarity, loss, weak) in product((0.6, 0.8), ((0, 2, 0), (1, 1, 0), (1, 0, -2), (1, 1, -2)))
    }
    every = {UNIFORM: Action(), **drawn, **kept}
    return {name: Contender(partial(FixedActor, action), f"fixed {action.as_dict()}") for name, action in every.items()}


def play(
    tasks: Sequence[HeldOut],
    entered: Mapping[str, Contender],
    seeds: Sequence[int],
    pool: Pool,
    kept: Path,
    report: Callable[[str], None],
) -> Scores:
    """All runs of all contenders. Those of each are kept in a file, and made only once.

    kept: a directory. told: is called with a contender's name before its runs.
    """
    of: dict[str, Float64] = {}
    fixed: dict[str, Float64] = {}
    for scores, group in ((of, entered), (fixed, fixed_actions())):
        for name, contender in group.items():
            report(name)
            scores[name] = _accuracies(tasks, contender, seeds, pool, kept)
    return Scores(tuple(tasks), tuple(seeds), of, fixed)


def _accuracies(
    tasks: Sequence[HeldOut], contender: Contender, seeds: Sequence[int], pool: Pool, kept: Path
) -> Float64:
    """Test accuracies (tasks, seeds) in percent."""
    episodes = [
        Episode(task.task(seed), task.task(seed).seed, contender.actor, contender.control)
        for task in tasks
        for seed in seeds
    ]
    identity = [version("bss-scheduler"), contender.identity, [asdict(episode.task) for episode in episodes]]
    path = kept / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}.json"
    if path.exists():
        made = json.loads(path.read_text())
    else:
        made = [result.test_accuracy for result in pool(episodes)]
        kept.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(made))
    accuracies: Float64 = 100 * np.array(made).reshape(len(tasks), len(seeds))
    return accuracies


def hindsight(scores: Scores) -> Float64:
    """On each task the scores (tasks, seeds) of the fixed action with the best mean test accuracy.

    No contender could know it: it is chosen by the very scores that it is judged by.
    """
    stacked = np.stack(list(scores.fixed.values()))
    best = stacked.mean(axis=2).argmax(axis=0)
    chosen: Float64 = stacked[best, np.arange(len(best))]
    return chosen


def judge(scores: Scores, seed: int) -> list[Verdict]:
    """A verdict on every contender but uniform, and on hindsight; what is said of one depends on no other."""
    everyone = {**scores.of, HINDSIGHT: hindsight(scores)}
    uniform = everyone[UNIFORM]
    harms = [task.harm for task in scores.tasks]
    return [
        Verdict(
            name,
            statistics.aggregate_gain(own, uniform, np.random.default_rng([seed, 0])),
            statistics.probability_of_improvement(own, uniform, np.random.default_rng([seed, 1])),
            tuple(statistics.task_gains(own, uniform)),
            statistics.shares_of_oracle(everyone, name, harms, np.random.default_rng([seed, 2])),
        )
        for name, own in everyone.items()
        if name != UNIFORM
    ]


def as_json(scores: Scores, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Scores and verdicts as JSON values; what can't be told is null."""
    return {
        "tasks": [task.name for task in scores.tasks],
        "seeds": list(scores.seeds),
        "test_accuracy": {name: own.round(4).tolist() for name, own in scores.of.items()},
        "fixed": {name: own.mean(axis=1).round(4).tolist() for name, own in scores.fixed.items()},
        "verdicts": {
            verdict.name: {
                "gain": _interval(verdict.gain),
                "probability_of_improvement": _interval(verdict.improvement),
                "share_of_oracle": {harm: _interval(share) for harm, share in verdict.oracle_shares.items()},
                "task_gains": [_interval(gain) for gain in verdict.task_gains],
            }
            for verdict in verdicts
        },
    }


def _interval(interval: Interval) -> list[float] | None:
    if np.isnan(interval.value):
        return None
    return [round(number, 4) for number in (interval.value, interval.low, interval.high)]
