"""Samples as a page can show them: picture, name, class, score."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.results import RunResult
from trainer_client.reference.data import Dataset, corrupt


@dataclass(frozen=True, slots=True)
class Card:
    """One training sample."""

    picture: str  # data URI of a PNG; empty where the set has no images
    name: str
    label: str  # the one it was trained with
    true_label: str
    score: float

    @property
    def is_wrong(self) -> bool:
        """Whether it was trained with a wrong label."""
        return self.label != self.true_label


def cards(result: RunResult, dataset: Dataset, numbers: Sequence[int]) -> list[Card]:
    """The training samples `numbers` of a run, as it was trained on them."""
    run = result.run
    noisy = corrupt(dataset, noisy_labels=run.condition.noisy_labels, seed=run.seed).dataset.labels
    pictures = image_bytes(dataset)
    training = dataset.indices("train")
    return [
        Card(
            picture="" if pictures is None else png_uri(pictures[index]),
            name=dataset.captions[index] if dataset.captions else f"sample {number}",
            label=dataset.classes[noisy[index]],
            true_label=dataset.classes[dataset.labels[index]],
            score=float(result.scores[number] or 0.0),
        )
        for number, index in ((number, training[number]) for number in numbers)
    ]


def image_bytes(dataset: Dataset) -> NDArray[np.uint8] | None:
    """The pictures as (n, h, w, channels) of 0 to 255; None where no modality is a picture.

    They come normalised by channel. Over the whole set each channel reaches 0 and 255, so its least and largest values
    undo that.
    """
    images: list[NDArray[Any]] = [values for values in dataset.modalities.values() if values.ndim == 4]
    if not images:
        return None
    values = images[0]
    low = values.min(axis=(0, 2, 3), keepdims=True)
    high = values.max(axis=(0, 2, 3), keepdims=True)
    scaled = 255 * (values - low) / np.where(high > low, high - low, 1)
    pictures: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    return pictures


def png_uri(picture: NDArray[np.uint8]) -> str:
    """A picture (h, w, channels) as a data URI."""
    stream = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(stream, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
