import hashlib
import re
import zlib
from collections import defaultdict

import numpy as np
import pytest

from trainer_client.reference.data import Dataset
from trainer_client.reference.data.emoji import family, tokenise


def split_of(emoji: Dataset) -> dict[str, int]:
    return dict(zip(emoji.captions, emoji.split.tolist(), strict=True))


def test_it_has_1640_emoji_of_7_categories_as_image_and_text(emoji: Dataset) -> None:
    assert emoji.classes == ("activity", "food", "nature", "objects", "people", "symbols", "travel")
    assert {name: x.shape for name, x in emoji.modalities.items()} == {
        "image": (1640, 3, 32, 32),
        "text": (1640, 101),
    }


def test_skin_tones_flags_and_regional_letters_are_left_out(emoji: Dataset) -> None:
    assert not [name for name in emoji.captions if re.search(r"skin tone|\bflag:|regional indicator", name)]


def test_every_name_comes_once(emoji: Dataset) -> None:
    assert len(set(emoji.captions)) == len(emoji)


def test_the_split_is_60_20_20_in_every_class(emoji: Dataset) -> None:
    counts = np.stack([np.bincount(emoji.labels[emoji.split == value], minlength=7) for value in range(3)])
    shares = counts / counts.sum(0)
    np.testing.assert_allclose(shares, np.repeat([[0.6], [0.2], [0.2]], 7, axis=1), atol=0.02)


def test_the_split_is_the_one_that_every_result_was_measured_on(emoji: Dataset) -> None:
    lines = "\n".join(f"{name} {split}" for name, split in sorted(split_of(emoji).items()))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest == "1d7f4bf90b5320e05c31b5f23fa368fbb47804611efa1b04401424891290757d"


@pytest.mark.parametrize(
    "names",
    [
        ["man astronaut", "woman astronaut", "astronaut"],
        ["man in lotus position", "woman in lotus position", "person in lotus position"],
        ["men with bunny ears", "women with bunny ears", "people with bunny ears"],
        ["man: curly hair", "woman: curly hair", "person: curly hair", "curly hair"],
        ["man", "woman", "person", "boy", "girl", "child", "man: red hair", "person frowning"],
        ["old man", "old woman", "older person"],
        ["family", "family: man, woman, girl, boy", "family: adult, child"],
        ["kiss", "kiss: woman, man", "kiss: man, man"],
        ["couple with heart", "couple with heart: woman, woman"],
        ["woman and man holding hands", "men holding hands", "people holding hands"],
        ["merman", "mermaid", "merperson"],
        ["prince", "princess", "person with crown"],
        ["Santa Claus", "Mrs. Claus", "mx claus"],
        ["men’s room", "women’s room"],
        ["male sign", "female sign"],
        ["man running", "woman running facing right"],
        ["man with probing cane", "person with white cane facing right"],
        ["NEW button", "P button"],
        ["full moon", "yellow circle"],
    ],
)
def test_near_copies_are_a_family_and_stay_on_one_side(emoji: Dataset, names: list[str]) -> None:
    assert len({family(name) for name in names}) == 1
    assert len({split_of(emoji)[name] for name in names}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("kiss", "kiss mark"),
        ("man running", "running shoe"),
        ("snowman", "man"),
        ("mango", "man"),
        ("children crossing", "child"),
        ("right arrow", "left arrow"),
        ("woman’s hat", "top hat"),
    ],
)
def test_different_things_are_no_family(one: str, other: str) -> None:
    assert family(one) != family(other)


def test_no_names_on_two_sides_differ_only_in_who_is_shown(emoji: Dataset) -> None:
    who = r"\b(?:(?:wo)?m[ae]n|persons?|people|boys?|girls?|adults?|child(?:ren)?|(?:fe)?male)\b(?:’s)?"
    sides = defaultdict(set)
    for name, split in split_of(emoji).items():
        sides[" ".join(re.sub(who, " ", name.lower()).replace(":", " ").replace(",", " ").split())].add(split)
    assert [rest for rest, splits in sides.items() if len(splits) > 1] == []


def test_no_pictures_on_two_sides_look_the_same(emoji: Dataset) -> None:
    pictures = emoji.modalities["image"].reshape(len(emoji), -1)
    pictures = pictures / np.ptp(pictures)
    squares = (pictures**2).sum(1)
    mean_squares = (squares[:, None] + squares - 2 * pictures @ pictures.T) / pictures.shape[1]
    alike = (mean_squares < 0.04**2) & (emoji.split[:, None] != emoji.split)
    assert [(emoji.captions[i], emoji.captions[j]) for i, j in np.argwhere(alike)] == []


def test_a_joined_sequence_is_one_picture_of_its_own(emoji: Dataset) -> None:
    picture = dict(zip(emoji.captions, emoji.modalities["image"], strict=True))
    assert np.abs(picture["man astronaut"] - picture["man"]).mean() > 0.1
    assert np.abs(picture["polar bear"] - picture["bear"]).mean() > 0.1


def test_every_picture_shows_something_on_white(emoji: Dataset) -> None:
    images = emoji.modalities["image"]
    white = images.max((0, 2, 3), keepdims=True)
    inked = (np.abs(images - white) > 0.5).any(1).mean((1, 2))
    assert inked.min() > 0.01
    assert inked.max() < 0.95


def test_a_text_is_the_hashes_of_its_words_and_their_character_grams() -> None:
    shorter, longer = tokenise(["OX", "ox, fox"]).tolist()
    ox = [1 + zlib.crc32(gram) % 4096 for gram in (b"<ox>", b"<ox", b"ox>")]
    fox = [1 + zlib.crc32(gram) % 4096 for gram in (b"<fox>", b"<fo", b"fox", b"ox>", b"<fox", b"fox>")]
    assert longer == ox + fox
    assert shorter == ox + [0] * 6


def test_a_text_is_hashed_alike_in_every_process() -> None:
    assert tokenise(["ox"]).tolist() == [[2638, 2945, 2907]]


def test_text_carries_the_name_and_nothing_else(emoji: Dataset) -> None:
    assert emoji.modalities["text"].tolist() == tokenise(emoji.captions).tolist()


def test_its_licences_are_named(emoji: Dataset) -> None:
    assert "CC BY-SA 4.0" in emoji.licence
    assert "MIT" in emoji.licence
