"""Tasks: the same one gives the same lesson, harm is done as told, and what is held out is held out."""

import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.scheduling import BalanceScheduling
from envs.sources import FEATURES
from envs.tasks import (
    TEST,
    Distribution,
    FamilyError,
    Lesson,
    Part,
    Task,
    _found,
    family_version,
    held_out_tasks,
    lesson,
    oracle,
    origin,
    training_tasks,
)

TASK = Task("synthetic:2", samples=200, learning_rate=0.1, intervals=5, seed=3, validation=50)
HARMS = ("noisy_labels", "flipped_labels", "mispaired", "blank")


def content(part: Part) -> list[bytes]:
    return [part.labels.tobytes(), *(view.tobytes() for view in part.modalities)]


def everything(of: Lesson) -> list[bytes]:
    return [
        *content(of.train),
        *content(of.validation),
        *content(of.test),
        of.clean.tobytes(),
        of.wrong_label.tobytes(),
        of.truth.tobytes(),
        of.wrong_modality.tobytes(),
    ]


def harmed(**harms: Any) -> tuple[Lesson, Lesson]:
    """The lesson without and with harm."""
    return lesson(TASK), lesson(replace(TASK, **harms))


def changed_views(one: Part, other: Part) -> list[np.ndarray]:
    """For each modality the samples (n,) in which it differs."""
    return [(a != b).any(axis=1) for a, b in zip(one.modalities, other.modalities, strict=True)]


@pytest.mark.parametrize("harms", [{}, {"noisy_labels": 0.3, "mispaired": 0.2, "dimmed": 1.0}])
def test_the_same_task_gives_the_same_lesson_and_another_seed_another(harms: dict[str, float]) -> None:
    task = replace(TASK, **harms)
    assert everything(lesson(task)) == everything(lesson(replace(task)))
    assert everything(lesson(task)) != everything(lesson(replace(task, seed=4)))


def test_a_lesson_is_as_large_as_its_task_says() -> None:
    made = lesson(TASK)
    assert [len(part.labels) for part in (made.train, made.validation, made.test)] == [200, 50, TEST]
    assert made.clean.all()
    assert made.learning_rate == 0.1
    assert 3 <= made.classes <= 10


def test_harm_of_one_kind_leaves_the_rest_of_the_task_as_it_is() -> None:
    whole, worse = harmed(noisy_labels=0.4)
    assert content(whole.validation) == content(worse.validation)
    assert content(whole.test) == content(worse.test)
    assert not np.any(changed_views(whole.train, worse.train))


def test_random_labels_are_not_clean_but_where_they_are_right_by_chance() -> None:
    whole, worse = harmed(noisy_labels=0.4)
    wrong = whole.train.labels != worse.train.labels
    np.testing.assert_array_equal(worse.clean, ~wrong)
    np.testing.assert_array_equal(worse.wrong_label, wrong)
    assert 30 < wrong.sum() < 80  # of 80 drawn from at least 3 classes


def test_flipped_labels_are_exactly_those_that_are_not_clean() -> None:
    whole, worse = harmed(flipped_labels=0.3)
    wrong = whole.train.labels != worse.train.labels
    assert wrong.sum() == 60
    np.testing.assert_array_equal(worse.clean, ~wrong)
    np.testing.assert_array_equal(worse.train.labels[wrong], (whole.train.labels[wrong] + 1) % whole.classes)


@pytest.mark.parametrize("kind", ["mispaired", "blank"])
def test_other_views_are_wrong_or_gone_exactly_where_a_sample_is_not_clean(kind: str) -> None:
    whole, worse = harmed(**{kind: 0.25})
    first, second = changed_views(whole.train, worse.train)
    assert not first.any()
    assert second.sum() == 50
    assert not worse.wrong_label.any()
    np.testing.assert_array_equal(worse.clean, ~second)
    np.testing.assert_array_equal(worse.wrong_modality, np.stack([first, second], axis=1))
    if kind == "blank":
        assert not worse.train.modalities[1][second].any()


