"""What a suite's file may say."""

from pathlib import Path

import pytest

from envs.research.suite.spec import read_suite, shipped
from tests.envs.research.suite.conftest import SUITE


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[methods.other]\nrival = 'mine'", "method 'other': rival must be one of"),
        ("[methods.other]\npolicy = 'mine'", "method 'other': policy must be one of"),
        ("[methods.other]\nrival = 'agm'\nparameters = {alpha = -1}", "parameter alpha of rival agm"),
        ("[methods.other]\npolicy = 'balance'\ntune = {ema = [0.2, 3.0]}", "method 'other'"),
        ("[methods.other]\npolicy = 'balance'\ntune = {ema = [0.9, 0.2]}", "range of ema must be two numbers above 0"),
        ("[methods.other]\nparameters = {alpha = 1}", "file and parameters belong to a rival"),
        ("[criteria.loss]\ncurriculum = 'mine'\nanti = 'nobody'", "method 'nobody' is named, and is none of uniform"),
        ("[tasks.more]\ndata = 'emoji'\nnoisy_labels = 2", "tasks.more.noisy_labels"),
        (
            "[tasks.more]\ndata = 'emoji'\npublished = {bss = [80.0]}",
            "published of more must be of uniform, mine, got one",
        ),
        (
            "[tasks.more]\ndata = 'emoji'\ntraining = {learning_rate = [1, 0.1]}",
            "range of learning_rate must be two numbers",
        ),
        ("[tasks.more]\ndata = 'emoji'\ntraining = {logits = 'all'}", "tasks.more.training.logits"),
        ("[methods.other]\nas_many_as = 'nobody'", "as_many_as of other must be a method of its own, got 'nobody'"),
        ("[settings]\nseeds = 3", "settings: Extra inputs are not permitted"),
        ("seeds", "wrong.toml: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "wrong.toml").write_text(f"{SUITE}\n{line}\n")
    with pytest.raises(ValueError) as refused:
        read_suite(str(tmp_path / "wrong.toml"), tmp_path)
    assert told in str(refused.value)


def test_a_suite_may_be_json(tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text('{"tasks": {"a": {"data": "emoji"}}, "methods": {"uniform": {}, "b": {}}}')
    assert read_suite(str(tmp_path / "tiny.json"), tmp_path).seeds == 5


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"suite must be one of .*small.* or a \.toml or \.json file, got 'smal'"):
        read_suite("smal", Path())


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_can_be_run(name: str) -> None:
    suite = read_suite(name, Path("data"))
    assert suite.baseline in suite.methods and suite.seeds >= 5
