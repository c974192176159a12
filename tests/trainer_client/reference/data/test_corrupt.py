import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainer_client.reference.data import Dataset, corrupt


def content(dataset: Dataset) -> list[bytes]:
    return [dataset.labels.tobytes(), *(values.tobytes() for values in dataset.modalities.values())]


def with_training_samples(dataset: Dataset, count: int) -> Dataset:
    """The same samples with only the first `count` of them for training."""
    split = np.where(np.arange(len(dataset)) < count, 0, 1 + np.arange(len(dataset)) % 2).astype(np.uint8)
    return replace(dataset, split=split)


EVERYTHING: dict[str, Any] = {
    "noisy_labels": 0.3,
    "flipped_labels": 0.2,
    "mispaired": 0.4,
    "blank": 0.1,
    "modality_noise": {"vector": 0.5, "text": 0.2},
}
CHOSEN = ("label_is_noisy", "label_is_flipped", "is_mispaired", "is_blank")


def test_the_same_seed_gives_the_same_copy(small: Dataset) -> None:
    assert content(corrupt(small, **EVERYTHING, seed=1).dataset) == content(
        corrupt(small, **EVERYTHING, seed=1).dataset
    )


def test_another_seed_gives_another_copy(small: Dataset) -> None:
    one, other = (corrupt(small, **EVERYTHING, seed=seed) for seed in (1, 2))
    for chosen in CHOSEN:
        assert (getattr(one, chosen) != getattr(other, chosen)).any()


def test_the_original_stays_as_it_was(small: Dataset) -> None:
    before = content(small)
    corrupt(small, **EVERYTHING, seed=1)
    assert content(small) == before


def test_no_corruption_gives_an_equal_copy(small: Dataset) -> None:
    clean = corrupt(small, seed=1)
    assert content(clean.dataset) == content(small)
    assert not any(getattr(clean, chosen).any() for chosen in CHOSEN)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.004, 0), (0.006, 1), (0.3, 30), (1.0, 100)])
def test_exactly_the_share_of_training_samples_is_chosen(small: Dataset, share: float, count: int) -> None:
    corruption = corrupt(small, noisy_labels=share, flipped_labels=share, mispaired=share, blank=share, seed=1)
    for chosen in (getattr(corruption, name) for name in CHOSEN):
        assert chosen.sum() == count
        assert not chosen[small.split != 0].any()


def test_only_the_chosen_labels_change_and_some_keep_theirs_by_chance(small: Dataset) -> None:
    corruption = corrupt(small, noisy_labels=1.0, seed=1)
    changed = corruption.dataset.labels != small.labels
    assert not changed[~corruption.label_is_noisy].any()
    # 100 labels of 4 classes: 75 change on average, with a standard deviation of 4.3.
    assert 60 < changed.sum() < 90


def test_noisy_labels_are_drawn_uniformly(small: Dataset) -> None:
    copies = [corrupt(small, noisy_labels=1.0, seed=seed).dataset for seed in range(50)]
    drawn = np.concatenate([copy.labels[copy.split == 0] for copy in copies])
    counts = np.bincount(drawn, minlength=4)
    # Chi-squared with 3 degrees of freedom exceeds 16.3 once in a thousand.
    assert ((counts - 1250) ** 2 / 1250).sum() < 16.3


def test_flipped_labels_are_those_of_the_next_class_and_of_the_first_after_the_last(small: Dataset) -> None:
    corruption = corrupt(small, flipped_labels=0.5, seed=1)
    flipped, labels = corruption.label_is_flipped, corruption.dataset.labels
    assert set(zip(small.labels[flipped].tolist(), labels[flipped].tolist(), strict=True)) == {
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 0),
    }
    np.testing.assert_array_equal(labels[~flipped], small.labels[~flipped])


def test_a_label_may_be_redrawn_and_then_flipped(small: Dataset) -> None:
    redrawn = corrupt(small, noisy_labels=1.0, seed=1)
    both = corrupt(small, noisy_labels=1.0, flipped_labels=1.0, seed=1)
    training = small.indices("train")
    np.testing.assert_array_equal(both.dataset.labels[training], (redrawn.dataset.labels[training] + 1) % 4)


