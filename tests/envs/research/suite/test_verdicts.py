"""What is said of made-up scores."""

from typing import Any

import numpy as np
import pytest

from envs.research.suite.report import criteria_figure, headline, lines
from envs.research.suite.running import Played
from envs.research.suite.spec import Suite
from envs.research.suite.verdicts import judge

FIGURES = {"accuracy": 0.5, "macro_f1": 0.5, "map": 0.5, "gap": 0.1, "ratio": 1.2, "difference": 0.1} | {
    name: {"left": 0.5, "right": 0.4} for name in ("heads", "shapley")
}


def played(**gains: float) -> Played:
    """Two tasks, five seeds; methods differ from `uniform` in points, which has 40 % at the epoch that validation
    chooses, the second, and 43 % at the best of the test set, the third."""
    methods: dict[str, Any] = {name: {} for name in ("uniform", *gains)}
    criteria = {"balance": {"curriculum": [*methods][1], "anti": [*methods][-1]}}
    suite = Suite.model_validate(
        {"tasks": {"a": {"data": "emoji"}, "b": {"data": "watch"}}, "methods": methods, "criteria": criteria}
    )
    rng = np.random.default_rng(0)
    runs = {}
    for task in suite.tasks:
        for seed in range(5):
            common = rng.normal(scale=3)
            for name in methods:
                own = (40 + common + gains.get(name, 0.0) + rng.normal(scale=0.1)) / 100
                test = [own - 0.1, own, own + 0.03]
                costs = {"seconds": 1.0, "forward_samples": 10}
                runs[task, name, seed] = {"epoch": 1, "test": test, "figures": FIGURES, **costs}
    return Played(suite, {}, {(t, m): {} for t in suite.tasks for m in methods}, runs)


def test_the_gap_is_what_choosing_on_the_test_set_adds() -> None:
    judged = judge(played(mine=0.0))
    assert [judged.gaps[name].value for name in ("uniform", "mine")] == pytest.approx([3, 3])
    assert judged.on_test["mine"] == pytest.approx(judged.accuracy["mine"] + 3)


def test_a_gap_by_hand() -> None:
    made = played(mine=0.0)
    for (task, _, _), run in made.runs.items():
        run["test"] = [0.2, 0.5, 0.6] if task == "a" else [0.7, 0.5, 0.4]
    gap = judge(made).gaps["mine"]
    assert gap.value == pytest.approx(15)  # of five times 10 and five times 20, the middle six


def test_intervals_are_wider_the_more_methods_there_are() -> None:
    few = judge(played(mine=1.0)).verdicts[0]
    many = judge(played(mine=1.0, **{f"m{k}": 0.0 for k in range(4)})).verdicts[0]
    assert few.gain == few.uncorrected
    assert many.gain.low < many.uncorrected.low < many.uncorrected.high < many.gain.high


def test_the_first_sentence_says_who_wins_and_who_loses() -> None:
    made = played(better=2.0, same=0.0, worse=-2.0)
    told = headline(made, judge(made))
    assert told.startswith("`better` (+2.0 [")
    assert "beats `uniform` over 2 tasks and 5 paired seeds" in told
    assert "`worse` (−2.0 [" in told and "loses to it, and 1 can't be told from it" in told


def test_the_first_sentence_says_so_where_nobody_wins() -> None:
    made = played(same=0.0, worse=-2.0)
    assert headline(made, judge(made)).startswith("No method beats `uniform` over 2 tasks and 5 paired seeds")


def test_the_report_says_where_nobody_wins_and_what_the_test_set_would_have_added() -> None:
    made = played(better=2.0, same=0.0)
    text = "\n".join(lines(made, judge(made), "made"))
    assert "- a: better are `better` +2." in text
    assert "Nobody beats" not in text
    assert "`uniform` would have 3.00 [3.00, 3.00] points more" in text
    made = played(same=0.0)
    assert "- Nobody beats `uniform` on: a; b." in "\n".join(lines(made, judge(made), "made"))


def test_the_figure_of_criteria_has_plain_shuffling_between_both_orders() -> None:
    made = played(easy=2.0, hard=-2.0)
    figure = criteria_figure(made, judge(made))
    assert [figure.count(f">{name}</text>") for name in ("curriculum", "plain", "anti-curriculum")] == [1, 1, 1]
    assert figure == criteria_figure(made, judge(made))
