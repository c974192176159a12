"""Whole training runs under given policies, many side by side and in several processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np

from bss_service.core.action import DIMENSION, Action
from bss_service.core.arrays import Float32
from bss_service.core.evidence.posterior import Judge
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import RewardSpec
from envs.cohort import Cohort, Outcome
from envs.research.detection import Detection
from envs.research.executor import Executor, processes
from envs.research.training.teacher import advice, importance
from envs.run import StudentRun
from envs.tasks import Lesson, Task, lesson, oracle, origin

SIDE_BY_SIDE: Final = 64  # more don't fit the caches and are no faster

Control = Literal["shuffled", "oracle"]


class Actor(Protocol):
    """What acts in one run: a policy of the service, with its random generator, or a candidate of a search."""

    @property
    def judge(self) -> Judge | None:
        """What reads the evidence of its runs' samples; None: the usual."""

    def act(self, observation: Observation) -> Choice: ...

    def learn(self, decision: Decision) -> None: ...


@dataclass(frozen=True, slots=True)
class Episode:
    """A run to be made. Runs of the same task and seed have the same data and the same initial weights."""

    task: Task
    seed: int
    actor: Callable[[int], Actor]  # given a seed; sent to another process
    control: Control | None = None
    taught: bool = False  # whether a teacher who sees the harm is asked, beside, what it would do


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a run came to: accuracies of the checkpoint with the best validation accuracy, in [0, 1]."""

    validation_accuracy: float
    test_accuracy: float
    summed_test_accuracy: float  # by the sum of all heads' logits
    detection: Detection  # by the evidence at the end of the run
    left_out: float  # share of all samples that the last interval left out
    observations: Float32  # (intervals, D) that the actor saw
    diverged: bool
    advice: Float32  # (intervals, A) of the teacher, or (0, A)
    importance: Float32  # (intervals, A) of the components of its advice


Progress = Callable[[str], None]  # is told how far something is


def unheard(text: str) -> None:
    """A progress that nobody follows."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Makes runs where an executor computes. Where a run is made, and beside which, changes nothing about it."""

    executor: Executor
    progress: Progress = unheard

    def __call__(self, episodes: Sequence[Episode]) -> list[Rollout]:
        """What they come to, in their order."""
        results = dict(self.as_they_end(episodes))
        return [results[k] for k in range(len(episodes))]

    def as_they_end(self, episodes: Sequence[Episode]) -> Iterator[tuple[int, Rollout]]:
        """What each comes to, beside its place among them."""
        order = sorted(range(len(episodes)), key=lambda k: _shape(episodes[k]))
        chunks = _chunks(episodes, order, self.executor.slots)
        made = 0
        for place, rollouts in self.executor.map(play, [[episodes[k] for k in chunk] for chunk in chunks]):
            made += len(rollouts)
            self.progress(f"{made} of {len(episodes)} runs")
            yield from zip(chunks[place], rollouts, strict=True)


@contextmanager
def pool(workers: int, progress: Progress = unheard) -> Iterator[Pool]:
    """A pool of processes on this machine."""
    with processes(workers) as executor:
        yield Pool(executor, progress)


def play(episodes: Sequence[Episode]) -> list[Rollout]:
    """Make runs side by side; their sources must have the same number of modalities and of classes."""
    first = origin(episodes[0].task.source)
    cohort = Cohort(len(episodes), modalities=first.modalities, classes=first.classes, judged=True, reward=RewardSpec())
    players = [_Player.start(cohort, b, episode) for b, episode in enumerate(episodes)]
    while any(player.result is None for player in players):
        for player, outcome in zip(players, cohort.step([player.act() for player in players]), strict=True):
            if outcome is not None:
                player.take(outcome)
    return [player.result for player in players if player.result is not None]


@dataclass(slots=True)
class _Player:
    """A run being made."""

    episode: Episode
    run: StudentRun
    lesson: Lesson
    actor: Actor
    seen: list[Float32] = field(default_factory=list)
    advised: list[Action] = field(default_factory=list)
    result: Rollout | None = None

    @classmethod
    def start(cls, cohort: Cohort, place: int, episode: Episode) -> "_Player":
        made = lesson(episode.task)
        if episode.control == "oracle":
            made = oracle(made)
        rng = np.random.default_rng([episode.seed, 0])
        actor = episode.actor(episode.seed)
        shuffled = episode.control == "shuffled"
        cohort.start(place, episode.task, made, rng, shuffled=shuffled, judge=actor.judge)
        return cls(episode, cohort.run(place), made, actor)

    def act(self) -> Choice | None:
        """The next choice; None once the run is over."""
        if self.result is not None:
            return None
        observation = self.run.observe()
        self.seen.append(observation.vector)
        if self.episode.taught:
            self.advised.append(advice(self.run.table, self.lesson, observation["progress"]))
        return self.actor.act(observation)

    def take(self, outcome: Outcome) -> None:
        """Learn from an interval, or end the run."""
        if not (outcome.terminated or outcome.truncated):
            self.actor.learn(self.run.history.decisions[-1])
            return
        self.result = Rollout(
            outcome.info["best_validation_accuracy"],
            outcome.info["test_accuracy"],
            outcome.info.get("summed_test_accuracy", outcome.info["test_accuracy"]),  # before any interval it has none
            Detection.of(self.run.evidence.right, self.lesson.wrong_label),
            self._left_out(),
            np.stack(self.seen),
            outcome.terminated,
            np.array([action.to_vector() for action in self.advised], np.float32).reshape(-1, DIMENSION),
            np.array([importance(action) for action in self.advised], np.float32).reshape(-1, DIMENSION),
        )

    def _left_out(self) -> float:
        decisions = self.run.history.decisions
        return decisions[-1].left_out / len(self.lesson.wrong_label) if decisions else 0.0


def _shape(episode: Episode) -> tuple[int, int, int, int]:
    """Runs of one shape go well side by side: those of another number of classes must not, longer ones hold up."""
    task = episode.task
    whence = origin(task.source)
    return whence.modalities, whence.classes, task.intervals, task.samples


def _chunks(episodes: Sequence[Episode], order: Sequence[int], workers: int) -> list[list[int]]:
    chunks: list[list[int]] = []
    size = max(1, min(SIDE_BY_SIDE, -(-len(order) // workers)))
    for k in order:
        last = chunks[-1] if chunks else []
        if last and len(last) < size and _shape(episodes[last[0]])[:2] == _shape(episodes[k])[:2]:
            last.append(k)
        else:
            chunks.append([k])
    return chunks
