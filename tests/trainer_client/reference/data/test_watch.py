import re

import numpy as np

from trainer_client.reference.data import Dataset
from trainer_client.reference.data.watch import cut


def subjects(watch: Dataset, split: str) -> set[int]:
    matches = [re.search(r"subject (\d+)", watch.captions[index]) for index in watch.indices(split)]
    return {int(match[1]) for match in matches if match}


def test_it_has_two_sensors_of_three_axes_in_windows_of_two_seconds(watch: Dataset) -> None:
    assert {name: x.shape for name, x in watch.modalities.items()} == {
        "accelerometer": (4677, 3, 100),
        "gyroscope": (4677, 3, 100),
    }


def test_nobody_is_on_two_sides_of_the_split(watch: Dataset) -> None:
    assert subjects(watch, "train") == {1, 2, 3, 4, 5, 6}
    assert subjects(watch, "validation") == {7}
    assert subjects(watch, "test") == {8, 9, 10}


def test_every_split_has_all_seven_exercises(watch: Dataset) -> None:
    assert watch.classes == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
    for split in ("train", "validation", "test"):
        assert set(watch.labels[watch.indices(split)].tolist()) == set(range(7))


def test_labels_agree_with_the_captions(watch: Dataset) -> None:
    assert [watch.classes[label] for label in watch.labels] == [name.split(",")[0] for name in watch.captions]


def test_a_window_starts_every_second_and_the_rest_is_dropped() -> None:
    recording = np.stack([np.arange(249), -np.arange(249)], axis=1)
    windows = cut(recording)
    assert windows.shape == (3, 2, 100)
    assert windows[:, 0, 0].tolist() == [0, 50, 100]
    assert windows[2, 1].tolist() == [-time for time in range(100, 200)]


def test_windows_of_a_recording_overlap_by_one_second(watch: Dataset) -> None:
    assert [watch.captions[index].rsplit(" ", 1)[1] for index in (0, 1)] == ["0", "1"]
    for signal in watch.modalities.values():
        np.testing.assert_array_equal(signal[0, :, 50:], signal[1, :, :50])


def test_its_licence_is_named(watch: Dataset) -> None:
    assert "BSD" in watch.licence
