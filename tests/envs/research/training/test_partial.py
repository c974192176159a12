"""The judge of few signals is trained in simulation: the same one for a seed, one that makes do with what there is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_service.core.evidence.partial import NAMES, PartialFeatures
from bss_service.core.evidence.posterior import Evidence
from envs.research.training import partial
from envs.research.training.evidence import Group
from envs.research.training.judging import START
from envs.research.training.partial import MISSING, PartialRun, Rows, auc_of, fit, train_partly_judged
from envs.students import Students
from tests.envs.lessons import lesson_of


def test_what_can_be_read_off_a_signal_is_learnt_and_missed_where_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partial, "BATCH", 256)
    rng = np.random.default_rng(0)
    of_sample = rng.standard_normal((4000, len(NAMES))).astype(np.float32)
    rows = Rows(of_sample, of_sample[:, NAMES.index("similarity")] + 0.5 * of_sample[:, NAMES.index("loss")] > 0)
    judge, _ = fit(rows, 300, seed=0)
    found = {missing: auc_of(judge, rows, missing) for missing, _ in MISSING}
    assert found[()] > 0.95
    for missing, value in found.items():
        assert value > 0.6
        assert (value > 0.9) == ("similarity" not in missing)


class Disbeliever:
    """Takes labels for wrong that are, if it sees a similarity."""

    def __init__(self, wrong: np.ndarray) -> None:
        self.wrong = wrong

    def judge(self, samples: int, unimodal: int, read: PartialFeatures) -> Evidence:
        sees = read.of_sample[:, NAMES.index("knows_similarity")].any()
        right = np.where(self.wrong & sees, 0.1, 0.9).astype(np.float32)
        return Evidence(right, np.zeros_like(right), np.zeros((samples, unimodal), np.float32))


@pytest.mark.parametrize(("missing", "left_out"), [((), 80), (("similarity",), 0)])
def test_a_run_is_judged_by_the_signals_that_it_has(missing: tuple[str, ...], left_out: int) -> None:
    wrong = np.arange(320) < 80
    students = Students(1, 2, 7, 3, 16, tested=False, evidence=True)
    made = replace(lesson_of((7, 5), 3, len(wrong)), wrong_label=wrong)
    students.enrol(0, made, np.random.default_rng(0))
    judge: Any = Disbeliever(wrong)
    run = PartialRun(made, 16, np.random.default_rng(1), judge=judge, missing=missing)
    collected = train_partly_judged(students, [run], START + 4, rows=20)
    assert (run.left_out.sum(), (run.left_out & ~wrong).any()) == (left_out, False)
    assert collected.of_sample.shape == (20 * 5, len(NAMES))  # before epochs 1, 2, 3, 4 and 6
    assert not collected.right.all()


def test_the_command_writes_the_numbers_and_how_they_came_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Group.draw

    def draw(rng: np.random.Generator) -> Group:
        group = drawn(rng)
        return replace(group, size=replace(group.size, samples=300), number=2, epochs=5)

    monkeypatch.setattr(Group, "draw", draw)
    monkeypatch.setattr(partial, "BATCH", 64)
    written = []
    for name in ("one", "other"):
        out = tmp_path / f"{name}.safetensors"
        result = CliRunner().invoke(app, ["research", "train", "evidence", str(out), "--partial", "--scale", "0.01"])
        assert result.exit_code == 0, result.output
        assert "round 2/2  rows" in result.stdout
        written.append(safetensors.numpy.load_file(out))
        with safetensors.safe_open(out, "np") as file:
            training = json.loads(file.metadata()["training"])
        assert training["command"] == f"bss research train evidence {out.name} --seed 0 --scale 0.01 --partial"
        assert list(training["auc"]) == [
            "loss, joint probability, unimodal ones, similarity",
            "loss, joint probability, unimodal ones",
            "loss, joint probability",
            "loss, similarity",
            "loss",
        ]
    assert set(written[0]) == {f"{part}_{k}" for part in ("weight", "bias") for k in range(3)}
    for name, values in written[0].items():
        np.testing.assert_array_equal(values, written[1][name])
