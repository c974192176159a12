"""The reference trainer's command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.services import Service
from trainer_client.reference import __main__ as command

N = 30


def made(path: Path, **changes: Any) -> Path:
    """A file of two modalities, with arrays changed or (None) left out."""
    arrays = {
        "audio": np.zeros((N, 4)),
        "video": np.zeros((N, 3)),
        "y": np.arange(N) % 2,
        "split": (np.arange(N) % 3).astype(np.uint8),
        "modalities": np.array(["audio", "video"]),
        "classes": np.array(["even", "odd"]),
    } | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["trainer_client.reference", *arguments])
    return command.main()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y": None}, "array 'y' is missing, it holds audio, video, split, modalities, classes"),
        ({"video": None}, "array 'video' is missing, it holds audio, y, split, modalities, classes"),
        ({"y": np.arange(N)}, "array 'y': labels must be 0 to 1, got 2 in row 2"),
        ({"y": np.ones(N)}, "array 'y': labels must be int64 of shape (n,), got float64 of shape (30,)"),
        ({"y": np.ones((N, 1), int)}, "array 'y': labels must be int64 of shape (n,), got int64 of shape (30, 1)"),
        ({"audio": np.zeros((9, 4))}, "modality 'audio' must have one row for each of 30 labels, got 9"),
        (
            {"audio": np.array([[None]] * N, object)},
            "array 'audio': Object arrays cannot be loaded when allow_pickle=False",
        ),
    ],
)
def test_wrong_data_ends_in_one_sentence_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: Any, sentence: str
) -> None:
    folder = tmp_path / "[red]"  # a path is no markup
    folder.mkdir()
    path = made(folder / "made.npz", **changes)
    assert run(monkeypatch, "--data", str(path)) == 2
    assert capsys.readouterr().out == f"ValueError: cannot load {path}: {sentence}\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "there is no such file"), (b"hello", "it is not a whole .npz file: File is not a zip file")],
)
def test_no_data_ends_in_one_sentence_and_status_2(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "some.npz"
    if content is not None:
        path.write_bytes(content)
    line = [sys.executable, "-m", "trainer_client.reference", "--data", str(path), "--json"]
    ended = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith(f"Error: cannot load {path}: {sentence}\n")
    assert ended.stderr.count("\n") == 1


def test_an_unknown_data_set_is_wrong_data_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--data", "emojis") == 2
    assert "data must be one of emoji, watch or a path ending in .npz, got 'emojis'" in capsys.readouterr().out


def test_a_wrong_share_of_noise_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "--data", str(made(tmp_path / "made.npz")), "--noisy-labels", "2") == 1
    assert "noisy_labels must be a share from 0 to 1, got 2.0" in capsys.readouterr().out


def test_a_rival_and_its_parameters_are_chosen_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, service: Service
) -> None:
    line = ["--data", str(made(tmp_path / "rivals.npz")), "--url", service.url, "--batch-size", "5", "--epochs", "1"]
    line += ["--json", "--fusion", "sum", "--rival", "ogm_ge", "--rival-param"]
    assert run(monkeypatch, *line, "alpha=0.1") == 0
    assert json.loads(capsys.readouterr().out)["best_epoch"] == 0
    assert run(monkeypatch, *line, "alpha=0", "--if-exists", "new") == 1
    assert "parameter alpha of rival ogm_ge: Input should be greater than 0, got 0" in capsys.readouterr().err
    with service.client() as client:
        names = [job.spec.name for job in client.jobs().jobs if "rivals.npz" in job.spec.name]
    assert names == ["rivals.npz-uniform-ogm_ge-0"]  # what was wrong has made no job


def test_what_belongs_to_public_sets_is_not_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--data", "emoji", "--split", "actors") == 2
    assert "--split and --leave-out belong to a public SET:FOLDER, got --data emoji" in capsys.readouterr().out
