"""Public sets as tasks of a suite: found below a folder, refused unless whole, trained on by the protocol."""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bss_cli.commands import app
from bss_cli.research import bench
from envs.research.suite import cells, public, running, spec
from envs.research.suite.spec import LEARNING_RATE, Suite, read_suite
from tests.envs.research.suite.conftest import Here
from tests.trainer_client.reference.datasets.test_crema_d import TEST, TRAIN, plain
from tests.trainer_client.reference.datasets.test_pictures_and_texts import twitter_plain
from trainer_client.reference import encoders, recipes
from trainer_client.reference.datasets import SETS, read_set
from trainer_client.reference.datasets.reading import Published
from trainer_client.reference.recipes import PAPER

SUITE = """
seeds = 2
trials = 1

[tasks."CREMA-D"]
data = "crema-d"
encoders = {audio = "small", video = "small"}
training = {epochs = 2, batch_size = 4}
published = {bss_l = [82.80, 88.61]}

[tasks.Twitter2015]
data = "twitter2015"
encoders = {image = "small", text = "small"}
training = {epochs = 2, batch_size = 2, learning_rate = [1e-3, 1e-2]}

[tasks.VGGSound]
data = "vggsound"

[methods.uniform]

[methods.bss_l]
policy = "balance"

"""


@pytest.fixture(scope="module", autouse=True)
def as_many_published() -> Iterator[None]:
    """As if the sets that tests make were all there are; small pictures, and nothing is decoded by other processes."""
    counts = {"crema-d": (len(TRAIN), 0, len(TEST))}
    with pytest.MonkeyPatch.context() as patch:
        made = {name: replace(SETS[name], published=[Published("the test", *own)]) for name, own in counts.items()}
        exact = {"twitter2015": replace(SETS["twitter2015"], published=[])}
        patch.setattr(public, "SETS", {**SETS, **made, **exact})
        patch.setattr(running, "MOST_LOADERS", 0)
        patch.setattr(recipes, "RECIPES", {name: replace(own, side=16) for name, own in recipes.RECIPES.items()})
        yield
    forget()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the three sets, in folders whose names are written otherwise than the suite's."""
    root = tmp_path_factory.mktemp("sets")
    plain(root / "CREMA_D")
    twitter_plain(root / "twitter2015")
    (root / "three.toml").write_text(SUITE)
    return root


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    """The folder of a run without interruption."""
    out = root / "whole"
    with pytest.MonkeyPatch.context() as patch:
        result = run(patch, root, out)
        assert result.exit_code == 0, result.output
    return out


def run(patch: pytest.MonkeyPatch, root: Path, out: Path, *more: str, most: int = 1000) -> Result:
    """`bss bench run`, its runs made in this process."""
    forget()
    patch.setattr(bench, "executor", lambda *_, **options: nullcontext(Here(most)))
    return CliRunner().invoke(
        app, ["bench", "run", f"{root}/three.toml", "--data", str(root), "--out", str(out), *more]
    )


def forget() -> None:
    for remembered in (public._listed, public._loaded, public._fingerprint):
        remembered.cache_clear()


def kept(out: Path) -> dict[str, Any]:
    """What was kept of runs, but for seconds."""
    read = {path.name: json.loads(path.read_text()) for path in (out / "runs").glob("*.json")}
    for each in read.values():
        each["result"].pop("seconds")
    return read


def test_the_sets_that_are_there_are_run_and_the_others_named(whole: Path) -> None:
    report = (whole / "report.md").read_text()
    assert "- Left out, since their data were not there: VGGSound (vggsound)." in report
    index = read_set(whole.parent / "CREMA_D", "crema-d")
    counts = ", ".join(f"{count} {split}" for split, count in index.counts().items())
    assert f"- CREMA-D: {counts}; official split." in report
    assert "| method | CREMA-D | Twitter2015 |" in report
    runs = [json.loads(line) for line in (whole / "runs.jsonl").read_text().splitlines()]
    assert {(run["task"], run["method"], run["seed"]) for run in runs} == {
        (task, method, seed)
        for task in ("CREMA-D", "Twitter2015")
        for method in ("uniform", "bss_l")
        for seed in range(2)
    }
    assert all(len(run["test"]) == len(run["validation"]) == 2 for run in runs)


def test_what_was_published_stands_beside_what_came_of_it_by_either_choice_of_epoch(whole: Path) -> None:
    report = (whole / "report.md").read_text()
    runs = [json.loads(line) for line in (whole / "runs.jsonl").read_text().splitlines()]
    own = [run for run in runs if (run["task"], run["method"]) == ("CREMA-D", "bss_l")]
    chosen = 100 * sum(run["test"][run["epoch"]] for run in own) / 2
    on_test = 100 * sum(max(run["test"]) for run in own) / 2
    assert f"| `bss_l` | 82.80 / 88.61; here {chosen:.1f}, {on_test:.1f} |" in report
    assert f"{chosen:.1f}** ({on_test:.1f})" in report or f"| {chosen:.1f} ({on_test:.1f})" in report


