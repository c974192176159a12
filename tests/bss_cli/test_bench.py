"""`bss bench run`: what it refuses before anything is trained."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bss_cli.commands import app


@pytest.mark.parametrize(
    ("suite", "told"),
    [
        ("smal", "suite must be one of all, paper, small or a .toml or .json file, got 'smal'"),
        ("none.toml", "none.toml"),
        ("small --task emoji", "task must be one of emoji, noisy 40 %, watch, flipped 30 %, avdigits,"),
        ("small --method mine", "method must be one of uniform, bss_h,"),
        ("small --method uniform", "method must be another than 'uniform', which all are held against"),
        ("paper", "must have a folder of the name of one of the sets at least, none is there of CREMA-D (crema-d), "),
        ("wrong.toml", "wrong.toml: seeds: Input should be greater than or equal to 2, got 1"),
    ],
)
def test_a_wrong_suite_is_refused(suite: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tasks_and_methods = '[tasks.a]\ndata = "emoji"\n[methods.uniform]\n[methods.b]\n'
    Path("wrong.toml").write_text(f"seeds = 1\n{tasks_and_methods}")
    outcome = CliRunner().invoke(app, ["bench", "run", *suite.split()])
    assert outcome.exit_code == 2
    assert told in " ".join(outcome.output.split())
    assert not Path("suites").exists()
