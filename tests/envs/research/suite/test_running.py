"""A suite's runs: all methods alike, kept one by one, and none of them chosen by the test set."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.research.files import Results, Storage
from envs.research.suite import cells
from envs.research.suite.costs import stated
from envs.research.suite.report import RUNS, write_report
from envs.research.suite.running import Played, best, candidates, play
from envs.research.suite.spec import LEARNING_RATE, Suite, Task, read_suite
from tests.envs.research.suite.conftest import SUITE, Here, forget, written
from tests.trainer_client.support.clusters import clusters
from trainer_client.reference.data import Dataset
from trainer_client.reference.training import Trainer


def played(suite: Suite, folder: Path, most: int = 1000) -> Played:
    return play(suite, Results(Storage(f"{folder}/runs")), Here(most), lambda told: None)


def kept(folder: Path) -> dict[str, Any]:
    """What was written, but for seconds."""
    read = {path.name: json.loads(path.read_text()) for path in (folder / "runs").iterdir()}
    return {
        name: run | {"result": {k: v for k, v in run["result"].items() if k != "seconds"}} for name, run in read.items()
    }


@pytest.fixture(scope="module")
def done(suite: Suite, folder: Path) -> Played:
    return played(suite, folder)


def test_every_method_has_as_many_trials_and_the_same_seeds(done: Played) -> None:
    pairs = {(task, method) for task in ("clean", "noisy") for method in ("uniform", "mine")}
    assert set(done.trials) == {(*pair, trial) for pair in pairs for trial in range(2)}
    assert set(done.runs) == {(*pair, seed) for pair in pairs for seed in range(2)}
    assert not any("test" in trial for trial in done.trials.values())


def test_interrupted_and_gone_on_with_it_comes_to_the_same(
    suite: Suite, folder: Path, done: Played, tmp_path: Path
) -> None:
    for most in (3, 10):  # more: within the search, and within the paired seeds
        with pytest.raises(KeyboardInterrupt):
            played(suite, tmp_path, most)
    assert len(kept(tmp_path)) == 13
    half = tmp_path / "runs" / "half.part"  # of a write that was cut short
    half.write_text("{")
    played(suite, tmp_path)
    half.unlink()
    assert kept(tmp_path) == kept(folder)


def test_the_labels_of_the_test_set_change_nothing_but_what_is_told_of_it(done: Played, tmp_path: Path) -> None:
    forget()
    suite = read_suite(str(written(tmp_path, shift=1) / "tiny.toml"), tmp_path)
    one_task = suite.model_copy(update={"tasks": {"noisy": suite.tasks["noisy"]}})
    shifted = played(one_task, tmp_path)
    forget()
    assert shifted.chosen == {pair: values for pair, values in done.chosen.items() if pair[0] == "noisy"}
    for place, run in shifted.runs.items():
        same = ("validation", "epoch", "forward_samples", "extra_forward_samples")
        assert {key: run[key] for key in same} == {key: done.runs[place][key] for key in same}
        assert run["test"] != done.runs[place]["test"]


def test_what_trains_and_schedules_has_no_labels_of_the_test_set(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Dataset] = []

    class Spied(Trainer):
        def __init__(self, dataset: Dataset, *rest: Any) -> None:
            given.append(dataset)
            super().__init__(dataset, *rest)

    monkeypatch.setattr(cells, "Trainer", Spied)
    less = {"tasks": {"clean": suite.tasks["clean"]}, "methods": {"uniform": suite.methods["uniform"]}, "trials": 1}
    played(suite.model_copy(update=less), tmp_path)
    assert len(given) == 3
    data = clusters()
    for dataset in given:
        assert not dataset.labels[dataset.indices("test")].any()
        assert (dataset.labels[dataset.indices("validation")] == data.labels[data.indices("validation")]).all()


def test_a_rival_in_a_file_of_its_own_is_in_the_table(tmp_path: Path) -> None:
    example = Path(__file__).parents[4] / "examples" / "own_rival.py"
    assert len(example.read_text().splitlines()) <= 60
    (written(tmp_path) / "own_rival.py").write_text(example.read_text())
    (tmp_path / "tiny.toml").write_text(f'{SUITE}\n[methods.sharper]\nrival = "sharper"\nfile = "own_rival.py"\n')
    suite = read_suite(str(tmp_path / "tiny.toml"), tmp_path)
    small = suite.model_copy(update={"tasks": {"clean": suite.tasks["clean"]}, "trials": 1})
    write_report(played(small, tmp_path), Storage(str(tmp_path)), "tiny")
    assert "| `sharper` |" in (tmp_path / "report.md").read_text()
    told = [json.loads(line)["method"] for line in (tmp_path / RUNS).read_text().splitlines()]
    assert told == ["uniform", "uniform", "mine", "mine", "sharper", "sharper"]


def test_a_control_has_as_many_samples_as_the_method_that_saves_them(tmp_path: Path) -> None:
    """On labels at random, whose losses stay about their mean, InfoBatch leaves out many."""
    more = """
