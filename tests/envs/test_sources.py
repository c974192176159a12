"""Sources: worlds that are drawn, and real sets as short vectors."""

from typing import Any

import numpy as np
import pytest

from envs.sources import FEATURES, FREQUENCIES, Synthetic, Views, source, vectors
from trainer_client.reference.data import Dataset

SIZES = (80, 30, 20)


def data_set(samples: int = 130, training: int = 80, **modalities: Any) -> Dataset:
    return Dataset(
        name="made up",
        modalities=modalities,
        labels=np.arange(samples) % 3,
        split=np.repeat(np.array([0, 1, 2], np.uint8), [training, samples - training - 20, 20]),
        classes=("a", "b", "c"),
    )


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def worlds(number: int = 40, modalities: int = 2) -> list[Dataset]:
    return [Synthetic(modalities).sample(SIZES, np.random.default_rng(seed)) for seed in range(number)]


# Synthetic worlds.


@pytest.mark.parametrize("modalities", [2, 3, 7])
def test_a_world_has_as_many_views_as_its_name_says(modalities: int) -> None:
    chosen = source(f"synthetic:{modalities}")
    assert chosen.modalities == modalities
    world = chosen.sample(SIZES, np.random.default_rng(0))
    assert len(world.modalities) == modalities
    assert [len(world.indices(split)) for split in ("train", "validation", "test")] == list(SIZES)


def test_every_class_can_be_learnt_however_unequal_they_are() -> None:
    shares = []
    for world in worlds():
        counts = np.bincount(world.labels[world.indices("train")], minlength=len(world.classes))
        assert counts.min() > 0
        shares.append(counts.max() / counts.mean())
    assert min(shares) < 1.5  # some worlds have classes of about the same size
    assert max(shares) > 2.5  # others don't


def test_worlds_differ_in_size_of_all_kinds() -> None:
    made = worlds()
    widths = [view.shape[1] for world in made for view in world.modalities.values()]
    assert 8 <= min(widths) < 16
    assert 56 < max(widths) <= FEATURES
    assert {len(world.classes) for world in made} == set(range(3, Synthetic.classes + 1))


def test_views_are_centred_and_of_the_same_energy() -> None:
    for world in worlds(10, 3):
        for view in world.modalities.values():
            assert view.dtype == np.float32
            np.testing.assert_allclose(view.mean(axis=0), 0, atol=1e-5)
            assert (view**2).mean() == pytest.approx(1, rel=1e-4)


def test_the_same_generator_gives_the_same_world() -> None:
    one, other = (Synthetic().sample(SIZES, np.random.default_rng(1)) for _ in range(2))
    assert one.labels.tobytes() == other.labels.tobytes()
    assert [v.tobytes() for v in one.modalities.values()] == [v.tobytes() for v in other.modalities.values()]


