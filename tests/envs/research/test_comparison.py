import json
from functools import partial

import numpy as np
import pytest

from envs.research import comparison
from envs.research.actors import of_name
from envs.research.comparison import (
    HARMS,
    HINDSIGHT,
    HeldOut,
    Scores,
    as_json,
    contenders,
    held_out,
    hindsight,
    judge,
    play,
)
from envs.research.rollouts import play as runs
from envs.tasks import training_tasks

TASKS = (HeldOut("synthetic:2", "clean"), HeldOut("synthetic:2", "noisy 40 %"))


def scores(**of: float) -> Scores:
    """Four seeds of two tasks; each contender is so much better than uniform on the second."""
    luck = np.array([[80.0, 81, 82, 83], [60, 62, 64, 66]])
    raised = {name: luck + np.array([[0.0], [gain]]) for name, gain in of.items()}
    return Scores(
        TASKS, {"uniform": luck, **raised}, {"a": luck - np.array([[1.0], [0]]), "b": luck - np.array([[3.0], [-4]])}
    )


def test_hindsight_takes_the_best_fixed_action_of_each_task() -> None:
    taken = hindsight(scores(oracle=10))
    assert taken.mean(axis=1) == pytest.approx([80.5, 67.0])  # a on the first task, b on the second


def test_a_verdict_tells_gains_and_the_share_of_the_way_to_the_oracle() -> None:
    verdicts = {v.name: v for v in judge(scores(oracle=10.0, mine=5.0), np.random.default_rng(0))}
    assert set(verdicts) == {"oracle", "mine", HINDSIGHT}
    mine = verdicts["mine"]
    assert [gain.value for gain in mine.task_gains] == [0.0, 5.0]
    assert mine.oracle_shares["noisy 40 %"].value == pytest.approx(0.5)
    assert np.isnan(mine.oracle_shares["clean"].value)  # the oracle gains nothing there
    assert mine.improvement.value > 0.5


def test_the_results_are_json_without_nan() -> None:
    measured = scores(oracle=10.0, mine=5.0)
    told = json.loads(json.dumps(as_json(measured, judge(measured, np.random.default_rng(0))), allow_nan=False))
    assert told["verdicts"]["mine"]["share_of_oracle"]["clean"] is None
    assert told["seeds"] == 4
    assert told["tasks"] == ["synthetic:2, clean", "synthetic:2, noisy 40 %"]


def test_every_policy_meets_the_same_controls() -> None:
    entered = contenders({"mine": partial(of_name, "balance", {})})
    assert list(entered) == ["uniform", "oracle", "mine", "mine, shuffled scores", "anti-curriculum"]
    assert entered["oracle"].control == "oracle"


def test_no_held_out_task_is_one_of_training() -> None:
    tasks = held_out(["emoji", "watch"])
    assert len(tasks) == 2 * len(HARMS) >= 8
    assert not {task.source for task in tasks} & set(training_tasks().sources)
    trained = set(training_tasks().harms)
    assert any(harm and not set(harm) & trained for harm in HARMS.values())


def test_runs_are_paired_by_task_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLES": 96, "VALIDATION": 40, "INTERVALS": 3}.items():
        monkeypatch.setattr(comparison, name, value)
    monkeypatch.setattr(comparison, "fixed_actions", lambda: {"uniform": partial(of_name, "uniform", {})})
    uniform = partial(of_name, "uniform", {})
    made = play(TASKS, contenders({"again": uniform}), 2, runs)
    assert made.of["uniform"].shape == (2, 2)
    assert np.array_equal(made.of["again"], made.of["uniform"])
    assert np.array_equal(made.fixed["uniform"], made.of["uniform"])
    assert np.array_equal(made.of["oracle"][0], made.of["uniform"][0])  # all samples of a clean task are clean
