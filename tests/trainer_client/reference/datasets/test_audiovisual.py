"""Kinetics-Sounds, VGGSound and AVE in each layout in which they are found."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer_client.reference.datasets import making
from trainer_client.reference.datasets import SETS, IncompleteError, read_set
from trainer_client.reference.datasets.media import Decoding, LogMel, Pictures
from trainer_client.reference.datasets.samples import MediaDataset

FILMS = [f"film-{letter}_____" for letter in "abcdef"]
SMALL = Decoding(LogMel(0.1, bands=8), Pictures(2, side=16))


def kinetics_commas(root: Path) -> None:
    cuts = [f"{film}_000058_000068" for film in FILMS[:4]]
    making.write(root / "my_train.txt", "".join(f"{cut},10,{k}\r\n" for k, cut in enumerate(cuts)))
    making.write(root / "my_test.txt", "".join(f"{film}_2,10,30\r\n" for film in FILMS[4:]))
    for part, clips in (("train", cuts), ("test", [f"{film}_2" for film in FILMS[4:]])):
        for clip in clips:
            making.features(root / "audio" / f"{part}_fbank" / f"{clip}.npy")
            making.frames(root / "visual" / f"{part}_imgs" / "Image-01-FPS" / clip)


def kinetics_spaces(root: Path) -> None:
    making.write(root / "train.txt", "".join(f"{film} 0 10 {k}\n" for k, film in enumerate(FILMS[:4])))
    making.write(root / "test.txt", "".join(f"{film} 0 10 30\n" for film in FILMS[4:]))
    for film in FILMS:
        making.features(root / "audio" / f"{film}.npy")
        making.frames(root / "visual" / film)


def kinetics_table(root: Path) -> None:
    parts = {"train": FILMS[:4], "test": FILMS[4:]}
    for part, films in parts.items():
        rows = "".join(f"{film}-000002,{k if part == 'train' else 30}\n" for k, film in enumerate(films))
        making.write(root / "annotations" / f"{part}.csv", f"\ufeffyoutube_id,label\n{rows}")
        for film in films:
            making.recording(root / f"{part}_wav" / f"{film}-000002.wav")
            making.frames(root / f"{part}_img" / "Image-01-FPS" / f"{film}-000002")


@pytest.mark.parametrize("make", [kinetics_commas, kinetics_spaces, kinetics_table])
def test_kinetics_sounds(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "kinetics-sounds")
    assert index.counts() == {"train": 3, "validation": 1, "test": 2}
    assert len(index.classes) == 31
    assert [sample.label for sample in index.samples] == [0, 1, 2, 3, 30, 30]
    media, _ = MediaDataset(index, "test", SMALL)[0]
    assert media["video"].shape == (3, 2, 16, 16)


def test_cuts_of_one_film_are_on_one_side(tmp_path: Path) -> None:
    cuts = [f"{film}_{second}" for film in FILMS[:3] for second in (1, 2, 3)]
    making.write(tmp_path / "my_train.txt", "".join(f"{cut},10,{k % 2}\n" for k, cut in enumerate(cuts)))
    making.write(tmp_path / "my_test.txt", f"{FILMS[5]}_1,10,0\n")
    for clip in (*cuts, f"{FILMS[5]}_1"):
        making.features(tmp_path / "audio" / f"{clip}.npy")
        making.frames(tmp_path / "visual" / clip)
    index = read_set(tmp_path, "kinetics-sounds")
    assert index.counts() == {"train": 6, "validation": 3, "test": 1}
    assert len({sample.key[:11] for sample in index.samples if sample.split == "validation"}) == 1


def test_a_validation_list_is_used_and_its_media_may_lie_with_those_for_training(tmp_path: Path) -> None:
    kinetics_table(tmp_path)
    train = tmp_path / "annotations" / "train.csv"
    *kept, last = train.read_text().splitlines(keepends=True)
    train.write_text("".join(kept))
    making.write(tmp_path / "annotations" / "valid.csv", f"youtube_id,label\n{last}")
    assert read_set(tmp_path, "kinetics-sounds").listed() == {"train": 3, "validation": 1, "test": 2}


def vggsound_rows(root: Path) -> None:
    names = ["dog barking", 'playing "bass, drum"']
    rows = [f'{film},{30 * k},"{names[k % 2].replace(chr(34), chr(34) * 2)}",train' for k, film in enumerate(FILMS[:4])]
    rows += [f"{film},5,dog barking,test" for film in FILMS[4:]]
    making.write(root / "vggsound.csv", "\r\n".join(rows))
    for k, film in enumerate(FILMS):
        part, second = ("train", 30 * k) if k < 4 else ("test", 5)
        making.recording(root / f"{part}-audios" / f"{part}-set" / f"{film}_{second}.wav")
        making.frames(root / f"{part}-videos" / f"{part}-set-img" / "Image-01-FPS" / f"{film}_{second}.mp4")


def vggsound_padded_films(root: Path) -> None:
    making.write(
        root / "vggsound.csv",
        "".join(f"{f},7,{'ab'[k % 2]},{'train' if k < 4 else 'test'}\n" for k, f in enumerate(FILMS)),
    )
    for film in FILMS:
        making.recording(root / "audio" / f"{film}_000007.wav")
        making.film(root / "video" / f"{film}_000007.mp4")


def vggsound_tables(root: Path) -> None:
    making.write(root / "label_encoding.json", '{"dog barking": 0, "bass": 1}')
    for part, films in (("train", FILMS[:4]), ("test", FILMS[4:])):
        making.write(root / f"{part}.csv", "id,label\n" + "".join(f"{f},{k % 2}\n" for k, f in enumerate(films)))
        for film in films:
            making.recording(root / f"{part}_wav" / f"{film}.wav")
            making.frames(root / f"{part}_img" / "Image-01-FPS" / film)


@pytest.mark.parametrize("make", [vggsound_rows, vggsound_padded_films, vggsound_tables])
def test_vggsound(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "vggsound")
    assert index.counts() == {"train": 3, "validation": 1, "test": 2}
    assert index.modalities == ("audio", "video")
    assert {
        vggsound_rows: ("dog barking", 'playing "bass, drum"'),
        vggsound_padded_films: ("a", "b"),
        vggsound_tables: ("bass", "dog barking"),
    }[make] == index.classes
    media, _ = MediaDataset(index, "train", SMALL)[0]
    assert media["audio"].shape == (1, 8, 11)
    assert media["video"].shape == (3, 2, 16, 16)


def ave_lists(root: Path, folder: str = "") -> None:
    making.write(root / folder / "trainSet.txt", "".join(f"Church bell&{film}&good&0&10\n" for film in FILMS[:3]))
    making.write(root / folder / "valSet.txt", f"Bark&{FILMS[3]}&good&2&5\n")
    making.write(root / folder / "testSet.txt", f"Church bell&{FILMS[4]}&good&0&5\nBark&{FILMS[5]}&good&0&5")


def ave_frames(root: Path) -> None:
    ave_lists(root)
    for film in FILMS:
        making.recording(root / "Audio" / f"{film}.wav")
        making.frames(root / "Image-01-FPS-SE" / film)


def ave_features(root: Path) -> None:
    ave_lists(root)
    for part, films in (("train", FILMS[:3]), ("val", FILMS[3:4]), ("test", FILMS[4:])):
        for film in films:
            making.features(root / "AVE" / "audio" / f"{part}_fbank" / f"{film}.npy")
            making.frames(root / "AVE" / "visual" / f"{part}_imgs" / "Image-01-FPS" / film)


def ave_films(root: Path) -> None:
    ave_lists(root, "AVE_Dataset")
    for film in FILMS:
        making.film(root / "AVE_Dataset" / "AVE" / f"{film}.mp4", sound=True)


@pytest.mark.parametrize("make", [ave_frames, ave_features, ave_films])
def test_ave(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "ave")
    assert index.counts() == index.listed() == {"train": 3, "validation": 1, "test": 2}
    assert index.classes == ("Bark", "Church bell")
    media, label = MediaDataset(index, "validation", SMALL)[0]
    assert media["video"].shape == (3, 2, 16, 16)
    assert label == 0


def test_films_of_ave_in_two_classes_or_splits_are_told_and_repeated_lines_are_faults(tmp_path: Path) -> None:
    ave_frames(tmp_path)
    with (tmp_path / "trainSet.txt").open("a") as file:
        file.write(f"Bark&{FILMS[0]}&good&0&10\nBark&{FILMS[4]}&good&0&10\n")
    assert read_set(tmp_path, "ave").report.notes == (
        f"2 films are in more than one class, by the lists: {FILMS[0]}, {FILMS[4]}",
        f"1 films are in more than one split, by the lists: {FILMS[4]}",
    )
    with (tmp_path / "trainSet.txt").open("a") as file:
        file.write(f"Bark&{FILMS[0]}&good&3&10\nChurch bell&{FILMS[1]}\n")
    with pytest.raises(
        IncompleteError, match=r"1 broken: trainSet.txt:7: .*; 1 duplicate: trainSet.txt:6: Bark&film-a"
    ):
        read_set(tmp_path, "ave")


def test_a_missing_film_is_named(tmp_path: Path) -> None:
    ave_films(tmp_path)
    (tmp_path / "AVE_Dataset" / "AVE" / f"{FILMS[5]}.mp4").unlink()
    index = read_set(tmp_path, "ave", leave_out=True)
    assert index.report.missing == (f"AVE_Dataset/AVE/{FILMS[5]}.mp4",)
    assert index.listed()["test"] == 1


def test_what_is_published() -> None:
    published = {
        name: [one.counts() for one in SETS[name].published] for name in ("kinetics-sounds", "vggsound", "ave")
    }
    assert published == {
        "kinetics-sounds": [{"train": 15_000, "validation": 1_900, "test": 1_900}, {"train": 14_799, "test": 2_597}],
        "vggsound": [{"train": 168_618, "test": 13_954}],
        "ave": [
            {"train": 3339, "validation": 402, "test": 402},
            {"train": 3338, "validation": 402, "test": 402},
        ],
    }
