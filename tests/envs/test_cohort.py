"""What a run comes to, in a world in which the accuracies of every checkpoint are known."""

from dataclasses import replace

import numpy as np
import pytest

from bss_service.core.action import Action
from bss_service.policies.base import Choice
from bss_service.protocol.validation import ModalityReport, ValidationReport
from envs.cohort import Cohort, Outcome
from envs.tasks import Task, lesson

TASK = Task("synthetic:2", samples=96, learning_rate=0.1, intervals=4, seed=1, validation=40)
VALIDATION = (0.10, 0.50, 0.70, 0.70, 0.60)  # before the first interval and after each
TEST = (0.05, 0.20, 0.30, 0.90, 0.80)


class Scripted:
    """In place of students: accuracies as written down, measurements that say nothing."""

    def __init__(self) -> None:
        self.interval = 0

    def enrol(self, *_: object) -> None:
        """Nobody learns."""

    def train(self, plans: list[np.ndarray], *_: object) -> list[dict[str, np.ndarray]]:
        self.interval += 1
        shapes = [plan.shape for plan in plans]
        one = [np.zeros(shape, np.float32) for shape in shapes]
        return [
            {"similarity": x, "loss": x, "probability": np.zeros((*shape, 3), np.float32)}
            for x, shape in zip(one, shapes, strict=True)
        ]

    def summed_accuracies(self, split: str) -> np.ndarray:
        return np.array([TEST[self.interval] / 2])

    def validate(self, split: str = "validation", place: int | None = None) -> list[ValidationReport]:
        accuracy = (VALIDATION if split == "validation" else TEST)[self.interval]
        heads = {f"modality {m}": ModalityReport(accuracy=accuracy, probability=0.5) for m in (1, 2)}
        return [ValidationReport(step=0, loss=1.0, accuracy=accuracy, modalities=heads)]


def test_a_run_is_judged_by_the_test_accuracy_of_the_first_best_validated_checkpoint() -> None:
    cohort = Cohort(1, modalities=2, classes=10, judged=True)
    cohort._students = Scripted()  # type: ignore[assignment]
    cohort.start(0, TASK, lesson(TASK), np.random.default_rng(0))
    outcomes: list[Outcome] = []
    for _ in range(TASK.intervals):
        [outcome] = cohort.step([Choice(Action())])
        assert outcome is not None
        outcomes.append(outcome)
    assert [outcome.truncated for outcome in outcomes] == [False, False, False, True]
    assert outcomes[-1].info["best_validation_accuracy"] == pytest.approx(0.70)
    assert outcomes[-1].info["test_accuracy"] == pytest.approx(0.30)  # not 0.90, the best, nor 0.80, the last
    assert outcomes[-1].info["summed_test_accuracy"] == pytest.approx(0.15)


def test_with_twins_a_reward_is_what_the_run_earns_beyond_plain_shuffling() -> None:
    hard = Choice(Action(kappa_loss=-6, coverage="draw"))
    rewards = {}
    for name, choice, twins in (("hard", hard, False), ("plain", Choice(Action()), False), ("beyond", hard, True)):
        cohort = Cohort(2, modalities=2, classes=10, twins=twins)
        for place in range(2):
            cohort.start(place, TASK, lesson(TASK), np.random.default_rng(place))
        rewards[name] = [[outcome.reward for outcome in _made(cohort, choice)] for _ in range(TASK.intervals)]
    np.testing.assert_allclose(rewards["beyond"], np.subtract(rewards["hard"], rewards["plain"]), rtol=0, atol=1e-12)
    assert np.any(rewards["beyond"])


def test_with_twins_plain_shuffling_earns_nothing_even_where_it_diverges() -> None:
    steep = replace(TASK, learning_rate=1e6)
    cohort = Cohort(2, modalities=2, classes=10, twins=True)
    for place, task in enumerate((TASK, steep)):
        cohort.start(place, task, lesson(task), np.random.default_rng(place))
    outcomes = _made(cohort, Choice(Action()))
    assert [outcome.terminated for outcome in outcomes] == [False, True]
    assert [outcome.reward for outcome in outcomes] == [0.0, 0.0]


def _made(cohort: Cohort, choice: Choice) -> list[Outcome]:
    outcomes = cohort.step([choice] * cohort.number)
    return [outcome for outcome in outcomes if outcome is not None]
