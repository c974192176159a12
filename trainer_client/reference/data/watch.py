"""Smartwatch recordings of shoulder exercises: accelerometer and gyroscope; the label is the exercise."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .dataset import Array

PACKAGES = ("seglearn",)
LICENCE = "Recordings by D. Burns et al. (arXiv:1802.01489), from seglearn 1.2.5, BSD 3-clause."

RATE = 50  # samples a second
LENGTH = 2 * RATE
STRIDE = 1 * RATE

VALIDATION_SUBJECTS = (7,)
TEST_SUBJECTS = (8, 9, 10)


def build() -> dict[str, Array]:
    """Make the arrays of a prepared `.npz`: accelerometer and gyroscope (n, 3, 100) float32.

    Windows of 2 s, one every second, in the order of the recordings. Raises ImportError without the packages.
    """
    from seglearn.datasets import load_watch

    data = load_watch()  # unpickles a file of the pinned package; what is cached holds no pickles
    windows = [cut(recording) for recording in data["X"]]
    source = np.repeat(np.arange(len(windows)), [len(of_one) for of_one in windows])
    signals = np.concatenate(windows).astype(np.float32)
    labels = np.array(data["y"], np.int64)[source]
    subjects = np.array(data["subject"], np.int64)[source]
    return {
        "accelerometer": signals[:, :3],
        "gyroscope": signals[:, 3:],
        "y": labels,
        "split": _split(subjects),
        "modalities": np.array(["accelerometer", "gyroscope"]),
        "classes": np.array(data["y_labels"]),
        "captions": np.array(_captions(data, windows)),
        "licence": np.array(LICENCE),
    }


def cut(recording: Array) -> Array:
    """Windows (w, channels, 100) of a recording (time, channels), one a second; the rest is dropped."""
    return np.lib.stride_tricks.sliding_window_view(recording, LENGTH, axis=0)[::STRIDE]


def _split(subjects: Array) -> Array:
    """0 train, 1 validation or 2 test for each subject number (n,)."""
    held_out = [np.isin(subjects, VALIDATION_SUBJECTS), np.isin(subjects, TEST_SUBJECTS)]
    return np.select(held_out, [1, 2], default=0).astype(np.uint8)


def _captions(data: dict[str, Any], windows: Sequence[Array]) -> list[str]:
    captions = []
    for label, subject, side, of_one in zip(data["y"], data["subject"], data["side"], windows, strict=True):
        arm = "right arm" if side else "left arm"
        recording = f"{data['y_labels'][label]}, subject {subject}, {arm}"
        captions += [f"{recording}, second {start}" for start in range(len(of_one))]
    return captions