def test_interrupted_and_gone_on_with_it_comes_to_the_same(
    root: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the paired seeds of one of the tasks, of which two methods have a trial and two seeds."""
    assert run(monkeypatch, root, tmp_path, "--task", "CREMA-D", most=4).exit_code == 130
    assert len(kept(tmp_path)) == 4
    assert run(monkeypatch, root, tmp_path, "--task", "CREMA-D").exit_code == 0
    assert kept(tmp_path).items() <= kept(whole).items() and len(kept(tmp_path)) == 6


@pytest.mark.long
def test_the_command_of_the_page_makes_the_papers_row_of_crema_d(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sixteen runs, by networks of a size for tests, and for one epoch."""
    page = (Path(__file__).parents[4] / "docs/how-to/suites.md").read_text()
    [written] = re.findall(r"^bss (bench run paper --data data --task CREMA-D --method bss_l)\b", page, re.MULTILINE)
    tiny = {name: {**form, "depths": [1] * 4, "hidden_sizes": [8] * 4} for name, form in encoders.RESNETS.items()}
    monkeypatch.setattr(encoders, "RESNETS", tiny)
    monkeypatch.setattr(encoders, "STEM", 8)
    monkeypatch.setattr(spec, "PAPER", {**PAPER, "crema-d": replace(PAPER["crema-d"], epochs=1, batch_size=4)})
    monkeypatch.setattr(bench, "executor", lambda *_, **options: nullcontext(Here()))
    forget()
    arguments = [str(root) if each == "data" else each for each in written.split()]
    made = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert made.exit_code == 0, made.output
    assert "1 × 2 × (3 + 5) = 16 runs" in made.output
    report = (tmp_path / "report.md").read_text()
    assert "| `uniform` | 72.40; here " in report and "| `bss_l` | 82.80 / 88.61; here " in report
    assert "1 epoch each of sgd in batches of 4, rates of 0.0025 to 0.04, a tenth of it after every 70" in report


def test_a_set_of_the_paper_is_trained_on_as_its_released_code_does(root: Path) -> None:
    suite = read_suite(str(root / "three.toml"), root)
    task = suite.usual("CREMA-D")
    assert (task.epochs, task.batch_size) == (2, 4)  # of the task itself
    assert replace(task, epochs=120, batch_size=32) == PAPER["crema-d"]
    assert running.candidates(suite, "CREMA-D", "uniform", suite.methods["uniform"])[0] == {
        LEARNING_RATE: pytest.approx(0.01)
    }
    assert suite.rates("Twitter2015") == (1e-3, 1e-2)


def test_a_rival_starts_from_the_loss_of_the_set(root: Path) -> None:
    (root / "rival.toml").write_text(f'{SUITE}\n[methods.ogm_ge]\nrival = "ogm_ge"\n')
    suite = read_suite(str(root / "rival.toml"), root)
    cell = running._cell(suite, ("CREMA-D", "ogm_ge", 0), {LEARNING_RATE: 0.01}, 0, 1, 0, tested=False)
    config = cells._config(cell, {})
    assert config.unimodal_weight == config.rival_parameters["unimodal_weight"] == 0.9


def test_labels_of_the_test_set_are_out_of_reach_of_what_trains(root: Path) -> None:
    suite, _ = public.found(read_suite(str(root / "three.toml"), root), root)
    data, _ = public.load(suite.tasks["CREMA-D"])
    unseen = cells.blind(data)
    assert data.labels[data.indices("test")].any() and not unseen.labels[unseen.indices("test")].any()
    assert not any("label" in repr(value).lower() for value in vars(unseen)["_media"])


def test_a_broken_set_is_refused_with_what_a_check_of_it_says(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain(tmp_path / "CREMA-D")
    (tmp_path / "three.toml").write_text(SUITE)
    (tmp_path / f"CREMA-D/AudioWAV/{TRAIN[0]}.wav").write_bytes(b"RIFF")
    refused = run(monkeypatch, tmp_path, tmp_path / "out")
    assert refused.exit_code == 1
    assert f"1 broken: AudioWAV/{TRAIN[0]}.wav: " in refused.output and "not complete" in refused.output
    (tmp_path / f"CREMA-D/AudioWAV/{TRAIN[0]}.wav").unlink()
    refused = run(monkeypatch, tmp_path, tmp_path / "out")
    assert refused.exit_code == 1
    assert f"1 missing: AudioWAV/{TRAIN[0]}.wav" in refused.output
    assert not (tmp_path / "out/runs").exists()
    begun = run(monkeypatch, tmp_path, tmp_path / "out", "--leave-out", most=1)
    assert begun.exit_code == 130, begun.output
    assert len(kept(tmp_path / "out")) == 1


def test_no_set_at_all_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "three.toml").write_text(SUITE)
    refused = run(monkeypatch, tmp_path, tmp_path / "out")
    assert refused.exit_code == 2
    assert "CREMA-D (crema-d), Twitter2015 (twitter2015), VGGSound (vggsound)" in " ".join(refused.output.split())


def test_two_folders_of_one_set_are_told(tmp_path: Path) -> None:
    for name in ("CREMA-D", "crema_d"):
        (tmp_path / name).mkdir()
    suite = Suite.model_validate({"tasks": {"a": {"data": "crema-d"}}, "methods": {"uniform": {}, "b": {}}})
    with pytest.raises(ValueError, match="must have one folder of crema-d, got CREMA-D, crema_d"):
        public.found(suite, tmp_path)


def test_a_file_of_another_size_is_another_set(tmp_path: Path) -> None:
    plain(tmp_path)
    before = public.fingerprint(read_set(tmp_path, "crema-d"))
    assert public.fingerprint(read_set(tmp_path, "crema-d")) == before
    picture = tmp_path / "Image-01-FPS" / TRAIN[0] / "frame_00001.jpg"
    picture.write_bytes(picture.read_bytes() + b"\n")
    assert public.fingerprint(read_set(tmp_path, "crema-d")) != before


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"data": "crema-d", "noisy_labels": 0.4}, "samples and harm belong to data in memory, got data 'crema-d'"),
        ({"data": "emoji", "split": "actors"}, "split and leave_out belong to a public set, got data 'emoji'"),
    ],
)
def test_what_does_not_go_together_is_told(task: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Suite.model_validate({"tasks": {"a": task}, "methods": {"uniform": {}, "b": {}}})
