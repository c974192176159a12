"""Internal: what samples show, for people who look at the service's page."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from bss_service.core.arrays import UInt8
from bss_service.core.samples.dynamics import are_kept
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.samples import MAX_TEXT, MAX_TOLD, Order, SampleDescriptions

SIDE: Final = 64  # pixels of a thumbnail

Show = Callable[[int], str | bytes]


def orders(spec: JobSpec) -> Sequence[Order]:
    """In which orders a job's samples are worth a look."""
    signals = spec.measurements()
    if are_kept(signals):
        return ("label", "pair")
    return ("loss",) if "loss" in signals else ("draws",)


def messages(show: Show, samples: Iterable[int]) -> Iterable[SampleDescriptions]:
    """What samples show, in messages that the service takes.

    A longer text is cut off. Raises TypeError where `show` gives anything but text or bytes, ValueError where the bytes
    are no picture, ImportError where Pillow is not installed, which reads pictures.
    """
    texts: list[tuple[int, str]] = []
    pictures: list[tuple[int, UInt8]] = []
    for sample in samples:
        shown = show(sample)
        if isinstance(shown, str):
            texts.append((sample, shown[:MAX_TEXT]))
        elif isinstance(shown, bytes):
            pictures.append((sample, _thumbnail(sample, shown)))
        else:
            raise TypeError(f"sample {sample} must be described by str or bytes, got {type(shown).__name__}")
    for start in range(0, len(texts), MAX_TOLD):
        told = texts[start : start + MAX_TOLD]
        yield SampleDescriptions(index=_indices(s for s, _ in told), texts=[text for _, text in told])
    for start in range(0, len(pictures), MAX_TOLD):
        seen = pictures[start : start + MAX_TOLD]
        yield SampleDescriptions(index=_indices(s for s, _ in seen), pictures=np.stack([p for _, p in seen]))


def _indices(samples: Iterable[int]) -> np.ndarray:
    return np.fromiter(samples, dtype=np.int64)


def _thumbnail(sample: int, file: bytes) -> UInt8:
    """A PNG or JPEG file as pixels (SIDE, SIDE, 3), in its proportions on white."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file), formats=["PNG", "JPEG"]) as opened:
            picture = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"sample {sample} must be described by text, a PNG or a JPEG file: {error}") from None
    picture.thumbnail((SIDE, SIDE))
    canvas = Image.new("RGBA", (SIDE, SIDE), "white")
    canvas.alpha_composite(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return np.asarray(canvas.convert("RGB"))
