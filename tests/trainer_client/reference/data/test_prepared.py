import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer_client.reference.data import load
from trainer_client.reference.data.prepared import normalise

N = 30


def save(path: Path, **changes: Any) -> Path:
    """A prepared set of three modalities, with arrays changed, added or (None) left out."""
    rng = np.random.default_rng(0)
    arrays = {
        "far": rng.normal(1000, 50, (N, 4)),
        "picture": rng.integers(0, 256, (N, 3, 8, 8), np.uint8),
        "words": rng.integers(0, 99, (N, 5)),
        "y": np.arange(N) % 2,
        "split": (np.arange(N) % 3).astype(np.uint8),
        "modalities": np.array(["far", "picture", "words"]),
        "classes": np.array(["even", "odd"]),
    } | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


def test_a_prepared_set_is_loaded_by_its_path(tmp_path: Path) -> None:
    dataset = load(save(tmp_path / "made.npz"))
    assert (dataset.name, list(dataset.modalities), dataset.classes) == (
        "made",
        ["far", "picture", "words"],
        ("even", "odd"),
    )


def test_a_path_can_choose_views_and_their_order(tmp_path: Path) -> None:
    dataset = load(f"{save(tmp_path / 'made.npz')}:words,far")
    assert (dataset.name, list(dataset.modalities)) == ("made:words,far", ["words", "far"])


def test_captions_and_licence_may_come_along(tmp_path: Path) -> None:
    captions = [f"sample {index}" for index in range(N)]
    dataset = load(save(tmp_path / "made.npz", captions=np.array(captions), licence=np.array("CC0")))
    assert (dataset.captions, dataset.licence) == (tuple(captions), "CC0")


def test_vectors_are_normalised_column_by_column_over_the_training_samples(tmp_path: Path) -> None:
    dataset = load(save(tmp_path / "made.npz"))
    training = dataset.modalities["far"][dataset.indices("train")]
    np.testing.assert_allclose(training.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(training.std(0), 1, atol=1e-5)


def test_pictures_are_normalised_channel_by_channel_over_the_training_samples(tmp_path: Path) -> None:
    dataset = load(save(tmp_path / "made.npz"))
    training = dataset.modalities["picture"][dataset.indices("train")]
    np.testing.assert_allclose(training.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(training.std((0, 2, 3)), 1, atol=1e-5)


def test_held_out_samples_do_not_move_the_statistics() -> None:
    values = np.array([[0.0], [2.0], [1000.0]], np.float32)
    assert normalise(values, np.array([True, True, False])).tolist() == [[-1.0], [1.0], [999.0]]


def test_a_constant_feature_becomes_zero_and_stays_finite() -> None:
    values = np.array([[0.1], [0.1], [0.1], [0.6]], np.float32)
    normalised = normalise(values, np.array([True, True, True, False]))
    np.testing.assert_allclose(normalised.ravel(), np.array([0, 0, 0, 0.5]), atol=1e-6)


def test_token_ids_come_back_as_they_are(tmp_path: Path) -> None:
    words = np.arange(N * 5).reshape(N, 5)
    assert load(save(tmp_path / "made.npz", words=words)).modalities["words"].tolist() == words.tolist()


@pytest.mark.parametrize(
    ("changes", "views", "message"),
    [
        (
            {"split": None},
            "",
            "array 'split' is missing, it holds far, picture, words, y, modalities, classes",
        ),
        ({"words": None}, "", "array 'words' is missing"),
        ({}, ":far,sound", "modality 'sound' is missing, it holds far, picture, words"),
        ({}, ":far", r"modalities must be at least 2, got \['far'\]"),
        ({"words": np.zeros((N, 5), np.int16)}, "", "modality 'words' must be float32 .* got int16"),
        ({"far": np.full((N, 4), np.nan)}, "", r"modality 'far' must be finite, got nan at \(0, 0\)"),
        ({"far": np.full((N, 4), 1e300)}, "", r"modality 'far' must be finite, got inf at \(0, 0\)"),
        ({"far": np.zeros((7, 4))}, "", "modality 'far' must have one row for each of 30 labels, got 7"),
        ({"y": None}, "", "array 'y' is missing"),
        ({"y": np.arange(N)}, "", "array 'y': labels must be 0 to 1, got 2 in row 2"),
        ({"y": np.arange(N) % 2 - 1}, "", "array 'y': labels must be 0 to 1, got -1 in row 0"),
        ({"y": np.zeros(N)}, "", r"array 'y': labels must be int64 .* got float64"),
        ({"y": np.zeros((N, 1), int)}, "", r"array 'y': labels must be int64 of shape \(n,\), got .* \(30, 1\)"),
        ({"y": np.arange(7) % 2}, "", r"split must be uint8 of shape \(7,\), got uint8 of shape \(30,\)"),
        ({"y": np.array([0, 1] * 15, object)}, "", "array 'y': .*allow_pickle=False"),
        ({"classes": np.array(["even"])}, "", r"classes must be at least 2, got \['even'\]$"),
        ({"classes": np.array("even")}, "", r"array 'classes' must have one axis, got shape \(\)"),
        ({"modalities": np.array("far")}, "", r"array 'modalities' must have one axis, got shape \(\)"),
        ({"captions": np.array("a")}, "", r"array 'captions' must have one axis, got shape \(\)"),
        ({"split": np.zeros(N, np.uint8)}, "", "at least one validation sample, got no 1"),
        ({"words": np.array([["a", 1]] * N, object)}, "", "array 'words': .*allow_pickle=False"),
    ],
)
def test_a_file_of_another_layout_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], views: str, message: str
) -> None:
    path = save(tmp_path / "made.npz", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load(f"{path}{views}")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kept", [0, 10, 2000])
def test_a_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    path = save(tmp_path / "made.npz")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cannot load .*made\.npz"):
        load(path)


class Exploit:
    """What a file must not be able to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("array", ["y", "far", "classes", "modalities", "split", "captions", "licence"])
def test_nothing_is_ever_unpickled(tmp_path: Path, array: str) -> None:
    path = save(tmp_path / "made.npz", **{array: np.array([Exploit()] * N, object)})
    with pytest.raises(ValueError, match=f"cannot load {path}: array '{array}': .*allow_pickle=False"):
        load(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("modalities", "classes", "y", "split"):
            archive.writestr(name, "hello")
    with pytest.raises(ValueError, match="array 'modalities': it is no array in NumPy's format"):
        load(path)


def test_a_header_that_claims_more_than_memory_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "made.npz", y=None)
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999999999,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"cannot load .*made\.npz: array 'y'"):
        load(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "made.npz").mkdir()
    with pytest.raises(ValueError, match=r"cannot load .*made\.npz: Is a directory"):
        load(tmp_path / "made.npz")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_changed_bytes_are_refused_or_change_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    path = save(tmp_path / "made.npz")
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        assert len(load(path)) == N
    except ValueError as error:
        assert str(error).startswith(f"cannot load {path}: ")
        assert "\n" not in str(error)


def test_a_path_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot load .*absent\.npz: there is no such file"):
        load(tmp_path / "absent.npz")
