import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bss_service.core.action import log_weights
from bss_service.core.evidence.features import FIELDS, MODALITY_FIELDS, Features
from bss_service.core.samples.table import SampleTable
from bss_service.core.signals import PAPER, Signals
from envs.research import comparison
from envs.research.actors import of_likeliest, parse
from envs.research.comparison import (
    HARMS,
    HINDSIGHT,
    HeldOut,
    Scores,
    as_json,
    check_held_out,
    contenders,
    fixed_actions,
    held_out,
    hindsight,
    judge,
    play,
)
from envs.research.files import Results, Storage
from envs.research.rollouts import Pool
from envs.tasks import training_tasks

TASKS = (HeldOut("synthetic:2", "clean"), HeldOut("synthetic:2", "noisy 40 %"))


def scores(**of: float) -> Scores:
    """Four seeds of two tasks; each contender is so much better than uniform on the second."""
    luck = np.array([[80.0, 81, 82, 83], [60, 62, 64, 66]])
    raised = {name: luck + np.array([[0.0], [gain]]) for name, gain in of.items()}
    return Scores(
        TASKS,
        (0, 1, 2, 3),
        {"uniform": luck, **raised},
        {"a": luck - np.array([[1.0], [0]]), "b": luck - np.array([[3.0], [-4]])},
    )


def test_hindsight_takes_the_best_fixed_action_of_each_task() -> None:
    taken = hindsight(scores(oracle=10))
    assert taken.mean(axis=1) == pytest.approx([80.5, 67.0])  # a on the first task, b on the second


def test_a_verdict_tells_gains_and_the_share_of_the_way_to_the_oracle() -> None:
    verdicts = {v.name: v for v in judge(scores(oracle=10.0, mine=5.0), seed=0)}
    assert set(verdicts) == {"oracle", "mine", HINDSIGHT}
    mine = verdicts["mine"]
    assert [gain.value for gain in mine.task_gains] == [0.0, 5.0]
    assert mine.oracle_shares["noisy 40 %"].value == pytest.approx(0.5)
    assert np.isnan(mine.oracle_shares["clean"].value)  # the oracle gains nothing there
    assert mine.improvement.value > 0.5


def test_the_results_are_json_without_nan() -> None:
    measured = scores(oracle=10.0, mine=5.0)
    reported = json.loads(json.dumps(as_json(measured, judge(measured, seed=0)), allow_nan=False))
    assert reported["verdicts"]["mine"]["share_of_oracle"]["clean"] is None
    assert reported["seeds"] == [0, 1, 2, 3]
    assert reported["tasks"] == ["synthetic:2, clean", "synthetic:2, noisy 40 %"]


CONTROLS = ["uniform", "oracle", "anti-curriculum", "label likeliest", "uniform with pull"]


def test_the_simple_control_keeps_what_the_heads_find_likeliest() -> None:
    judge = of_likeliest(0).judge
    assert judge is not None
    leads = np.array([0.3, -0.01, 0.002])
    of_sample = np.zeros((3, len(FIELDS)), np.float32)
    of_sample[:, FIELDS.index("lead")] = leads
    right = judge.judge(3, Features(np.arange(3), of_sample, np.zeros((3, 2, len(MODALITY_FIELDS)), np.float32))).right
    assert (right > 0.5).tolist() == [True, False, True]


def test_every_policy_meets_the_same_controls() -> None:
    entered = contenders({"mine": parse("balance")})
    assert list(entered) == [*CONTROLS, "mine", "mine, shuffled scores"]
    assert entered["oracle"].control == "oracle"


@pytest.mark.parametrize("name", ["oracle", "uniform", "best fixed in hindsight", ""])
def test_no_policy_is_called_as_a_control_is(name: str) -> None:
    with pytest.raises(ValueError, match=f"can't be called '{name}'"):
        contenders({name: parse("balance")})


def test_no_held_out_task_is_one_of_training() -> None:
    tasks = held_out(["emoji", "watch"])
    assert len(tasks) == 2 * len(HARMS) >= 8
    assert not {task.source for task in tasks} & set(training_tasks().sources)
    trained = set(training_tasks().harms)
    assert any(harm and not set(harm) & trained for harm in HARMS.values())
    check_held_out({"learned": parse("learned")}, tasks)


