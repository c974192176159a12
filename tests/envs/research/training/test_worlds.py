"""Worlds: what is told of the harm is the harm that was done."""

import numpy as np
import pytest

from envs.research.training import worlds
from envs.research.training.worlds import KINDS, TEST, Randomised, Size, world
from envs.sources import FEATURES
from envs.tasks import Lesson

SIZES = [Size(300, 2), Size(400, 4), Size(600, 3, classes=50), Size(300, 2, signals=True)]


def only(monkeypatch: pytest.MonkeyPatch, kind: str, spoilt: float = 0.0) -> None:
    """Worlds of one kind alone."""
    monkeypatch.setattr(worlds, "KINDS", dict.fromkeys(KINDS, 0.0) | {kind: 1.0})
    monkeypatch.setattr(worlds, "SPOILT", spoilt)


def some(size: Size = SIZES[0], number: int = 6) -> list[Lesson]:
    return [world(size, np.random.default_rng(seed)) for seed in range(number)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_world_is_as_large_as_asked_for_and_says_how_it_is_harmed(size: Size) -> None:
    for made in some(size):
        assert len(made.train.modalities) == size.modalities
        assert 2 <= made.classes <= size.classes
        assert made.wrong_modality.shape == (size.samples, size.modalities)
        for view in made.train.modalities:
            assert view.shape[0] == size.samples
            assert view.shape[1] <= FEATURES
            assert view.dtype == np.float32
        np.testing.assert_array_equal(made.wrong_label, made.train.labels != made.truth)
        np.testing.assert_array_equal(made.clean, ~made.wrong_label & ~made.wrong_modality.any(axis=1))
        assert max(made.train.labels.max(), made.validation.labels.max()) < made.classes


def test_the_same_generator_makes_the_same_world() -> None:
    one, other = (world(SIZES[0], np.random.default_rng(5)) for _ in range(2))
    assert one.train.labels.tobytes() == other.train.labels.tobytes()
    assert one.train.modalities[0].tobytes() == other.train.modalities[0].tobytes()


@pytest.mark.parametrize(
    ("kind", "labels", "pairs"),
    [
        ("clean", False, False),
        ("random", True, False),
        ("flipped", True, False),
        ("mispaired", False, True),
        ("blank", False, True),
        ("two", True, True),
    ],
)
def test_a_kind_of_harm_is_that_kind(monkeypatch: pytest.MonkeyPatch, kind: str, labels: bool, pairs: bool) -> None:
    only(monkeypatch, kind)
    for made in some():
        assert made.wrong_label.any() == labels
        assert made.wrong_modality.any() == pairs
        assert not made.wrong_modality.all(axis=1).any()  # one modality is always kept


def test_flipped_labels_of_a_class_go_to_one_other(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "flipped")
    for made in some():
        for c in range(made.classes):
            assert len(set(made.train.labels[(made.truth == c) & made.wrong_label])) <= 1


def test_spoilt_validation_is_as_wrong_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "random")
    right = [made.validation.labels for made in some(number=12)]
    only(monkeypatch, "random", spoilt=1.0)
    made = some(number=12)
    shares = [float((labels != of.validation.labels).mean()) for labels, of in zip(right, made, strict=True)]
    # Validation sets of at least 150: standard errors are at most 0.05.
    np.testing.assert_allclose(shares, [float(of.wrong_label.mean()) for of in made], atol=0.15)


def test_randomised_tasks_differ_in_all_that_makes_a_task_up() -> None:
    made = [Randomised().lesson(seed) for seed in range(40)]
    assert len({lesson.classes for lesson in made}) > 5
    assert len({len(lesson.train.labels) for lesson in made}) > 20
    assert len({lesson.train.modalities[0].shape[1] for lesson in made}) > 10
    assert all(0.05 <= lesson.learning_rate <= 0.2 for lesson in made)
    assert {len(lesson.test.labels) for lesson in made} == {TEST}
    harms = {(bool(lesson.wrong_label.any()), bool(lesson.wrong_modality.any())) for lesson in made}
    assert harms == {(False, False), (True, False), (False, True), (True, True)}