def test_a_sensor_that_is_bad_is_as_bad_in_use_and_nothing_is_wrong_with_labels() -> None:
    whole, worse = harmed(dimmed=1.5)
    assert worse.clean.all()
    for split in ("train", "validation", "test"):
        one, other = getattr(whole, split), getattr(worse, split)
        changed = changed_views(one, other)
        assert sorted(bool(c.any()) for c in changed) == [False, True]
        k = int(changed[1].any())
        # At least 400 numbers: the deviation of their deviation is below 0.06.
        assert (other.modalities[k] - one.modalities[k]).std() == pytest.approx(1.5, abs=0.25)


def test_two_kinds_of_harm_leave_clean_what_neither_touched() -> None:
    whole, worse = harmed(flipped_labels=0.3, blank=0.5)
    right = (whole.train.labels == worse.train.labels) & ~changed_views(whole.train, worse.train)[1]
    np.testing.assert_array_equal(worse.clean, right)


def test_the_true_class_is_told_where_the_label_is_wrong() -> None:
    whole, worse = harmed(noisy_labels=0.3, flipped_labels=0.2)
    np.testing.assert_array_equal(worse.truth, whole.train.labels)
    np.testing.assert_array_equal(worse.truth != worse.train.labels, worse.wrong_label)
    assert not worse.wrong_modality.any()


def test_the_oracle_has_the_clean_samples_alone_and_as_many_as_before() -> None:
    _, worse = harmed(flipped_labels=0.3, mispaired=0.3)
    known = oracle(worse)
    clean = np.flatnonzero(worse.clean)
    assert len(known.train.labels) == len(known.clean) == 200
    assert known.clean.all()
    assert not known.wrong_label.any()
    assert not known.wrong_modality.any()
    np.testing.assert_array_equal(known.truth, known.train.labels)
    np.testing.assert_array_equal(known.train.labels[: len(clean)], worse.train.labels[clean])
    np.testing.assert_array_equal(known.train.modalities[1][len(clean)], worse.train.modalities[1][clean[0]])
    assert content(known.validation) == content(worse.validation)


def test_nothing_is_left_for_an_oracle_where_nothing_is_clean() -> None:
    with pytest.raises(ValueError, match="clean must hold a sample at least, got none of 200"):
        oracle(lesson(replace(TASK, blank=1.0)))


def test_a_share_out_of_range_is_named_with_its_value() -> None:
    with pytest.raises(ValueError, match=r"flipped_labels must be a share from 0 to 1, got 1\.5"):
        lesson(replace(TASK, flipped_labels=1.5))


# Distributions.


@pytest.mark.parametrize("tasks", [training_tasks(), held_out_tasks()], ids=["training", "held-out"])
def test_tasks_are_drawn_from_their_ranges(tasks: Distribution) -> None:
    rng = np.random.default_rng(0)
    drawn = [tasks.draw(rng) for _ in range(400)]
    for name, (low, high) in {
        "samples": tasks.samples,
        "intervals": tasks.intervals,
        "validation": tasks.validation,
        "learning_rate": tasks.learning_rates,
    }.items():
        values = [getattr(task, name) for task in drawn]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    shares = [getattr(task, harm) for task in drawn for harm in tasks.harms if getattr(task, harm)]
    assert tasks.shares[0] <= min(shares) < max(shares) <= tasks.shares[1]
    assert {task.source for task in drawn} == set(tasks.sources)
    assert len({task.seed for task in drawn}) == 400
    kinds = np.bincount([sum(getattr(task, harm) > 0 for harm in HARMS) for task in drawn], minlength=3) / 400
    # Standard errors are at most 0.025.
    np.testing.assert_allclose(kinds, [0.25, 0.65, 0.1], atol=0.1)
    assert np.mean([not task.horizon_known for task in drawn]) == pytest.approx(tasks.horizon_unknown, abs=0.08)
    assert np.mean([task.dimmed > 0 for task in drawn]) == pytest.approx(0.2, abs=0.08)


