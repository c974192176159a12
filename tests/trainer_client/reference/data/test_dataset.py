from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainer_client.reference.data import Dataset

X = np.zeros((3, 2), np.float32)


def three(**changes: Any) -> Dataset:
    """The smallest data set there is, one sample a split, with some of its parts changed."""
    parts: dict[str, Any] = {
        "name": "three",
        "modalities": {"u": X, "v": X},
        "labels": np.array([0, 1, 0]),
        "split": np.array([0, 1, 2], np.uint8),
        "classes": ("no", "yes"),
    }
    return Dataset(**parts | changes)


def test_indices_tell_the_samples_of_each_split(small: Dataset) -> None:
    assert small.indices("validation").tolist() == list(range(1, 300, 3))


def test_a_vocabulary_has_a_row_for_every_token_id_and_one_for_padding(small: Dataset) -> None:
    assert small.vocabulary("text") == small.modalities["text"].max() + 1


def test_features_have_no_vocabulary(small: Dataset) -> None:
    with pytest.raises(ValueError, match="modality 'vector' holds float32 features, not token ids"):
        small.vocabulary("vector")


def test_an_unknown_split_is_named_in_the_error(small: Dataset) -> None:
    with pytest.raises(ValueError, match="one of train, validation, test, got 'dev'"):
        small.indices("dev")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("one",)}, r"classes must be at least 2, got \['one'\]"),
        ({"labels": np.array([0.0, 1.0, 0.0])}, r"labels must be int64 of shape \(n,\), got float64"),
        ({"labels": np.array([0, 2, 0])}, "labels must be 0 to 1, got 2 in row 1"),
        ({"labels": np.array([0, -1, 0])}, "labels must be 0 to 1, got -1 in row 1"),
        ({"split": np.array([0, 1, 2])}, r"split must be uint8 of shape \(3,\), got int64"),
        (
            {"split": np.array([0, 1], np.uint8)},
            r"split must be uint8 of shape \(3,\), got uint8 of shape \(2,\)",
        ),
        ({"split": np.array([0, 1, 3], np.uint8)}, "split must be 0 .* or 2 .*, got 3"),
        ({"split": np.array([0, 0, 2], np.uint8)}, "at least one validation sample, got no 1"),
        ({"captions": ("a", "b")}, "captions must be 3 or none, got 2"),
        ({"modalities": {"u": X}}, r"modalities must be at least 2, got \['u'\]"),
        ({"modalities": {"u": X, "v": X[:2]}}, "modality 'v' must have one row for each of 3 labels, got 2"),
        ({"modalities": {"u": X, "v": X.astype("f8")}}, "modality 'v' must be float32 .* got float64"),
        ({"modalities": {"u": X, "v": X[:, 0]}}, r"modality 'v' must be \(n, d\).* got .* shape \(3,\)"),
        ({"modalities": {"u": X, "v": X[:, :0]}}, r"modality 'v' must be \(n, d\).* got .* shape \(3, 0\)"),
        ({"modalities": {"u": X, "v": np.zeros((3, 2, 2), np.int64)}}, r"'v' must be .* shape \(3, 2, 2\)"),
        ({"modalities": {"u": X, "v": np.full((3, 2), -1)}}, "'v' must hold token ids of at least 0, got -1"),
        ({"modalities": {"u": X, "v": X + np.float32("nan")}}, r"'v' must be finite, got nan at \(0, 0\)"),
        ({"modalities": {"u": X, "v": X - np.float32("inf")}}, r"'v' must be finite, got -inf at \(0, 0\)"),
    ],
)
def test_parts_that_do_not_fit_are_named_with_their_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        three(**changes)


def test_a_changed_copy_is_checked_again() -> None:
    with pytest.raises(ValueError, match="labels must be 0 to 1, got 5"):
        replace(three(), labels=np.array([0, 1, 5]))