[methods.infobatch]
rival = "infobatch"
parameters = {prune = 0.9, anneal = 1.0}

[methods.fewer]
as_many_as = "infobatch"
"""
    (written(tmp_path) / "tiny.toml").write_text(f"{SUITE}{more}".replace("epochs = 2", "epochs = 6"))
    suite = read_suite(str(tmp_path / "tiny.toml"), tmp_path)
    small = {"tasks": {"noisy": suite.tasks["noisy"]}, "trials": 1}
    made = played(suite.only((), ("fewer",)).model_copy(update=small), tmp_path)
    assert [*made.suite.methods] == ["uniform", "infobatch", "fewer"]
    passed = {name: made.trials["noisy", name, 0]["forward_samples"] for name in made.suite.methods}
    assert passed["infobatch"] < 0.9 * passed["uniform"]
    of_one = passed["uniform"] / 6
    assert abs(passed["fewer"] - passed["infobatch"]) <= of_one / 2
    assert len({len(made.runs["noisy", "fewer", seed]["validation"]) for seed in range(2)}) == 1


def test_the_search_begins_with_what_is_usual_and_has_the_same_rates_for_all(suite: Suite) -> None:
    first, second = candidates(suite, "clean", "mine", suite.methods["mine"])
    plain = candidates(suite, "clean", "uniform", suite.methods["uniform"])
    assert first == plain[0] == {LEARNING_RATE: pytest.approx((3e-4 * 1e-2) ** 0.5)}
    assert second[LEARNING_RATE] == plain[1][LEARNING_RATE]
    assert 0.2 <= second["policy.ema"] <= 1.0


def test_the_best_trial_is_that_of_the_best_epoch() -> None:
    assert best([{"validation": [0.5, 0.6]}, {"validation": [0.9, 0.1]}, {"validation": [0.9, 0.9]}]) == 1


@pytest.mark.long  # ninety runs
def test_every_method_of_all_runs_and_is_in_the_table(tmp_path: Path) -> None:
    """On images and signals, whose networks have what each method looks for."""
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.normal(size=(96, 3, 16, 16)).astype(np.float32),
        "signal": rng.normal(size=(96, 6, 32)).astype(np.float32),
    }
    names = {"modalities": np.array([*arrays]), "classes": np.array(["a", "b", "c"])}
    split = np.repeat(np.array([0, 1, 2], np.uint8), [64, 16, 16])
    np.savez(tmp_path / "made.npz", y=np.arange(96) % 3, split=split, **names, **arrays)
    whole = read_suite("all", tmp_path)
    assert len(whole.methods) >= 30
    task = {"made": Task(data=str(tmp_path / "made.npz"))}
    suite = whole.model_copy(update={"tasks": task, "seeds": 2, "trials": 1, "epochs": 4})
    told = "\n".join(stated(suite))
    write_report(played(suite, tmp_path), Storage(str(tmp_path)), "all")
    report = (tmp_path / "report.md").read_text()
    for name in suite.methods:
        assert f"| `{name}` |" in report
        assert re.search(rf"[:,] {re.escape(name)}(,|$)", told, re.MULTILINE)
