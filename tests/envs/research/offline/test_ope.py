"""`bss research ope`: what is printed of policies judged on a data set."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from bss_cli.commands import app
from bss_service.core.action import NAMED_ACTIONS
from bss_service.core.observation import FIELDS
from envs.research.offline.dataset import write
from envs.research.offline.runs import LoggedRun
from envs.research.offline.targets import FixedAction, load_policy

NAMES = list(NAMED_ACTIONS)


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def drawn_runs(count: int, decisions: int, deterministic: bool = False) -> list[LoggedRun]:
    """Runs of a policy that draws a named action in each decision; `hard` earns 1, all others 0, plus noise."""
    rng = np.random.default_rng(0)
    runs = []
    for k in range(count):
        arms = rng.integers(len(NAMES), size=decisions)
        vectors = np.stack([NAMED_ACTIONS[NAMES[arm]].to_vector() for arm in arms])
        runs.append(
            LoggedRun(
                name=f"run-{k}",
                observations=rng.uniform(-1, 1, (decisions + 1, len(FIELDS))).astype(np.float32),
                actions=vectors,
                clipped_actions=vectors,
                rewards=(arms == NAMES.index("hard")) + 0.1 * rng.normal(size=decisions),
                log_probabilities=np.full(decisions, 0.0 if deterministic else -np.log(len(NAMES))),
                first_steps=np.arange(decisions),
                policy_versions=np.ones(decisions, dtype=np.int64),
                terminated=True,
            )
        )
    return runs


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["research", "ope", *arguments])


def answer(*arguments: str) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = json.loads(result.output)
    return parsed


def test_the_better_of_two_policies_is_told() -> None:
    write("bss/short-v0", drawn_runs(300, decisions=1))

    hard, uniform = answer("bss/short-v0", "--policy", "hard", "--policy", "uniform")["policies"]

    assert (hard["verdict"], uniform["verdict"]) == ("better", "worse")
    for estimate in hard["estimates"]:
        assert estimate["value"] == pytest.approx(1, abs=0.35)
        assert estimate["low"] < estimate["high"]
        assert 30 < estimate["effective_sample_size"] < 70  # about a sixth of 300


def test_over_many_decisions_a_fixed_action_was_never_followed() -> None:
    write("bss/long-v0", drawn_runs(50, decisions=10))

    (judged,) = answer("bss/long-v0", "--policy", "hard")["policies"]

    assert judged["verdict"] == "can't tell"
    assert "never takes the actions of any logged run" in judged["reason"]


def test_a_deterministic_log_can_not_tell() -> None:
    write("bss/certain-v0", drawn_runs(50, decisions=1, deterministic=True))

    (judged,) = answer("bss/certain-v0", "--policy", "hard")["policies"]

    assert judged["verdict"] == "can't tell"
    assert "deterministic" in judged["reason"]


def test_a_table_for_people() -> None:
    write("bss/short-v0", drawn_runs(300, decisions=1))

    result = invoke("bss/short-v0", "--policy", "hard")

    assert result.exit_code == 0, result.output
    for word in ("hard on 300 runs", "the log itself", "IPS", "SNIPS", "PDIS", "WPDIS", "DR", "FQE", "better: by DR"):
        assert word in result.output


def test_a_data_set_that_is_not_there_and_a_policy_without_probabilities_are_refused() -> None:
    write("bss/short-v0", drawn_runs(5, decisions=1))

    for arguments, sentence in (
        (("bss/none-v0", "--policy", "hard"), "there is no data set 'bss/none-v0' here"),
        (("bss/short-v0", "--policy", "curriculum"), "got 'curriculum'"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert sentence in " ".join(result.output.split())


def test_a_fixed_action_is_certain_of_itself_alone() -> None:
    hard = load_policy("hard")
    assert isinstance(hard, FixedAction)
    vectors = np.stack([NAMED_ACTIONS[name].to_vector() for name in ("hard", "anti")])

    assert hard.log_probability(np.zeros((2, len(FIELDS))), vectors).tolist() == [0.0, -np.inf]


def test_the_command_line_loads_nothing_that_takes_long() -> None:
    heavy = ("torch", "minari", "scipy", "h5py", "pandas")
    program = f"import sys, bss_cli.commands; print([name for name in {heavy} if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
