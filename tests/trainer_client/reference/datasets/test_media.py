"""Spectrograms, pictures, films and arrays: values that can be known beforehand, and files that can't be read."""

from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer_client.reference.datasets import making
from trainer_client.reference.datasets import BrokenFileError
from trainer_client.reference.datasets.folder import Audio, Features, Frames, Image, Medium, Video
from trainer_client.reference.datasets.media import (
    Decoding,
    LogMel,
    Pictures,
    frame_files,
    mel_filters,
    probe,
    read_features,
    read_frames,
    read_sound,
)


def test_mel_filters_are_triangles_evenly_spread_on_the_mel_scale() -> None:
    filters = mel_filters(40, 4096, 16_000)
    peaks = filters.argmax(1) * 16_000 / 4096
    mels = 1127 * np.log1p(peaks / 700)  # the scale's other form
    assert np.diff(mels).std() < 0.02 * np.diff(mels).mean()
    assert filters.min() == 0
    assert filters.max() <= 1
    between = slice(filters[0].argmax() + 1, filters[-1].argmax() + 1)
    assert filters[:, between].sum(0) == pytest.approx(1, abs=1e-5)  # one falls as its neighbour rises


@pytest.mark.parametrize("hertz", [300, 1000, 4000])
def test_a_tone_is_loudest_in_the_band_around_it(tmp_path: Path, hertz: int) -> None:
    mel = LogMel(seconds=0.2, bands=64)(*read_sound(making.recording(tmp_path / "tone.wav", 0.2, hertz)))
    assert mel.shape == (1, 64, 21)
    band = int(mel[0, :, 10].argmax())
    spectrum = mel_filters(64, 1024, 16_000)[:, round(hertz * 1024 / 16_000)]
    assert band == spectrum.argmax()


def test_the_power_of_a_frame_is_that_of_its_discrete_fourier_transform() -> None:
    wave = np.random.default_rng(0).standard_normal(3200).astype(np.float32) * 0.1
    mel = LogMel(seconds=0.2, bands=16)(wave, 16_000)[0, :, 10]
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(wave[1600 - 200 : 1600 + 200] * taper, 1024)) ** 2
    expected = np.log(mel_filters(16, 1024, 16_000) @ power)
    assert mel.numpy() == pytest.approx(expected, abs=1e-3)


def test_a_recording_is_resampled_mixed_and_filled_with_silence(tmp_path: Path) -> None:
    path = making.recording(tmp_path / "tone.wav", 0.1, 1000, rate=22_050)
    mel = LogMel(seconds=0.3, bands=64)(*read_sound(path))
    assert mel.shape == (1, 64, 31)
    assert int(mel[0, :, 5].argmax()) == mel_filters(64, 1024, 16_000)[:, 64].argmax()
    assert mel[0, :, -1].max() < -20


def test_pictures_are_cut_square_and_normalised(tmp_path: Path) -> None:
    values = Decoding(pictures=Pictures(side=8))(Image(making.picture(tmp_path / "grey.png", 124)))
    assert values.shape == (3, 8, 8)
    assert values[:, 4, 4].tolist() == pytest.approx([0.00566, 0.1352, 0.3564], abs=1e-3)


def test_frames_come_in_the_order_of_their_numbers_and_evenly_spread(tmp_path: Path) -> None:
    making.frames(tmp_path, ["frame_2.jpg", "frame_10.jpg", "frame_1.jpg"])
    making.write(tmp_path / "frame_3.txt", "no picture")
    assert [path.name for path in frame_files(tmp_path)] == ["frame_1.jpg", "frame_2.jpg", "frame_10.jpg"]
    assert Pictures(3).places(9) == [1, 4, 7]
    assert Pictures(3).places(1) == [0, 0, 0]
    assert Pictures(1).places(10) == [5]


def test_of_a_film_the_asked_frames_are_taken(tmp_path: Path) -> None:
    path = making.film(tmp_path / "film.mp4", length=6)
    shades = [np.array(frame).mean() for frame in read_frames(Video(path, 1, 5), lambda length: list(range(length)))]
    assert shades == pytest.approx([30, 60, 90, 120], abs=6)


def test_sound_of_a_film_is_heard(tmp_path: Path) -> None:
    samples, rate = read_sound(making.film(tmp_path / "film.mp4", sound=True))
    assert rate == 22_050
    loud = np.abs(np.fft.rfft(samples[4000:8096]))
    assert loud.argmax() * rate / 4096 == pytest.approx(440, abs=6)


def test_features_are_read_without_running_what_is_in_them(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    torch.save({"audio": torch.ones(2)}, tmp_path / "two.pt")
    torch.save(Path("x"), tmp_path / "any.pt")
    torch.save(torch.tensor([1.0, -torch.inf]), tmp_path / "one.pt")
    assert read_features(tmp_path / "one.pt").tolist() == [1, 0]
    for name, why in (("objects.npy", "allow_pickle"), ("two.pt", "one tensor, got a dict"), ("any.pt", "more than a")):
        with pytest.raises(BrokenFileError, match=why):
            read_features(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "medium"), [("a.wav", Audio), ("a.mp4", Audio), ("a.jpg", Image), ("a.mp4", Video), ("a.npy", Features)]
)
def test_a_file_of_something_else_is_named(name: str, medium: type[Medium], tmp_path: Path) -> None:
    path = making.write(tmp_path / name, "no such thing " * 20)
    with pytest.raises(BrokenFileError, match=name) as caught:
        probe(medium(path))  # type: ignore[arg-type]
    assert caught.value.path == path
    assert str(copy(caught.value)) == str(caught.value)  # as what crosses from a worker is


def test_a_film_without_sound_and_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match="no sound in it"):
        read_sound(making.film(tmp_path / "film.mp4"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BrokenFileError, match="no picture in it"):
        probe(Frames(tmp_path / "empty"))


def test_an_old_torch_reads_no_pt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torch.ones(2), tmp_path / "one.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(BrokenFileError, match=r"torch 2\.6 or newer is needed to read it safely, got 2\.5\.1"):
        read_features(tmp_path / "one.pt")
