"""NVGesture and UCF-101 in each layout in which they are found."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer_client.reference.datasets import making
from trainer_client.reference.datasets import SETS, read_set
from trainer_client.reference.datasets.check import verify
from trainer_client.reference.datasets.media import Decoding, Pictures
from trainer_client.reference.datasets.samples import MediaDataset

SMALL = Decoding(pictures=Pictures(2, side=16))


def gestures(root: Path, rest: str = "_cvpr2016_v2", last: int = 5) -> None:
    for part, subjects in (("train", (1, 2, 3)), ("test", (4,))):
        lines = [
            f"path:./Video_data/class_{gesture:02d}/subject{subject}_r0 depth:sk_depth:0:{last} "
            f"color:sk_color:2:{last} duo_left:duo_left:0:3 label:{gesture}\r\n"
            for subject in subjects
            for gesture in (1, 25)
        ]
        making.write(root / f"nvgesture_{part}_correct{rest}.lst", "".join(lines))
        for line in lines:
            folder = root / line.partition(" ")[0].removeprefix("path:./")
            for sensor in ("color", "depth"):
                making.film(folder / f"sk_{sensor}.avi")


@pytest.mark.parametrize("rest", ["_cvpr2016_v2", "_v2", ""])
def test_nvgesture(rest: str, tmp_path: Path) -> None:
    gestures(tmp_path, rest)
    index = read_set(tmp_path, "nvgesture")
    assert index.counts() == {"train": 4, "validation": 2, "test": 2}
    assert len({Path(sample.key).name for sample in index.samples if sample.split == "validation"}) == 1
    assert [sample.label for sample in index.samples][:2] == [0, 24]
    assert index.modalities == ("color", "depth")
    assert index.report.notes == (
        "flow is not here, which not every copy has",
        "2 samples for validation are chosen here, by subject, seed 0",
    )
    media, _ = MediaDataset(index, "test", SMALL)[0]
    assert media["color"].shape == media["depth"].shape == (3, 2, 16, 16)
    assert media["depth"].mean() < media["color"].mean()  # each frame is brighter than the one before


def test_nvgesture_with_flow_by_the_number_of_its_line(tmp_path: Path) -> None:
    gestures(tmp_path)
    for part, count in (("train", 6), ("test", 2)):
        for row in range(count):
            making.features(tmp_path / "flow" / part / f"{row}.npy", (2, row + 1))
    index = read_set(tmp_path, "nvgesture")
    assert index.modalities == ("color", "depth", "flow")
    assert MediaDataset(index, "test", SMALL)[1][0]["flow"].shape == (2, 2)


def test_a_film_that_ends_before_its_gesture_is_named(tmp_path: Path) -> None:
    gestures(tmp_path)
    making.film(tmp_path / "Video_data/class_01/subject4_r0/sk_color.avi", length=1)
    report = verify(read_set(tmp_path, "nvgesture")).report
    [fault] = report.broken
    assert fault.startswith("Video_data/class_01/subject4_r0/sk_color.avi: 1 frames in it, of which those from 2 on")
    with (tmp_path / "nvgesture_test_correct_cvpr2016_v2.lst").open("a") as file:
        file.write("path:./Video_data/class_01/subject9_r0 label:1\n")
    assert len(read_set(tmp_path, "nvgesture", leave_out=True).report.broken) == 1


CLIPS = [f"v_{label}_g{group:02d}_c01" for group in (1, 2, 8, 9, 10) for label in ("Archery", "BabyCrawling")]


def label(clip: str) -> str:
    return clip.split("_")[1]


def ucf_lists(root: Path, number: str = "01", zero: str = "") -> None:
    making.write(root / "classInd.txt", "1 Archery\r\n2 BabyCrawling\r\n")
    number_of = {"Archery": 1, "BabyCrawling": 2}
    train = "".join(f"{label(clip)}/{clip}.avi {number_of[label(clip)]}\r\n" for clip in CLIPS[4:])
    making.write(root / f"trainlist{number}.txt", train)
    numbers = [f" {number_of[label(clip)]}" if zero else "" for clip in CLIPS[:4]]
    rows = "".join(f"{label(clip)}/{clip}.avi{told}\r\n" for clip, told in zip(CLIPS[:4], numbers, strict=True))
    making.write(root / f"testlist{number}.txt", rows)


def ucf_films(root: Path) -> None:
    ucf_lists(root)
    for clip in CLIPS:
        making.film(root / "UCF-101" / label(clip) / f"{clip}.avi")


def ucf_frames(root: Path) -> None:
    ucf_lists(root, zero="0")
    for clip in CLIPS:
        making.frames(root / "jpegs_256" / clip, ["frame000001.jpg", "frame000002.jpg"])
        for direction in "uv":
            making.frames(root / "tvl1_flow" / direction / clip, ["frame000001.jpg", "frame000002.jpg"])


@pytest.mark.parametrize("make", [ucf_films, ucf_frames])
def test_ucf_101(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "ucf-101")
    assert index.listed() == {"train": 6, "validation": 0, "test": 4}
    assert index.counts()["validation"] == 1
    media, _ = MediaDataset(index, "train", SMALL)[0]
    assert media["video"].shape == (3, 2, 16, 16)
    assert ("flow" in media) == (make is ucf_frames)
    if make is ucf_frames:
        assert media["flow"].shape == (2, 2, 16, 16)
        assert -1 <= media["flow"].min() < media["flow"].max() <= 1


def test_another_split_of_ucf_101(tmp_path: Path) -> None:
    ucf_films(tmp_path)
    ucf_lists(tmp_path, "03")
    assert read_set(tmp_path, "ucf-101", split="official-3").listed()["train"] == 6
    with pytest.raises(ValueError, match="has none of the lists of ucf-101"):
        read_set(tmp_path, "ucf-101", split="official-2")


def test_a_half_of_the_flow_and_a_wrong_number_are_faults(tmp_path: Path) -> None:
    ucf_frames(tmp_path)
    for path in (tmp_path / "tvl1_flow" / "v" / CLIPS[0]).iterdir():
        path.unlink()
    with (tmp_path / "trainlist01.txt").open("a") as file:
        file.write("Archery/v_Archery_g11_c01.avi 2\n")
    assert read_set(tmp_path, "ucf-101", leave_out=True).report.broken == (
        "trainlist01.txt:7: 2 is not the number of Archery in classInd.txt",
        f"tvl1_flow/v/{CLIPS[0]}: no picture in it",
    )


def test_what_is_published() -> None:
    assert [one.counts() for one in SETS["nvgesture"].published] == [{"train": 1050, "test": 482}]
    assert SETS["ucf-101"].published[0].counts() == {"train": 9_537, "test": 3_783}