def test_labels_can_be_told_from_the_views() -> None:
    """The nearest class mean does better than the largest class, in most worlds by far."""
    better = []
    for world in worlds(20):
        train, test = world.indices("train"), np.concatenate([world.indices("validation"), world.indices("test")])
        views = np.concatenate(list(world.modalities.values()), axis=1)
        classes = range(len(world.classes))
        means = np.stack([views[train][world.labels[train] == c].mean(axis=0) for c in classes])
        guesses = ((views[test][:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        largest = np.bincount(world.labels[test]).max() / len(test)
        better.append((guesses == world.labels[test]).mean() - largest)
    assert np.median(better) > 0.1


# Names.


def test_a_source_is_found_by_its_name_once() -> None:
    assert source("synthetic:2") is source("synthetic:2")
    assert source("synthetic:2").name == "synthetic:2"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("synthetic:1", "modalities must be at least 2, got 1"),
        ("synthetic", "got 'synthetic'"),
        ("synthetic:x", "got 'synthetic:x'"),
        ("nonesuch", "data must be one of emoji, watch or a path ending in .npz, got 'nonesuch'"),
    ],
)
def test_an_unknown_name_is_told(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        source(name)


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        source("nowhere.npz")


# Views of real sets.


def test_narrow_features_are_scaled_each_by_its_own_deviation() -> None:
    flat = random(130, 5) * np.array([1, 10, 0.1, 3, 0], np.float32) + 7
    reduced = vectors(data_set(one=flat, other=random(130, 2)), "one")
    assert (reduced.shape, reduced.dtype) == ((130, 5), np.float32)
    np.testing.assert_allclose(reduced[:80].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(reduced[:80, :4].std(axis=0), np.sqrt(5 / 4), rtol=1e-4)
    assert not reduced[:, 4].any()  # a feature that never changes says nothing


@pytest.mark.parametrize("width", [70, 500])  # less and more than there are training samples
def test_wide_features_become_their_leading_components(width: int) -> None:
    latent = random(130, 3)
    wide = (latent @ random(3, width, seed=1)) + 0.01 * random(130, width, seed=2)
    reduced = vectors(data_set(one=wide, other=latent), "one")
    assert reduced.shape == (130, FEATURES)
    energy = (reduced[:80].astype(np.float64) ** 2).sum(axis=0)
    assert energy[:3].sum() > 0.99 * energy.sum()
    assert energy.sum() == pytest.approx(80 * FEATURES, rel=1e-3)
    correlations = np.corrcoef(reduced[:80].T)[:3, :3]
    np.testing.assert_allclose(correlations, np.eye(3), atol=1e-3)


def test_scaling_and_axes_are_those_of_the_training_samples() -> None:
    one = random(130, 200)
    other = one.copy()
    other[80:] *= 100
    before, after = (vectors(data_set(one=values, other=one), "one") for values in (one, other))
    np.testing.assert_array_equal(before[:80], after[:80])


def test_signals_become_moments_and_spectra() -> None:
    time = np.arange(64) / 64
    frequency = np.repeat([2, 5, 9], [50, 50, 30])
    waves = np.sin(2 * np.pi * frequency[:, None] * time)[:, None].astype(np.float32)
    order = np.random.default_rng(0).permutation(130)
    reduced = vectors(data_set(one=waves[order], other=random(130, 2)), "one")
    assert reduced.shape == (130, 2 + FREQUENCIES)
    spectra = reduced[:, 2:]
    for f in (2, 5, 9):
        there = frequency[order] == f
        assert spectra[there, f - 1].min() > spectra[~there, f - 1].max()


def test_images_are_laid_flat() -> None:
    images = random(130, 3, 4, 4)
    flat = vectors(data_set(one=images.reshape(130, -1), other=images), "one")
    np.testing.assert_array_equal(vectors(data_set(one=images, other=images), "one"), flat)


def test_tokens_become_counts_and_padding_does_not_count() -> None:
    ids = np.random.default_rng(0).integers(1, 10, (130, 6))
    padded = np.pad(ids, ((0, 0), (0, 9)))
    backwards = ids[:, ::-1].copy()
    reduced = [vectors(data_set(one=tokens, other=ids), "one") for tokens in (ids, padded, backwards)]
    assert reduced[0].shape == (130, 10)
    np.testing.assert_array_equal(reduced[0], reduced[1])
    np.testing.assert_array_equal(reduced[0], reduced[2])


@pytest.mark.parametrize("width", [5, 100])
def test_a_view_that_never_changes_is_zero(width: int) -> None:
    assert not vectors(data_set(one=np.full((130, width), 3, np.float32), other=random(130, 2)), "one").any()


def test_a_task_is_a_part_of_a_set_within_its_splits() -> None:
    views = Views(data_set(one=random(130, 4), other=random(130, 100, seed=1)))
    assert (views.modalities, views.classes) == (2, 3)
    part = views.sample((50, 30, 10), np.random.default_rng(0))
    assert [len(part.indices(split)) for split in ("train", "validation", "test")] == [50, 30, 10]
    whole = views.sample((1000, 1000, 1000), np.random.default_rng(0))
    assert len(whole) == 130
    for split in ("train", "validation", "test"):
        known = {row.tobytes() for row in whole.modalities["one"][whole.indices(split)]}
        drawn = {row.tobytes() for row in part.modalities["one"][part.indices(split)]}
        assert len(drawn) == len(part.indices(split))
        assert drawn <= known
