"""The comparison of schedulers on held-out tasks: which tasks, which controls, and what is said of the scores."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from typing import Any, Final

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Float64
from bss_service.policies.shipped import shipped_judge
from envs.research import statistics
from envs.research.actors import FixedActor, Reference, of_likeliest, parse
from envs.research.detection import Reliability
from envs.research.files import Results
from envs.research.rollouts import Actor, Control, Episode, Pool, Rollout
from envs.research.statistics import Interval
from envs.tasks import BUILT_IN as BUILT_IN_FAMILIES
from envs.tasks import Task, family_version, is_family

HARMS: Final[Mapping[str, dict[str, float]]] = {
    "clean": {},
    "noisy 40 %": {"noisy_labels": 0.4},
    "flipped 30 %": {"flipped_labels": 0.3},  # never in training
    "mispaired 40 %": {"mispaired": 0.4},
    "blank 40 %": {"blank": 0.4},  # never in training
}
OWN: Final = "own harm"  # of a family: what it does to its lessons, and nothing besides
Kept = Mapping[str, Any]  # what is kept of a run, as JSON values
DETECTION: Final = ("auc", "precision", "recall", "left_out")
BUILT_IN: Final = ("emoji", "watch")
SAMPLES, VALIDATION, INTERVALS, LEARNING_RATE = 600, 300, 25, 0.1
ORACLE, UNIFORM, ANTI, HINDSIGHT = "oracle", "uniform", "anti-curriculum", "best fixed in hindsight"
LIKELIEST, PULL = "label likeliest", "uniform with pull"
KEPT_AS: Final = 3  # version of what is kept of a run


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A task that no policy was trained on."""

    source: str
    harm: str
    samples: int = SAMPLES
    spoiled: bool = False  # whether validation labels are as wrong as training labels

    def task(self, seed: int) -> Task:
        """The task's data for one of the paired seeds."""
        # No two tasks of a comparison share data or weights, so that their gains are independent.
        digest = hashlib.sha256(f"{self.source_name} {self.harm} {seed}".encode()).digest()
        own = int.from_bytes(digest[:7], "little")
        plain = Task(
            source=self.source,
            samples=self.samples,
            learning_rate=LEARNING_RATE,
            intervals=INTERVALS,
            seed=own,
            validation=VALIDATION,
            spoiled_validation=self.spoiled,
        )
        return replace(plain, **HARMS.get(self.harm, {}))  # type: ignore[arg-type]  # the harms are shares

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
    summed: Mapping[str, Float64] = field(default_factory=dict)  # the same by the sum of all heads
    detected: Mapping[str, list[list[Kept]]] = field(default_factory=dict)  # [task][seed]: what else is kept of a run


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one contender."""

    name: str
    gain: Interval  # interquartile mean of paired gains over uniform, in points
    improvement: Interval  # probability of improvement over uniform
    task_gains: tuple[Interval, ...]
    oracle_shares: Mapping[str, Interval]  # by harm
    summed_gain: Interval
    summed_shares: Mapping[str, Interval]
    detection: Mapping[str, Mapping[str, float]]  # by harm: means over runs, and the calibration error over all of them


def held_out(sources: Sequence[str], samples: int = SAMPLES, *, spoiled: bool = False) -> list[HeldOut]:
    """Every source with every harm, and every family with its own. Raises ValueError and others as `origin`."""
    return [
        HeldOut(source, harm, samples, spoiled)
        for source in sources
        for harm in ((OWN,) if is_family(source) else HARMS)
    ]


def contenders(policies: Mapping[str, Reference]) -> dict[str, Contender]:
    """The policies and the controls. The first policy is the one that is run with shuffled scores.

    Raises ValueError for a policy that is called as a control is.
    """
    uniform, reverse = parse("uniform"), parse('curriculum:{"reverse": true}')
    chosen = {UNIFORM: Contender(uniform.actor, UNIFORM), ORACLE: Contender(uniform.actor, ORACLE, "oracle")}
    chosen[ANTI] = Contender(reverse.actor, reverse.identity)
    chosen[LIKELIEST] = Contender(of_likeliest, LIKELIEST)
    pulled = parse('fixed:{"coverage": "epoch", "pull": 1.5}')
    chosen[PULL] = Contender(pulled.actor, pulled.identity)
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
            is_simulated = task.source.startswith("synthetic:") or task.source in BUILT_IN_FAMILIES
            if _data(task.source) in map(_data, policy.trained_on) or is_simulated:
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
    tasks: Sequence[HeldOut], entered: Mapping[str, Contender], seeds: Sequence[int], pool: Pool, kept: Results
) -> Scores:
    """All runs of all contenders. What comes of each is kept as soon as it is known, and no run is made twice."""
    fixed = fixed_actions()
    every = _runs(tasks, [*entered.values(), *fixed.values()], seeds, pool, kept)
    runs = dict(zip(entered, every, strict=False))
    of, summed = (
        {name: _percent(made, field) for name, made in runs.items()}
        for field in ("test_accuracy", "summed_test_accuracy")
    )
    of_fixed = {name: _percent(made, "test_accuracy") for name, made in zip(fixed, every[len(entered) :], strict=True)}
    return Scores(tuple(tasks), tuple(seeds), of, of_fixed, summed, runs)


def _percent(runs: list[list[Kept]], name: str) -> Float64:
    """(tasks, seeds)."""
    return 100 * np.array([[run[name] for run in of_task] for of_task in runs], dtype=np.float64)


def _runs(
    tasks: Sequence[HeldOut], contenders: Sequence[Contender], seeds: Sequence[int], pool: Pool, kept: Results
) -> list[list[list[Kept]]]:
    """What is kept of the runs, [contender][task][seed]."""
    runs = list(product(contenders, tasks, seeds))

    def make(places: list[int]) -> Iterator[tuple[int, Kept]]:
        for k, result in pool.as_they_end([_episode(*runs[place]) for place in places]):
            yield places[k], _kept(result)

    made = kept.complete([_cell(contender, task.task(seed)) for contender, task, seed in runs], make)
    of_task = [made[start : start + len(seeds)] for start in range(0, len(made), len(seeds))]
    return [of_task[start : start + len(tasks)] for start in range(0, len(of_task), len(tasks))]


def _cell(contender: Contender, task: Task) -> dict[str, Any]:
    """All that a run depends on."""
    return {
        "package": version("bss-scheduler"),
        "kept_as": KEPT_AS,
        "judge": shipped_judge().sha256,
        "contender": contender.identity,
        "task": asdict(task),
        "family": family_version(task.source) if is_family(task.source) else None,
    }


def _episode(contender: Contender, task: HeldOut, seed: int) -> Episode:
    made = task.task(seed)
    return Episode(made, made.seed, contender.actor, contender.control)


def _kept(result: Rollout) -> Kept:
    """As JSON values; null where there is nothing to tell."""
    found, curve = result.detection, result.detection.reliability
    numbers = {"auc": found.auc, "precision": found.precision, "recall": found.recall, "left_out": result.left_out}
    bins = {"said": curve.said, "right": curve.happened, "number": curve.number}
    accuracies = {"test_accuracy": result.test_accuracy, "summed_test_accuracy": result.summed_test_accuracy}
    return {
        **accuracies,
        **{name: None if np.isnan(number) else number for name, number in numbers.items()},
        **{name: values.round(4).tolist() for name, values in bins.items()},
    }


def detection(runs: Sequence[Kept]) -> dict[str, float]:
    """Means over runs in which there is something to tell, and the expected calibration error over all of them."""
    means = {}
    for name in DETECTION:
        known = [run[name] for run in runs if run[name] is not None]
        means[name] = float(np.mean(known)) if known else float("nan")
    return {**means, "calibration_error": _summed(runs).error}


def reliability(runs: Sequence[Kept]) -> list[tuple[float, float, int]]:
    """Of each bin that has samples: mean P(label right), the share that is right, and how many they are."""
    curve = _summed(runs)
    bins = zip(curve.said, curve.happened, curve.number, strict=True)
    return [(float(s / n), float(r / n), int(n)) for s, r, n in bins if n]


def _summed(runs: Sequence[Kept]) -> Reliability:
    return Reliability(*(np.sum([run[name] for run in runs], axis=0) for name in ("said", "right", "number")))


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
            *_by_summed_heads(scores, name, harms, seed),
            _detections(scores, name, harms),
        )
        for name, own in everyone.items()
        if name != UNIFORM
    ]


def _by_summed_heads(
    scores: Scores, name: str, harms: Sequence[str], seed: int
) -> tuple[Interval, Mapping[str, Interval]]:
    """Gain and shares of the oracle; nothing of a contender of which only the joint head is known."""
    if name not in scores.summed:
        return statistics.UNKNOWN, {}
    rngs = [np.random.default_rng([seed, stream]) for stream in (3, 4)]
    return (
        statistics.aggregate_gain(scores.summed[name], scores.summed[UNIFORM], rngs[0]),
        statistics.shares_of_oracle(scores.summed, name, harms, rngs[1]),
    )


def _detections(scores: Scores, name: str, harms: Sequence[str]) -> dict[str, dict[str, float]]:
    """By harm; nothing of a contender whose runs are not kept."""
    if name not in scores.detected:
        return {}
    of_tasks = list(zip(harms, scores.detected[name], strict=True))
    return {
        harm: detection([run for other, runs in of_tasks if other == harm for run in runs])
        for harm in dict.fromkeys(harms)
    }


def as_json(scores: Scores, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Scores and verdicts as JSON values; what can't be told is null."""
    return {
        "tasks": [task.name for task in scores.tasks],
        "seeds": list(scores.seeds),
        "test_accuracy": {name: own.round(4).tolist() for name, own in scores.of.items()},
        "summed_test_accuracy": {name: own.round(4).tolist() for name, own in scores.summed.items()},
        "reliability": {
            name: reliability([run for of_task in runs for run in of_task]) for name, runs in scores.detected.items()
        },
        "fixed": {name: own.mean(axis=1).round(4).tolist() for name, own in scores.fixed.items()},
        "verdicts": {
            verdict.name: {
                "gain": _interval(verdict.gain),
                "probability_of_improvement": _interval(verdict.improvement),
                "share_of_oracle": {harm: _interval(share) for harm, share in verdict.oracle_shares.items()},
                "summed_gain": _interval(verdict.summed_gain),
                "summed_share_of_oracle": {harm: _interval(share) for harm, share in verdict.summed_shares.items()},
                "detection": {
                    harm: {name: None if np.isnan(value) else round(value, 4) for name, value in found.items()}
                    for harm, found in verdict.detection.items()
                },
                "task_gains": [_interval(gain) for gain in verdict.task_gains],
            }
            for verdict in verdicts
        },
    }


def _interval(interval: Interval) -> list[float] | None:
    if np.isnan(interval.value):
        return None
    return [round(number, 4) for number in (interval.value, interval.low, interval.high)]