def test_the_same_generator_draws_the_same_tasks() -> None:
    one, other = (training_tasks().draw(np.random.default_rng(1)) for _ in range(2))
    assert one == other


def test_training_and_held_out_share_no_source_and_the_held_out_has_harms_of_its_own() -> None:
    training, held_out = training_tasks(), held_out_tasks()
    assert not set(training.sources) & set(held_out.sources)
    assert set(held_out.harms) - set(training.harms) == {"flipped_labels", "blank"}
    assert set(held_out.harms) == set(HARMS) <= {field.name for field in fields(Task)}


@pytest.mark.parametrize("name", held_out_tasks().sources)
def test_a_held_out_task_can_be_made(name: str) -> None:
    made = lesson(replace(TASK, source=name, samples=100))
    assert len(made.train.labels) == 100
    assert all(view.shape[1] <= FEATURES and view.dtype == np.float32 for view in made.train.modalities)
    assert made.classes <= held_out_tasks().classes


def test_a_distribution_tells_its_modalities_and_classes() -> None:
    three = Distribution(("synthetic:3",), ())
    assert (three.modalities, three.classes) == (3, 10)
    assert len(lesson(three.draw(np.random.default_rng(0))).train.modalities) == 3


def test_sources_of_one_distribution_agree_in_their_modalities() -> None:
    with pytest.raises(ValueError, match=r"same number of modalities, got \{'synthetic:2': 2, 'synthetic:3': 3\}"):
        _ = Distribution(("synthetic:2", "synthetic:3"), ()).modalities


def test_validation_labels_are_as_wrong_as_training_labels_where_that_is_asked_for() -> None:
    harms: dict[str, float] = {"noisy_labels": 0.3, "flipped_labels": 0.2}
    plain, spoiled = (lesson(replace(TASK, spoiled_validation=flag, validation=400, **harms)) for flag in (False, True))
    assert content(plain.train) == content(spoiled.train)
    assert content(plain.test) == content(spoiled.test)
    wrong = plain.validation.labels != spoiled.validation.labels
    classes = plain.classes
    assert wrong.mean() == pytest.approx(0.3 * (1 - 1 / classes) + 0.2 - 0.2 * 0.3, abs=0.07)
    assert [view.tobytes() for view in plain.validation.modalities] == [
        view.tobytes() for view in spoiled.validation.modalities
    ]


# Families of other packages.

BLOBS = """
import numpy as np
from envs import Lesson, Part

class Blobs:
    modalities = classes = 2

    def part(self, rng, size):
        labels = rng.integers(2, size=size)
        views = (labels[:, None] + rng.standard_normal((size, width)) for width in (3, 5))
        return Part(tuple(view.astype(np.float32) for view in views), labels)

    def made(self, train, validation, test, **fields):
        fields = {"classes": 2, "learning_rate": 0.1, "truth": np.zeros(len(train.labels), np.int64), **fields}
        fields = {"wrong_modality": np.zeros((len(train.labels), 2), np.bool_), **fields}
        return Lesson.of(train, validation, test, **fields)

    def lesson(self, seed):
        rng = np.random.default_rng(seed)
        return self.made(*(self.part(rng, size) for size in (64, 20, 30)))

class Small(Blobs):
    def lesson(self, seed):
        rng = np.random.default_rng(seed)
        return self.made(*(self.part(rng, size) for size in (31, 20, 30)))

class Unknown(Blobs):
    def lesson(self, seed):
        made = super().lesson(seed)
        made.validation.modalities[1][3, 2] = np.nan
        return made

class Third(Blobs):
    def lesson(self, seed):
        made = super().lesson(seed)
        made.train.labels[0] = 2
        return made

class Pair(Blobs):
    def lesson(self, seed):
        rng = np.random.default_rng(seed)
        return tuple(self.part(rng, size) for size in (64, 20, 30))

class Narrow(Blobs):
    def lesson(self, seed):
        made = super().lesson(seed)
        test = Part((made.test.modalities[0], made.test.modalities[1][:, :4]), made.test.labels)
        return self.made(made.train, made.validation, test)

class Failing(Blobs):
    def lesson(self, seed):
        raise FileNotFoundError("blobs.csv")

class Alone(Blobs):
    modalities = 1
"""
REGISTERED = ["Blobs", "Small", "Unknown", "Third", "Pair", "Narrow", "Failing", "Alone"]


