import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_service.policies import artefact
from envs.research.training import learners
from envs.tasks import Distribution

RUNNER = CliRunner()
TASKS = Distribution(("synthetic:2",), ("noisy_labels",), samples=(64, 96), intervals=(3, 4), validation=(20, 30))


def research(*arguments: object) -> str:
    """What a command prints on standard output."""
    result = RUNNER.invoke(app, ["research", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks and searches of a size for tests."""
    monkeypatch.setattr("envs.research.training.learners.training_tasks", lambda: TASKS)
    monkeypatch.setattr(learners, "Search", lambda space, tasks, seed: SEARCH(space, tasks, seed, 3, 2))


SEARCH = learners.Search


@pytest.mark.usefixtures("small")
def test_a_policy_is_trained_interrupted_resumed_and_exported(tmp_path: Path) -> None:
    research("train", tmp_path / "whole", "--algorithm", "search", "--iterations", 2, "--workers", 1)
    research("train", tmp_path / "run", "--algorithm", "search", "--iterations", 1, "--workers", 1)
    output = research("train", tmp_path / "run", "--resume", "--iterations", 2, "--workers", 1)
    assert output.startswith("2/2  ")
    policies = [artefact.read((tmp_path / run / "policy.safetensors").read_bytes()) for run in ("whole", "run")]
    assert all((policies[0].tensors[name] == policies[1].tensors[name]).all() for name in policies[0].tensors)
    assert policies[1].manifest.training["iterations"] == 2
    assert list((tmp_path / "run" / "tensorboard").iterdir())

    output = research("export", tmp_path / "run", tmp_path / "mine.safetensors", "--name", "mine")
    exported = artefact.read((tmp_path / "mine.safetensors").read_bytes())
    assert exported.manifest.name == "mine"
    assert exported.sha256 in output
    assert json.loads((tmp_path / "mine.json").read_text()) == exported.manifest.model_dump(mode="json")


@pytest.mark.usefixtures("small")
def test_an_export_carries_what_was_said_of_this_very_policy(tmp_path: Path) -> None:
    research("train", tmp_path / "run", "--algorithm", "search", "--iterations", 1, "--workers", 1)
    trained = artefact.read((tmp_path / "run" / "policy.safetensors").read_bytes())
    judged = {
        "policies": {"run": trained.sha256, "other": "0" * 64},
        "tasks": ["emoji, clean"],
        "seeds": [0, 1],
        "verdicts": {"run": {"gain": [0.5, 0.1, 0.9]}, "best fixed in hindsight": {"gain": [1, 0, 2]}},
    }
    (tmp_path / "judged.json").write_text(json.dumps(judged))
    asked = ("export", tmp_path / "run", tmp_path / "mine.safetensors", "--evaluation", tmp_path / "judged.json")
    research(*asked)
    evaluation = artefact.read((tmp_path / "mine.safetensors").read_bytes()).manifest.evaluation
    assert evaluation is not None
    assert evaluation["verdicts"]["policy"]["gain"] == [0.5, 0.1, 0.9]

    (tmp_path / "judged.json").write_text(json.dumps({**judged, "policies": {"run": "0" * 64}}))
    refused = RUNNER.invoke(app, ["research", *map(str, asked)])
    assert refused.exit_code != 0
    assert trained.sha256[:12] in refused.output


@pytest.mark.usefixtures("small")
def test_it_says_how_far_an_iteration_is_and_a_run_is_not_written_over(tmp_path: Path) -> None:
    """On standard error. A search of 3 candidates, its mean and its start makes runs of two tasks."""
    arguments = ["research", "train", str(tmp_path / "run"), "--algorithm", "search"]
    once = RUNNER.invoke(app, [*arguments, "--iterations", "1", "--workers", "1"])
    assert (len(once.stdout.splitlines()), once.stderr.splitlines()[-1]) == (1, "1/1  10 of 10 runs")
    again = RUNNER.invoke(app, arguments)
    assert again.exit_code != 0
    assert "--resume" in again.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--algorithm", "magic"], "magic"),
        (["--algorithm", "sac", "--begin-with", "elsewhere"], "ppo"),
        (["--algorithm", "ppo", "--begin-with", "elsewhere"], "elsewhere"),
        (["--resume"], "no run"),
        (["--algorithm", "ppo", "--executor", "ray"], "--executor ray makes whole runs"),
        (["--source", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_refused_and_leave_nothing(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["research", "train", str(tmp_path / "run"), *arguments])
    assert result.exit_code != 0
    assert complaint in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()
