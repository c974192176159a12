"""A family of tasks that is really installed: by its name it is played, trained on and judged on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.packages import install

PACKAGE = Path(__file__).parents[2] / "examples/task_package"
PLAY = """
import gymnasium
from envs.research.comparison import held_out

env = gymnasium.make("envs:BalanceScheduling-v0", tasks="spirals", judged=True)
_, info = env.reset(seed=3)
done = False
while not done:
    _, _, terminated, truncated, last = env.step(env.action_space.sample())
    done = terminated or truncated
print(info["task"]["source"], truncated, last["test_accuracy"] > 0.4)
print([task.name for task in held_out(["spirals"])])
"""


def run(*command: str, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_environment_takes_it_by_name(tmp_path: Path) -> None:
    output = run("-c", PLAY, environment=install(PACKAGE, tmp_path), folder=tmp_path)
    assert output.splitlines() == ["spirals True True", "['spirals, own harm']"]


@pytest.mark.long
def test_a_policy_is_trained_on_it(tmp_path: Path) -> None:
    arguments = ("research", "train", "run", "--source", "spirals", "--algorithm", "search", "--iterations", "1")
    output = run("-m", "bss_cli", *arguments, environment=install(PACKAGE, tmp_path), folder=tmp_path)
    assert output.startswith("1/1  ")