@pytest.fixture
def families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if a package with these families were installed."""
    theirs = tmp_path / "theirs-1.5.dist-info"
    theirs.mkdir()
    (theirs / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.5\n")
    points = [f"{kind.lower()} = family_of_theirs:{kind}" for kind in [*REGISTERED, "Missing"]]
    (theirs / "entry_points.txt").write_text("\n".join(["[envs.tasks]", *points, "emoji = family_of_theirs:Blobs\n"]))
    (tmp_path / "family_of_theirs.py").write_text(BLOBS)
    monkeypatch.syspath_prepend(tmp_path)
    forget = (origin.cache_clear, _found.cache_clear)
    for cached in forget:
        cached()
    yield
    for cached in forget:
        cached()
    sys.modules.pop("family_of_theirs", None)


@pytest.mark.usefixtures("families")
def test_the_lessons_of_a_family_are_its_own_whatever_harm_is_asked_for() -> None:
    drawn = [Distribution(("blobs",), HARMS).draw(np.random.default_rng(seed)) for seed in range(20)]
    assert not any(getattr(task, harm) for task in drawn for harm in (*HARMS, "dimmed"))
    assert len({task.seed for task in drawn}) == 20
    made = lesson(drawn[0])
    assert everything(made) == everything(lesson(drawn[0])) != everything(lesson(drawn[1]))
    assert [len(part.labels) for part in (made.train, made.validation, made.test)] == [64, 20, 30]
    np.testing.assert_array_equal(made.wrong_label, made.train.labels != 0)
    np.testing.assert_array_equal(made.clean, ~made.wrong_label)
    assert family_version("blobs") == "theirs 1.5"


@pytest.mark.usefixtures("families")
def test_an_environment_mixes_families_with_other_sources() -> None:
    env = BalanceScheduling(Distribution(("blobs", "synthetic:2"), (), samples=(70, 90), intervals=(1, 2)))
    seen = {env.reset(seed=seed)[1]["task"]["source"] for seed in range(8)}
    assert seen == {"blobs", "synthetic:2"}


@pytest.mark.usefixtures("families")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing", "task family 'missing' can't be loaded: AttributeError"),
        ("alone", "task family 'alone' must have modalities of at least 2, got 1"),
        ("emoji", "task family 'emoji' must have a name that matches"),
        ("failing", r"task family 'failing' gave no lesson of seed \d+: FileNotFoundError: blobs.csv"),
        ("small", "task family 'small' gave a lesson of seed .*: train.labels must number at least 32, got 31"),
        ("unknown", r"task family 'unknown' .*: validation.modalities\[1\] must hold finite numbers"),
        ("third", "task family 'third' .*: train.labels must be int64 .* in 0 to 1"),
        ("pair", "task family 'pair' .*: it must be an envs.Lesson, got tuple"),
        ("narrow", r"task family 'narrow' .*: test.modalities\[1\] must hold .* as many a sample as in training"),
    ],
)
def test_a_broken_family_is_refused_by_a_sentence_that_names_it(name: str, complaint: str) -> None:
    with pytest.raises(FamilyError, match=complaint):
        BalanceScheduling(Distribution((name,), (), intervals=(1, 2))).reset(seed=0)


@pytest.mark.usefixtures("families")
def test_a_name_that_no_package_has_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"a path ending in \.npz, alone, blobs, .*, got 'blob'"):
        _ = Distribution(("blob",), ()).modalities
    with pytest.raises(ValueError, match=r"training, held-out, alone, blobs, .*, randomised, .*, got 'blob'"):
        BalanceScheduling("blob")