def test_a_blank_sample_has_its_first_modality_alone(small: Dataset) -> None:
    corruption = corrupt(small, blank=0.3, seed=1)
    blanked = corruption.dataset.modalities
    np.testing.assert_array_equal(blanked["vector"], small.modalities["vector"])
    for name in ("text", "image"):
        assert blanked[name].dtype == small.modalities[name].dtype
        assert not blanked[name][corruption.is_blank].any()
        np.testing.assert_array_equal(blanked[name][~corruption.is_blank], small.modalities[name][~corruption.is_blank])


def test_a_blank_sample_has_nothing_of_another_one_that_it_was_mispaired_with(small: Dataset) -> None:
    assert not corrupt(small, mispaired=1.0, blank=1.0, seed=1).dataset.modalities["image"][small.split == 0].any()


@pytest.mark.parametrize("share", [0.01, 0.02, 0.03, 0.4, 1.0])
def test_each_mispaired_sample_has_all_later_modalities_of_one_other_training_sample(
    small: Dataset, share: float
) -> None:
    corruption = corrupt(small, mispaired=share, seed=1)
    row_of = {values.tobytes(): index for index, values in enumerate(small.modalities["text"])}
    image_of = {values.tobytes(): index for index, values in enumerate(small.modalities["image"])}
    given = [row_of[values.tobytes()] for values in corruption.dataset.modalities["text"]]
    assert given == [image_of[values.tobytes()] for values in corruption.dataset.modalities["image"]]
    chosen = np.flatnonzero(corruption.is_mispaired)
    assert all(given[index] != index and small.split[given[index]] == 0 for index in chosen)
    assert all(given[index] == index for index in np.flatnonzero(~corruption.is_mispaired))


def test_mispairing_deals_what_the_chosen_had_to_the_chosen(small: Dataset) -> None:
    corruption = corrupt(small, mispaired=0.4, seed=1)
    before, after = (d.modalities["text"][corruption.is_mispaired] for d in (small, corruption.dataset))
    assert sorted(map(bytes, before)) == sorted(map(bytes, after))


def test_the_first_modality_and_the_labels_keep_their_place_when_mispaired(small: Dataset) -> None:
    mispaired = corrupt(small, mispaired=1.0, seed=1).dataset
    np.testing.assert_array_equal(mispaired.modalities["vector"], small.modalities["vector"])
    np.testing.assert_array_equal(mispaired.labels, small.labels)


def test_two_training_samples_swap(small: Dataset) -> None:
    two = with_training_samples(small, 2)
    swapped = corrupt(two, mispaired=1.0, seed=1).dataset
    np.testing.assert_array_equal(swapped.modalities["text"][:2], two.modalities["text"][[1, 0]])


def test_a_lone_training_sample_cannot_be_mispaired(small: Dataset) -> None:
    with pytest.raises(ValueError, match=r"mispaired must be 0 with one training sample, got 1\.0"):
        corrupt(with_training_samples(small, 1), mispaired=1.0, seed=1)


def test_a_larger_share_chooses_the_same_samples_and_more(small: Dataset) -> None:
    less, more = (corrupt(small, noisy_labels=share, mispaired=share, blank=share, seed=1) for share in (0.2, 0.4))
    assert more.label_is_noisy[less.label_is_noisy].all()
    assert more.is_mispaired[less.is_mispaired].all()
    assert more.is_blank[less.is_blank].all()
    flipped_less, flipped_more = (corrupt(small, flipped_labels=s, seed=1).label_is_flipped for s in (0.2, 0.4))
    assert flipped_more[flipped_less].all()
    same = less.label_is_noisy
    np.testing.assert_array_equal(more.dataset.labels[same], less.dataset.labels[same])


