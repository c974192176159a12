"""A judge is trained in simulation: the same one for a seed, and one that knows more than nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_service.core.evidence.features import FIELDS, MODALITY_FIELDS, Features
from bss_service.core.evidence.posterior import Evidence
from bss_service.policies.artefact import read_judge
from envs.research.training import evidence
from envs.research.training.evidence import KINDS, Group, fit, simulate, train_judge
from envs.research.training.judging import BELIEF, START, JudgedRun, Rows, train_judged
from envs.research.training.networks import Kind
from envs.research.training.worlds import Size
from envs.students import Students
from tests.envs.lessons import lesson_of


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a size for tests."""
    drawn = Group.draw

    def draw(rng: np.random.Generator) -> Group:
        group = drawn(rng)
        return replace(group, size=replace(group.size, samples=300), number=2, epochs=7)

    monkeypatch.setattr(Group, "draw", draw)
    monkeypatch.setattr(evidence, "BATCH", 64)


class Disbeliever:
    """Takes some samples' labels for wrong."""

    def __init__(self, wrong: np.ndarray) -> None:
        self.wrong = wrong

    def judge(self, samples: int, features: Features) -> Evidence:
        right = np.where(self.wrong, 0.1, 0.95).astype(np.float32)
        return Evidence(right, 1 - right, np.zeros((samples, features.of_modality.shape[1]), np.float32))


def run_of(wrong: np.ndarray, pull: float = 1.5) -> tuple[Students, JudgedRun]:
    lesson = lesson_of((7, 5), 3, len(wrong))
    students = Students(1, 2, 7, 3, 16, tested=False, evidence=True)
    students.enrol(0, lesson, np.random.default_rng(0))
    judge = Disbeliever(wrong).judge
    return students, JudgedRun(lesson, 16, np.random.default_rng(1), judge=judge, pull=pull, confusion=True)


@pytest.mark.parametrize(("epochs", "share"), [(START, 0.0), (START + 1, 1 / 3), (START + 3, 1.0)])
def test_what_is_disbelieved_is_left_out_step_by_step(epochs: int, share: float) -> None:
    wrong = np.arange(320) < 160
    students, run = run_of(wrong)
    train_judged(students, [run], epochs, rows=0)
    assert not (run.left_out & ~wrong).any()
    assert run.left_out[wrong].mean() == pytest.approx(share, abs=0.15)  # standard error at most 0.04


def test_what_is_left_out_is_probed_with_no_weight_and_there_is_a_pull() -> None:
    wrong = np.arange(320) < 160
    students, run = run_of(wrong)
    train_judged(students, [run], START + 3, rows=0)
    indices, weights, pull = run.draw()
    assert weights is not None
    np.testing.assert_array_equal(weights == 0, run.left_out[indices])
    assert (weights == 0).sum() == int(0.12 * 320)
    np.testing.assert_allclose(weights.mean(axis=1), 1, rtol=1e-5)
    assert pull == 1.5


def test_of_samples_that_are_believed_nothing_is_left_out_or_pulled() -> None:
    students, run = run_of(np.zeros(96, np.bool_))
    train_judged(students, [run], START + 3, rows=0)
    indices, weights, pull = run.draw()
    assert (weights, pull) == (None, 0.0)
    assert sorted(indices.reshape(-1)) == list(range(96))


def test_a_judge_is_the_same_for_a_seed_and_belongs_to_no_other(small: None) -> None:
    (one, known), (other, _), (another, _) = (train_judge(seed, scale=0.01) for seed in (3, 3, 4))
    for layers, same, different in zip(
        (*one.label, *one.modality), (*other.label, *other.modality), (*another.label, *another.modality), strict=True
    ):
        np.testing.assert_array_equal(layers[0], same[0])
        assert (layers[0] != different[0]).any()
    assert known["rows"] > 0
    assert known["label_loss"] < np.log(3)
    assert 0 <= known["calibration_error"] <= 1


@pytest.mark.parametrize("kind", [kind for _, kind in KINDS], ids=str)
def test_every_kind_of_student_gives_rows(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    group = Group(Size(300, 3, signals=kind.convolutions), kind, number=2, batch_size=32, epochs=3, rate=0.01)
    monkeypatch.setattr(Group, "draw", lambda rng: group)
    rows = simulate([1], None)
    assert rows.of_sample.shape == (200, len(FIELDS))
    assert rows.of_modality.shape == (200, len(MODALITY_FIELDS))
    assert set(rows.epoch) == {1, 2}
    assert np.isfinite(rows.of_sample).all()


def test_what_can_be_read_off_a_feature_is_learnt() -> None:
    rng = np.random.default_rng(0)
    of_sample = rng.standard_normal((4000, len(FIELDS))).astype(np.float32)
    of_modality = rng.standard_normal((4000, len(MODALITY_FIELDS))).astype(np.float32)
    outcome = np.where(of_sample[:, 3] > 0, 0, np.where(of_sample[:, 5] > 0, 1, 2))
    rows = Rows(of_sample, outcome, of_modality, of_modality[:, 2] > 0, np.zeros(4000, np.int64))
    judge, losses = fit(rows, 300, seed=0)
    assert losses["label_loss"] < 0.3
    judged = judge.judge(4000, Features(np.arange(4000), of_sample, of_modality[:, None]))
    assert ((judged.right > BELIEF) == (outcome == 0)).mean() > 0.95
    assert ((judged.wrong_modality[:, 0] > 0.5) == rows.wrong_modality).mean() > 0.95


def test_the_command_writes_a_judge_and_says_what_it_read(small: None, tmp_path: Path) -> None:
    out = tmp_path / "evidence.safetensors"
    result = CliRunner().invoke(app, ["research", "train", "evidence", str(out), "--seed", "5", "--scale", "0.01"])
    assert result.exit_code == 0, result.output
    assert "round 3/3  rows" in result.stdout
    assert "round 3/3  1 of 1 groups of runs" in result.stderr
    judge, known = train_judge(5, scale=0.01)
    written = read_judge(out.read_bytes())
    for name, layers in (("label", judge.label), ("modality", judge.modality)):
        for mine, theirs in zip(getattr(written.judge(), name), layers, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[0])
            np.testing.assert_array_equal(mine[1], theirs[1])
    command = "bss research train evidence evidence.safetensors --seed 5 --scale 0.01"
    assert written.manifest.training == json.loads(json.dumps({"command": command, **known}))
    assert written.manifest.evaluation is None  # what it is worth on real runs is not known from simulated ones
