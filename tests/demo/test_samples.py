"""What a run is trained on."""

import numpy as np
import pytest

from demo.plan import CONDITIONS, Run, compared_runs
from demo.samples import samples_of
from trainer_client.reference.data import Dataset


def _run(policy: str, seed: int = 0) -> Run:
    return Run("compare", CONDITIONS[0], policy, seed, 1)


def test_an_oracle_trains_on_right_labels_alone_and_on_as_many_samples(dataset: Dataset) -> None:
    samples = samples_of(_run("oracle"), dataset)
    trained = samples.trained("oracle")
    truth = dict(zip(dataset.captions, dataset.labels, strict=True))
    assert 0 < samples.wrong.sum() < 40
    assert len(trained.indices("train")) == 40
    assert all(truth[trained.captions[row]] == trained.labels[row] for row in trained.indices("train"))
    assert len(set(trained.captions) & set(dataset.captions[:40])) == 40 - samples.wrong.sum()


def test_others_train_on_all_labels_as_given(dataset: Dataset) -> None:
    samples = samples_of(_run("evidence"), dataset)
    trained = samples.trained("evidence")
    assert np.array_equal(trained.labels != dataset.labels, np.pad(samples.wrong, (0, 20)))


def test_a_part_keeps_samples_whole(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.samples.SAMPLES", {"emoji": 25})
    part = samples_of(_run("evidence"), dataset).true
    rows = [dataset.captions.index(name) for name in part.captions]
    assert [len(part.indices(split)) for split in ("train", "validation", "test")] == [25, 10, 10]
    assert np.array_equal(part.labels, dataset.labels[rows])
    assert np.array_equal(part.modalities["image"], dataset.modalities["image"][rows])


def test_runs_of_a_seed_share_their_samples(dataset: Dataset) -> None:
    first, second = (samples_of(_run(policy), dataset) for policy in ("uniform", "evidence"))
    assert np.array_equal(first.given.labels, second.given.labels)
    assert not np.array_equal(first.given.labels, samples_of(_run("uniform", seed=1), dataset).given.labels)


def test_a_seeds_runs_follow_one_another_and_clean_labels_need_no_oracle() -> None:
    runs = compared_runs(["uniform", "oracle"], 2)
    assert [(r.seed, r.condition.key, r.policy, r.epochs) for r in runs[:6]] == [
        (0, "emoji-noisy", "uniform", 30),
        (0, "emoji-noisy", "oracle", 30),
        (0, "emoji-clean", "uniform", 30),
        (0, "watch-noisy", "uniform", 20),
        (0, "watch-noisy", "oracle", 20),
        (0, "watch-clean", "uniform", 20),
    ]
    assert len(runs) == 12
    assert {r.served for r in runs} == {"uniform"}
