"""How Gymnasium comes to the environments, in a process that has imported nothing of ours."""

import subprocess
import sys
from pathlib import Path

import pytest

import envs

MAKE = """
import sys
import gymnasium

assert not [name for name in sys.modules if name.startswith(("envs", "bss_service"))]
env = gymnasium.{call}
print(type(env.unwrapped).__name__)
env.close()
import envs
"""


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ('make("envs:BalanceScheduling-v0")', "BalanceScheduling"),
        ('make("envs:BalanceScheduling-Discrete-v0")', "DiscreteBalanceScheduling"),
        ('make("envs:ServedScheduling-v0")', "ServedScheduling"),
        ('make_vec("envs:BalanceScheduling-v0", num_envs=2)', "VectorBalanceScheduling"),
        ('make_vec("envs:BalanceScheduling-Discrete-v0", num_envs=2)', "VectorDiscreteBalanceScheduling"),
    ],
)
def test_an_id_that_names_the_package_needs_no_import(tmp_path: Path, call: str, kind: str) -> None:
    command = [sys.executable, "-W", "error", "-c", MAKE.format(call=call)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (kind, "")


def test_every_public_name_is_there() -> None:
    assert {name: getattr(envs, name).__name__ for name in envs.__all__} == {name: name for name in envs.__all__}
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        envs.nonesuch  # noqa: B018
