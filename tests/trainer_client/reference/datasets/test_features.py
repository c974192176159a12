"""CMU-MOSEI in its safe forms, and IEMOCAP, in each layout in which they are found."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.trainer_client.reference.datasets import making
from trainer_client.reference.datasets import SETS, read_set
from trainer_client.reference.datasets.check import verify
from trainer_client.reference.datasets.folder import Text
from trainer_client.reference.datasets.media import Decoding, LogMel, Pictures
from trainer_client.reference.datasets.samples import MediaDataset

PARTS = {"train": 3, "valid": 2, "test": 2}


def arrays(count: int) -> dict[str, np.ndarray]:
    audio = np.ones((count, 5, 2), np.float32)
    audio[0, 0, 0] = -np.inf
    return {
        "vision": np.ones((count, 5, 3), np.float64),
        "text": np.ones((count, 5, 4), np.float32),
        "audio": audio,
        "labels": np.linspace(-3, 3, count, dtype=np.float32).reshape(count, 1, 1),
    }


def mosei_npz(root: Path) -> None:
    for part, count in PARTS.items():
        np.savez(root / f"{part}.npz", **arrays(count))


def mosei_safetensors(root: Path) -> None:
    for part, count in PARTS.items():
        save_file(arrays(count), root / f"{part}.safetensors")


def mosei_npy(root: Path) -> None:
    for part, count in PARTS.items():
        (root / part).mkdir()
        for name, values in arrays(count).items():
            np.save(root / part / f"{name}.npy", values)


@pytest.mark.parametrize("make", [mosei_npz, mosei_safetensors, mosei_npy])
def test_mosei(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = verify(read_set(tmp_path, "cmu-mosei"))
    assert index.report.whole, str(index.report)
    assert index.counts() == {"train": 3, "validation": 2, "test": 2}
    assert [sample.label for sample in index.samples] == [0, 1, 1, 0, 1, 0, 1]
    media, _ = MediaDataset(index, "train")[0]
    assert {name: tuple(values.shape) for name, values in media.items()} == {
        "text": (5, 4),
        "audio": (5, 2),
        "vision": (5, 3),
    }
    assert media["audio"].flatten()[:2].tolist() == [0, 1]  # −inf is silence


def test_a_pickle_of_mosei_is_refused_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "mosei_senti_data.pkl").write_bytes(pickle.dumps({"train": {}}))
    with pytest.raises(ValueError, match=r"mosei_senti_data\.pkl is a pickle, .* numpy\.savez"):
        read_set(tmp_path, "cmu-mosei")
    np.savez(tmp_path / "train.npz", labels=np.array([{}], object))
    with pytest.raises(ValueError, match=r"train\.npz must hold an array labels of numbers: Object arrays"):
        read_set(tmp_path, "cmu-mosei")


def test_arrays_of_mosei_that_are_too_short_or_say_what_no_label_says(tmp_path: Path) -> None:
    mosei_npz(tmp_path)
    wrong = arrays(3)
    wrong["labels"][1] = np.nan
    np.savez(tmp_path / "test.npz", **{**wrong, "audio": wrong["audio"][:2]})
    report = verify(read_set(tmp_path, "cmu-mosei", leave_out=True)).report
    assert report.broken == (
        "test.npz[1]: sentiment must be −3 to 3, got nan",
        "test.npz: index 2 is out of bounds for axis 0 with size 2",
    )


CLIPS = [f"Ses0{session}F_impro0{part}_F00{k}" for session in (1, 2, 3) for part in (1, 2) for k in (0, 1)]


def iemocap_lists(root: Path, dev: bool) -> None:
    line = "{}.mp4 [split|sign] Oh, right, {}. [split|sign] {}\r\n"
    parts = {"train": CLIPS[:8], "test": CLIPS[10:]}
    parts |= {"dev": CLIPS[8:10]} if dev else {"train": CLIPS[:10]}
    for part, clips in parts.items():
        text = "".join(line.format(clip, k, ("Angry", "Sad")[k % 2]) for k, clip in enumerate(clips))
        making.write(root / f"my_{part}_iemo.txt", text)


def iemocap_films(root: Path) -> None:
    iemocap_lists(root, dev=False)
    for clip in CLIPS:
        making.recording(root / "subaudio" / f"{clip}.wav")
        making.film(root / "subvideo" / f"{clip}.mp4")


def iemocap_frames(root: Path) -> None:
    iemocap_lists(root, dev=True)
    for part, clips in (("train", CLIPS[:8]), ("dev", CLIPS[8:10]), ("test", CLIPS[10:])):
        for clip in clips:
            making.features(root / "audio" / f"{part}_fbank" / f"{clip}.npy")
            making.frames(root / "visual" / f"{part}_imgs" / "Image-01-FPS" / clip, ["frame_0_1.jpg"])


@pytest.mark.parametrize("make", [iemocap_films, iemocap_frames])
def test_iemocap(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    index = read_set(tmp_path, "iemocap")
    assert index.counts() == {"train": 8, "validation": 2, "test": 2}
    assert index.classes == ("Angry", "Happy", "Neutral", "Sad")
    assert index.modalities == ("audio", "video", "text")
    assert index.samples[1].media["text"] == Text("Oh, right, 1.")
    assert Decoding(LogMel(0.1, bands=8), Pictures(2, side=16))(index.samples[0].media["video"]).shape == (3, 2, 16, 16)
    sessions = {(sample.key[:5], sample.split) for sample in read_set(tmp_path, "iemocap", split="sessions").samples}
    assert len(sessions) == 3


def test_a_line_of_iemocap_that_is_cut(tmp_path: Path) -> None:
    iemocap_films(tmp_path)
    with (tmp_path / "my_test_iemo.txt").open("a") as file:
        file.write("Ses04F_script02_2_F034.mp4 [split|sign] Oh\n")
    assert read_set(tmp_path, "iemocap", leave_out=True).report.broken == (
        "my_test_iemo.txt:3: 'Ses04F_script02_2_F034.mp4 [split|sign] Oh' is not a clip, its text and its emotion",
    )


def test_what_is_published() -> None:
    assert SETS["cmu-mosei"].published[0].counts() == {"train": 16_326, "validation": 1_871, "test": 4_659}
    assert SETS["iemocap"].published[0].counts() == {"train": 3_318, "test": 1_107}