def test_kinds_of_corruption_do_not_move_each_other(small: Dataset) -> None:
    alone = corrupt(small, mispaired=0.4, seed=1)
    together = corrupt(small, **EVERYTHING, seed=1)
    np.testing.assert_array_equal(alone.is_mispaired, together.is_mispaired)
    seen = ~together.is_blank
    np.testing.assert_array_equal(alone.dataset.modalities["image"][seen], together.dataset.modalities["image"][seen])
    for name, chosen in zip(("noisy_labels", "flipped_labels", "mispaired", "blank"), CHOSEN, strict=True):
        of_itself = corrupt(small, **{name: EVERYTHING[name]}, seed=1)
        np.testing.assert_array_equal(getattr(of_itself, chosen), getattr(together, chosen))


def test_noise_on_features_has_the_standard_deviation_asked_for_in_every_split(small: Dataset) -> None:
    noisy = corrupt(small, modality_noise={"image": 2.0}, seed=1).dataset
    noise = noisy.modalities["image"] - small.modalities["image"]
    assert noise.dtype == np.float32
    for split in ("train", "validation", "test"):
        # 4800 draws: their standard deviation is 2 with a standard error of 0.02.
        assert math.isclose(noise[small.indices(split)].std(), 2.0, abs_tol=0.1)


def test_noise_on_text_replaces_the_share_of_tokens_and_no_padding(small: Dataset) -> None:
    noisy = corrupt(small, modality_noise={"text": 0.5}, seed=1).dataset.modalities["text"]
    text = small.modalities["text"]
    np.testing.assert_array_equal(noisy == 0, text == 0)
    # 600 of 1200 tokens are replaced, one in a thousand of them by an equal one.
    assert 590 < (noisy != text).sum() <= 600


def test_replaced_tokens_are_those_of_other_samples(small: Dataset) -> None:
    own = np.arange(1, 301)[:, None] * np.ones(4, np.int64)  # the tokens of each sample are its own number
    text = np.pad(own, ((0, 0), (0, 2)))
    numbered = replace(small, modalities=small.modalities | {"text": text})
    noisy = corrupt(numbered, modality_noise={"text": 1.0}, seed=1).dataset.modalities["text"]
    assert (noisy[:, :4] != own).all()


def test_noise_on_one_modality_leaves_the_others(small: Dataset) -> None:
    noisy = corrupt(small, modality_noise={"vector": 1.0}, seed=1).dataset
    for name in ("text", "image"):
        np.testing.assert_array_equal(noisy.modalities[name], small.modalities[name])


def test_held_out_samples_keep_labels_and_pairs(small: Dataset) -> None:
    worst = corrupt(small, noisy_labels=1.0, flipped_labels=1.0, mispaired=1.0, blank=1.0, seed=1).dataset
    held_out = small.split != 0
    np.testing.assert_array_equal(worst.labels[held_out], small.labels[held_out])
    for name, values in small.modalities.items():
        np.testing.assert_array_equal(worst.modalities[name][held_out], values[held_out])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noisy_labels": 1.5}, r"noisy_labels must be a share from 0 to 1, got 1\.5"),
        ({"noisy_labels": math.nan}, "noisy_labels must be a share from 0 to 1, got nan"),
        ({"flipped_labels": 1.01}, r"flipped_labels must be a share from 0 to 1, got 1\.01"),
        ({"mispaired": -0.1}, r"mispaired must be a share from 0 to 1, got -0\.1"),
        ({"blank": -1.0}, r"blank must be a share from 0 to 1, got -1\.0"),
        ({"modality_noise": {"sound": 1.0}}, r"must name modalities \(vector, text, image\), got 'sound'"),
        (
            {"modality_noise": {"text": 2.0}},
            r"modality_noise\['text'\] must be a share from 0 to 1, got 2\.0",
        ),
        (
            {"modality_noise": {"image": -1.0}},
            r"modality_noise\['image'\] must be finite and at least 0, got -1",
        ),
        ({"modality_noise": {"image": math.inf}}, r"modality_noise\['image'\] must be finite .*, got inf"),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(
    small: Dataset, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(small, **arguments, seed=1)
