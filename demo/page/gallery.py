"""Suspects as a page can show them: picture, name, the label given, the likeliest other, and the truth."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.results import RunResult, Suspect
from demo.samples import samples_of
from trainer_client.reference.data import Dataset


@dataclass(frozen=True, slots=True)
class Card:
    """A suspected training sample."""

    picture: str  # data URI of a PNG; empty where the set has no images
    name: str
    given: str  # the label that it was trained with
    likeliest: str  # the likeliest other label
    true: str
    right: float  # P(the label is right)

    @property
    def is_wrong(self) -> bool:
        """Whether it was trained with a wrong label."""
        return self.given != self.true


def cards(result: RunResult, dataset: Dataset, suspects: Sequence[Suspect]) -> list[Card]:
    """Suspects of a run on a data set, which is given whole."""
    true = samples_of(result.run, dataset).true
    pictures = image_bytes(true)
    training = true.indices("train")
    return [
        Card(
            picture="" if pictures is None else png_uri(pictures[training[suspect.number]]),
            name=true.captions[training[suspect.number]] if true.captions else f"sample {suspect.number}",
            given=true.classes[suspect.given],
            likeliest=true.classes[suspect.likeliest],
            true=true.classes[true.labels[training[suspect.number]]],
            right=suspect.right,
        )
        for suspect in suspects
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
