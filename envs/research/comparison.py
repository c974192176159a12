"""The comparison of schedulers on held-out tasks: which tasks, which controls, and what is said of the scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np

from bss_service.core.action import Action, RankBy
from bss_service.core.arrays import Float64
from envs.research import statistics
from envs.research.actors import Fixed, of_name
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
RANKINGS: Final[tuple[RankBy, ...]] = ("loss", "balance")
BUILT_IN: Final = ("emoji", "watch")
SAMPLES, VALIDATION, INTERVALS, LEARNING_RATE = 600, 300, 25, 0.1
ORACLE, UNIFORM, HINDSIGHT = "oracle", "uniform", "best fixed in hindsight"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A task that no policy was trained on."""

    source: str
    harm: str

    def task(self, seed: int) -> Task:
        """The task's data for one of the paired seeds."""
        plain = Task(
            source=self.source,
            samples=SAMPLES,
            learning_rate=LEARNING_RATE,
            intervals=INTERVALS,
            seed=seed,
            validation=VALIDATION,
        )
        return replace(plain, **HARMS[self.harm])  # type: ignore[arg-type]  # the harms are shares

    @property
    def name(self) -> str:
        """Without the directory of a prepared file."""
        return f"{self.source.rsplit('/', 1)[-1]}, {self.harm}"


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy, or a control, in the comparison."""

    actor: Callable[[int], Actor]
    control: Control | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Test accuracies (tasks, seeds) in percent of every contender, paired by task and seed."""

    tasks: tuple[HeldOut, ...]
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


def contenders(policies: Mapping[str, Callable[[int], Actor]]) -> dict[str, Contender]:
    """The policies and the controls. The first policy is the one that is run with shuffled scores."""
    uniform = partial(of_name, "uniform", {})
    chosen = {UNIFORM: Contender(uniform), ORACLE: Contender(uniform, "oracle")}
    chosen |= {name: Contender(actor) for name, actor in policies.items()}
    if policies:
        first = next(iter(policies))
        chosen[f"{first}, shuffled scores"] = Contender(policies[first], "shuffled")
    chosen["anti-curriculum"] = Contender(partial(of_name, "curriculum", {"reverse": True}))
    return chosen


def fixed_actions() -> dict[str, Callable[[int], Actor]]:
    """The fixed actions that hindsight chooses from, plain shuffling among them."""
    drawn = {
        f"draw by {similarity}·similarity − {loss}·loss": Action(
            kappa_similarity=similarity, kappa_loss=loss, ema=0.5, coverage="draw"
        )
        for similarity, loss in product((0, 2, 4), (-2, 2, 6, 10))
    }
    kept = {
        f"keep {share:.0%} by {rank}": Action(share=share, ema=0.5, coverage="subset", rank_by=rank)
        for share, rank in product((0.6, 0.8), RANKINGS)
    }
    return {name: partial(Fixed, action) for name, action in {UNIFORM: Action(), **drawn, **kept}.items()}


def play(tasks: Sequence[HeldOut], entered: Mapping[str, Contender], seeds: int, pool: Pool) -> Scores:
    """All runs of all contenders."""
    fixed = {name: Contender(actor) for name, actor in fixed_actions().items()}
    pairs = [(task, seed) for task in tasks for seed in range(seeds)]
    every = [*entered.values(), *fixed.values()]
    episodes = [Episode(t.task(seed), seed, c.actor, c.control) for c in every for t, seed in pairs]
    accuracies = 100 * np.array([result.test_accuracy for result in pool(episodes)])
    scores = dict(enumerate(accuracies.reshape(len(every), len(tasks), seeds)))
    of = {name: scores[k] for k, name in enumerate(entered)}
    return Scores(tuple(tasks), of, {name: scores[len(entered) + k] for k, name in enumerate(fixed)})


def hindsight(scores: Scores) -> Float64:
    """On each task the scores (tasks, seeds) of the fixed action with the best mean test accuracy.

    No contender could know it: it is chosen by the very scores that it is judged by.
    """
    stacked = np.stack(list(scores.fixed.values()))
    best = stacked.mean(axis=2).argmax(axis=0)
    chosen: Float64 = stacked[best, np.arange(len(best))]
    return chosen


def judge(scores: Scores, rng: np.random.Generator) -> list[Verdict]:
    """A verdict on every contender but uniform, and on hindsight."""
    everyone = {**scores.of, HINDSIGHT: hindsight(scores)}
    uniform = everyone[UNIFORM]
    harms = [task.harm for task in scores.tasks]
    return [
        Verdict(
            name,
            statistics.aggregate_gain(own, uniform, rng),
            statistics.probability_of_improvement(own, uniform, rng),
            tuple(statistics.task_gains(own, uniform)),
            statistics.shares_of_oracle(everyone, name, harms, rng),
        )
        for name, own in everyone.items()
        if name != UNIFORM
    ]


def as_json(scores: Scores, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Scores and verdicts as JSON values; what can't be told is null."""
    return {
        "tasks": [task.name for task in scores.tasks],
        "seeds": next(iter(scores.of.values())).shape[1],
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
