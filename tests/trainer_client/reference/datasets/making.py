"""Tiny folders in the layouts in which data sets are found: real recordings, pictures and films."""

from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

RATE = 16_000  # Hz, of recordings
FILM_RATE = 22_050  # Hz, of the sound of films


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def recording(path: Path, seconds: float = 0.1, hertz: float = 440.0, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, wave.astype(np.float32), rate)
    return path


def picture(path: Path, grey: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), (grey, grey, grey)).save(path)
    return path


def frames(folder: Path, names: Iterable[str] = ("frame_00001.jpg", "frame_00002.jpg")) -> Path:
    for number, name in enumerate(names):
        picture(folder / name, grey=20 * number)
    return folder


def features(path: Path, shape: tuple[int, ...] = (4, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.save(file, np.ones(shape, np.float32))
    return path


def film(path: Path, length: int = 6, sound: bool = False) -> Path:
    """A film of so many frames, each a little brighter, with half a second of a tone or without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_filmed(path.suffix.removeprefix("."), length, sound))
    return path


@cache
def _filmed(kind: str, length: int, sound: bool) -> bytes:
    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("flv" if kind == "flv" else "mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        voice = container.add_stream("mp3", rate=FILM_RATE) if sound else None
        for number in range(length):
            shade = np.full((32, 32, 3), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(stream.encode())
        if voice is not None:
            tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(FILM_RATE // 2) / FILM_RATE)
            heard = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
            heard.sample_rate = FILM_RATE
            resampler = av.AudioResampler(format=voice.format.name, layout="mono", rate=FILM_RATE, frame_size=1152)
            for piece in (*resampler.resample(heard), *resampler.resample(None)):
                container.mux(voice.encode(piece))
            container.mux(voice.encode())
    return file.getvalue()