def test_no_two_tasks_or_seeds_share_data() -> None:
    tasks = [HeldOut(source, harm) for source in ("synthetic:2", "synthetic:3") for harm in ("clean", "noisy 40 %")]
    assert len({task.task(seed).seed for task in tasks for seed in range(5)}) == 5 * len(tasks)


def test_a_policy_is_not_judged_on_data_that_it_was_trained_on() -> None:
    trained = replace(parse("balance"), trained_on=("emoji",))
    with pytest.raises(ValueError, match="emoji is no held-out data for mine"):
        check_held_out({"mine": trained}, held_out(["watch", "emoji"]))


@pytest.mark.parametrize("source", ["sets/digits.npz", "./digits.npz", "digits.npz:fou,zer"])
def test_a_file_is_the_same_data_wherever_it_lies_and_whichever_views_are_taken(source: str) -> None:
    trained = replace(parse("balance"), trained_on=("digits.npz:kar,fou",))
    with pytest.raises(ValueError, match=f"{source} is no held-out data for mine"):
        check_held_out({"mine": trained}, held_out([source]))
    check_held_out({"mine": trained}, held_out(["sets/others.npz"]))


def test_what_is_said_of_one_contender_depends_on_no_other() -> None:
    alone = judge(scores(oracle=10.0, mine=5.0), seed=0)[1]
    beside = judge(scores(oracle=10.0, other=1.0, mine=5.0), seed=0)[2]
    assert alone == beside


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SAMPLES": 96, "VALIDATION": 40, "INTERVALS": 3}.items():
        monkeypatch.setattr(comparison, name, value)
    monkeypatch.setattr(comparison, "fixed_actions", dict)


@dataclass
class Here:
    """Computes in this process, two runs a cell; is interrupted as a cell begins."""

    until: int | None = None
    slots: int = 10
    runs: int = 0

    def map(self, function: Any, cells: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        for place, cell in enumerate(cells):
            if place == self.until:
                raise KeyboardInterrupt
            self.runs += len(cell)
            yield place, function(cell)


def test_runs_are_paired_by_task_and_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small(monkeypatch)
    entered = contenders({"again": replace(parse("uniform"), identity="again")})
    made = play(TASKS, entered, (0, 5), Pool(Here()), Results(Storage(str(tmp_path))))
    assert made.of["uniform"].shape == (2, 2)
    assert np.array_equal(made.of["again"], made.of["uniform"])
    assert np.array_equal(made.of["oracle"][0], made.of["uniform"][0])  # all samples of a clean task are clean
    assert not np.array_equal(made.of["oracle"][1], made.of["uniform"][1])


def test_what_was_interrupted_goes_on_and_no_run_is_made_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small(monkeypatch)
    kept, entered = Results(Storage(str(tmp_path))), {**contenders({}), "twin": contenders({})["oracle"]}
    interrupted, going_on, idle = Here(until=3), Here(), Here()
    with pytest.raises(KeyboardInterrupt):
        play(TASKS, entered, (0, 1), Pool(interrupted), kept)
    made = play(TASKS, entered, (0, 1), Pool(going_on), kept)
    assert (interrupted.runs, interrupted.runs + going_on.runs) == (6, len(CONTROLS) * len(TASKS) * 2)
    again = play(TASKS, entered, (0, 1), Pool(idle), kept)
    assert idle.runs == 0
    at_once = play(TASKS, entered, (0, 1), Pool(Here()), Results(Storage("memory://at-once")))
    assert made.detected == again.detected == at_once.detected
    assert list(made.detected) == [*CONTROLS, "twin"]
    play(TASKS, entered, (0, 2), Pool(idle), kept)
    assert idle.runs == len(CONTROLS) * len(TASKS)  # another seed is another run


def test_fixed_actions_prefer_what_their_names_say() -> None:
    """Of two samples that differ in loss alone, the one with the lower loss gains by "− 6·loss"."""
    table = SampleTable.empty(2, Signals(PAPER, 3))
    values = {"similarity": np.zeros(2), "loss": np.array([0.0, 1.0]), "probability": np.zeros((2, 3))}
    table.measure(np.arange(2), np.zeros(2, np.int64), table.signals.joined(values, (2,)))
    table.refresh(1.0)
    actions = {name: entry.actor(0).action for name, entry in fixed_actions().items()}  # type: ignore[attr-defined]
    low, high = log_weights(actions["draw by 0·similarity − 6·loss"], table)
    assert low > high
    low, high = log_weights(actions["draw by 0·similarity − -2·loss"], table)
    assert low < high
