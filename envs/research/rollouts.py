"""Whole training runs under given policies, many side by side and in several processes."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import torch

from bss_service.core.arrays import Float32
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Decision
from bss_service.wire import RewardSpec
from envs.cohort import Cohort
from envs.sources import source
from envs.tasks import Task, lesson, oracle

SIDE_BY_SIDE: Final = 64  # more don't fit the caches and are no faster

Control = Literal["shuffled", "oracle"]


class Actor(Protocol):
    """What acts in one run: a policy of the service, with its random generator, or a candidate of a search."""

    def act(self, observation: Observation) -> Choice: ...

    def learn(self, decision: Decision) -> None: ...


@dataclass(frozen=True, slots=True)
class Episode:
    """A run to be made. Runs of the same task and seed have the same data and the same initial weights."""

    task: Task
    seed: int
    actor: Callable[[int], Actor]  # given a seed; sent to another process
    control: Control | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to: accuracies of the checkpoint with the best validation accuracy, in [0, 1]."""

    validation_accuracy: float
    test_accuracy: float
    observations: Float32  # (intervals, D) that the actor saw
    diverged: bool


Pool = Callable[[Sequence[Episode]], list[Result]]


@contextmanager
def pool(workers: int) -> Iterator[Pool]:
    """Makes runs in `workers` processes, one thread each. Which process makes a run changes nothing about it."""
    with multiprocessing.get_context("spawn").Pool(
        workers, initializer=torch.set_num_threads, initargs=(1,)
    ) as processes:

        def play_all(episodes: Sequence[Episode]) -> list[Result]:
            order = sorted(range(len(episodes)), key=lambda k: _shape(episodes[k]))
            chunks = _chunks(episodes, order, workers)
            results: dict[int, Result] = {}
            for chunk, made in zip(
                chunks, processes.imap(play, [[episodes[k] for k in c] for c in chunks]), strict=True
            ):
                results |= zip(chunk, made, strict=True)
            return [results[k] for k in range(len(episodes))]

        yield play_all


def play(episodes: Sequence[Episode]) -> list[Result]:
    """Make runs side by side; their sources must have the same number of modalities and of classes."""
    first = source(episodes[0].task.source)
    cohort = Cohort(len(episodes), modalities=first.modalities, classes=first.classes, judged=True, reward=RewardSpec())
    actors: list[Actor] = []
    for b, episode in enumerate(episodes):
        made = lesson(episode.task)
        if episode.control == "oracle":
            made = oracle(made)
        rng = np.random.default_rng([episode.seed, 0])
        cohort.start(b, episode.task, made, rng, shuffled=episode.control == "shuffled")
        actors.append(episode.actor(episode.seed))
    seen: list[list[Float32]] = [[] for _ in episodes]
    results: list[Result | None] = [None] * len(episodes)
    while None in results:
        choices = [None if results[b] else _act(cohort, b, actors[b], seen[b]) for b in range(len(episodes))]
        for b, outcome in enumerate(cohort.step(choices)):
            if outcome is None:
                continue
            if outcome.terminated or outcome.truncated:
                results[b] = Result(
                    outcome.info["best_validation_accuracy"],
                    outcome.info["test_accuracy"],
                    np.stack(seen[b]),
                    outcome.terminated,
                )
            else:
                actors[b].learn(cohort.run(b).history.decisions[-1])
    return [result for result in results if result is not None]


def _act(cohort: Cohort, place: int, actor: Actor, seen: list[Float32]) -> Choice:
    observation = cohort.run(place).observe()
    seen.append(observation.vector)
    return actor.act(observation)


def _shape(episode: Episode) -> tuple[int, int, int, int]:
    """Runs of one shape go well side by side: those of another number of classes must not, longer ones hold up."""
    task = episode.task
    return source(task.source).modalities, source(task.source).classes, task.intervals, task.samples


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
