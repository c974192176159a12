"""`bss research evaluate`: which seeds it runs, what it refuses to judge, and what it marks."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from bss_cli.commands import app
from bss_cli.research.evaluate import _by_task
from envs.research import comparison
from envs.research.comparison import HeldOut, Scores, Verdict
from envs.research.statistics import UNKNOWN, Interval
from tests.support.trained import made_up


class PlayedError(Exception):
    """In place of hours of runs."""


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments with which runs would have been made."""
    calls: list[Any] = []

    def play(*arguments: Any) -> NoReturn:
        calls.append(arguments)
        raise PlayedError

    monkeypatch.setattr(comparison, "play", play)
    return calls


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["research", "evaluate", *arguments])


def test_it_runs_as_many_seeds_as_asked_for_from_the_first_on(played: list[Any], tmp_path: Path) -> None:
    outcome = evaluate("balance", "--seeds", "4", "--first-seed", "30", "--out", str(tmp_path))
    assert isinstance(outcome.exception, PlayedError), outcome.output
    [(tasks, entered, seeds, *_)] = played
    assert list(seeds) == [30, 31, 32, 33]
    assert {task.source for task in tasks} == {"emoji", "watch"}
    assert "balance" in entered


def test_a_policy_is_not_judged_on_what_it_was_trained_on(played: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(made_up(training={"tasks": {"sources": ["synthetic:2", "watch"]}}))
    outcome = evaluate(str(path), "--out", str(tmp_path))
    assert outcome.exit_code == 1
    assert "watch is no held-out data for mine, which was trained on it" in outcome.output
    assert not played


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--executor", "ray", "--workers", "2"], "--workers goes with --executor processes"),
        (["--address", "here:1"], "--address goes with --executor ray, got 'here:1'"),
        (["--executor", "ray", "--address", "127.0.0.1:1"], "there is no cluster of Ray at 127.0.0.1:1"),
        (["--out", "nowhere://runs"], "nowhere"),
    ],
)
def test_where_it_computes_and_writes_is_checked_before_any_run(arguments: list[str], complaint: str) -> None:
    outcome = evaluate("balance", *arguments)
    assert outcome.exit_code in (1, 2)
    assert complaint in " ".join(outcome.output.split())


def test_without_ray_it_says_what_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "envs.research.executor.on_ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'bss-scheduler[ray]'" in evaluate("balance", "--executor", "ray").output


def test_only_what_the_interval_tells_from_0_is_starred() -> None:
    tasks = tuple(HeldOut(source, "clean") for source in ("better", "worse", "unclear"))
    gains = (Interval(1.0, 0.5, 1.5), Interval(-1.0, -1.5, -0.5), Interval(1.0, -0.5, 2.5))
    verdict = Verdict("mine", UNKNOWN, UNKNOWN, gains, {}, UNKNOWN, {}, {})
    scores = Scores(tasks, (0, 1), {"uniform": np.full((3, 2), 50.0)}, {})
    cells = list(_by_task(scores, [verdict]).columns[-1].cells)
    assert cells == ["+1.0*", "-1.0*", "+1.0 "]
