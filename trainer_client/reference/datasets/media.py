"""Media become tensors: sound by soundfile, pictures by Pillow, films by PyAV, texts by a tokenizer that is given."""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from trainer_client.reference.data.dataset import Array

from .folder import Audio, BrokenFileError, Features, Flow, Frames, Image, Medium, Row, Text, Video, array_of

SOUNDFILE: Final = (".wav", ".flac", ".ogg", ".mp3", ".aiff")  # the others are films, which PyAV opens
PICTURES: Final = (".jpg", ".jpeg", ".png")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as torchvision publishes them
SAFE_TORCH: Final = (2, 6)  # before it, `weights_only` could be made to run code: CVE-2025-32434
FLOOR: Final = 1e-10  # of a power, below which there is only rounding


@dataclass(frozen=True, slots=True)
class LogMel:
    """Log-mel spectrograms: (1, bands, 1 + seconds·rate // hop) float32, natural logarithms of power.

    A recording is mixed to one channel, resampled to `rate` Hz, and cut or filled with silence to `seconds`.
    """

    seconds: float = 10.0
    rate: int = 16_000  # Hz
    window: int = 400  # samples: 25 ms
    hop: int = 160  # samples: 10 ms
    bands: int = 128

    def __call__(self, samples: Array, rate: int) -> Tensor:
        """The spectrogram of samples (n,) float32 in −1 to 1, taken `rate` times a second."""
        length = round(self.seconds * self.rate)
        wave = torch.from_numpy(_resampled(samples, rate, self.rate)[:length].astype(np.float32))
        wave = torch.nn.functional.pad(wave, (0, length - len(wave)))
        taper = torch.hann_window(self.window)
        spectrum = torch.stft(wave, _fft_size(self.window), self.hop, self.window, taper, return_complex=True)
        filters = torch.from_numpy(mel_filters(self.bands, _fft_size(self.window), self.rate))
        return (filters @ spectrum.abs().square()).clamp(min=FLOOR).log()[None]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures (3, side, side), or `count` of a film, evenly spread: (3, count, side, side); float32, normalised.

    The shorter edge becomes `side` pixels, and the middle is cut out. Flow: (2, count, side, side), from −1 to 1.
    """

    count: int = 3
    side: int = 224

    def places(self, length: int) -> list[int]:
        """Which of so many frames are taken: the middle of each of `count` equal parts."""
        return [(2 * part + 1) * length // (2 * self.count) for part in range(self.count)]

    def colour(self, picture: Any) -> Tensor:
        """A picture of Pillow as a tensor (3, side, side)."""
        values = torch.from_numpy(np.array(self._square(picture.convert("RGB")))).permute(2, 0, 1) / 255
        return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]

    def grey(self, picture: Any) -> Tensor:
        """A grey picture of a flow, of which 127.5 is no motion, as a tensor (side, side) from −1 to 1."""
        return torch.from_numpy(np.array(self._square(picture.convert("L")))) / 127.5 - 1

    def _square(self, picture: Any) -> Any:
        scale = self.side / min(picture.size)
        width, height = (max(self.side, round(scale * edge)) for edge in picture.size)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        return picture.resize((width, height)).crop((left, top, left + self.side, top + self.side))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids (length,) int64 by a tokenizer of `transformers`, cut or padded; text and target as a pair."""

    tokenizer: Callable[..., Any]
    length: int = 128

    def __call__(self, text: Text) -> Tensor:
        """The ids of a text."""
        parts = (text.text,) if text.target is None else (text.text, text.target)
        ids = self.tokenizer(*parts, padding="max_length", truncation=True, max_length=self.length)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)


class Bytes:
    """In place of a tokenizer: the bytes of texts in UTF-8, counted from 1, parted and padded by 0."""

    def __len__(self) -> int:
        """How many ids there are."""
        return 257

    def __call__(self, *texts: str, padding: str, truncation: bool, max_length: int) -> dict[str, list[int]]:
        ids = [1 + byte for text in texts for byte in (*text.encode(), -1)][:max_length]
        return {"input_ids": ids + [0] * (max_length - len(ids))}


@dataclass(frozen=True, slots=True)
class Decoding:
    """How media of each kind become tensors. Raises BrokenFileError, naming the file, for one that can't be read."""

    audio: LogMel = field(default_factory=LogMel)
    pictures: Pictures = field(default_factory=Pictures)
    text: Tokens | None = None

    def __call__(self, medium: Medium) -> Tensor:
        """The tensor of a medium. Raises ValueError for a text where no tokenizer is given."""
        match medium:
            case Audio(path):
                return self.audio(*read_sound(path))
            case Image(path):
                return self.pictures.colour(read_picture(path))
            case Frames(path):
                files = frame_files(path)
                taken = [self.pictures.colour(read_picture(files[k])) for k in self.pictures.places(len(files))]
                return torch.stack(taken, 1)
            case Video():
                frames = read_frames(medium, self.pictures.places)
                return torch.stack([self.pictures.colour(frame) for frame in frames], 1)
            case Flow():
                return self._flow(medium)
            case Features(path):
                return torch.from_numpy(read_features(path))
            case Row():
                return torch.from_numpy(read_row(medium))
            case Text():
                if self.text is None:
                    raise ValueError("text must be Tokens(tokenizer), since the samples have texts")
                return self.text(medium)

    def _flow(self, medium: Flow) -> Tensor:
        parts = []
        for folder in (medium.path, medium.vertical):
            files = frame_files(folder)
            parts.append(
                torch.stack([self.pictures.grey(read_picture(files[k])) for k in self.pictures.places(len(files))])
            )
        return torch.stack(parts)


def mel_filters(bands: int, fft_size: int, rate: int) -> Array:
    """Triangular filters (bands, 1 + fft_size // 2) float32, evenly spread on the mel scale from 0 to rate / 2 Hz.

    mel(f) = 2595·log10(1 + f / 700): O'Shaughnessy, Speech Communication (1987), p. 150. Triangles of height 1
    whose feet are their neighbours' peaks: Davis and Mermelstein, IEEE Trans. ASSP 28(4), 1980.
    """
    highest = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1)  # (bands + 2,) Hz
    frequencies = np.linspace(0, rate / 2, 1 + fft_size // 2)
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _fft_size(window: int) -> int:
    """At least 1024, so that no band of the usual 128 falls between two frequencies."""
    return max(1024, 1 << (window - 1).bit_length())


def _resampled(samples: Array, old: int, new: int) -> Array:
    if old == new:
        return samples
    from scipy.signal import resample_poly

    divisor = gcd(old, new)
    return np.asarray(resample_poly(samples, new // divisor, old // divisor))


def read_sound(path: Path) -> tuple[Array, int]:
    """Samples (n,) float32 of a recording or a film, mixed to one channel, and their rate in Hz."""
    if path.suffix.lower() not in SOUNDFILE:
        return _sound_of_film(path)
    import soundfile

    with _breaking(path, soundfile.SoundFileError):
        _check_length(path)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if not len(samples):
        raise BrokenFileError(path, "no sound in it")
    return samples.mean(1), int(rate)


def _check_length(path: Path) -> None:
    """Raises ValueError for a wave file that was cut short, which libsndfile would read without a word."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] == b"RIFF" and len(head) == 8:
        told = 8 + struct.unpack("<I", head[4:])[0]
        if path.stat().st_size < told < 0xFFFFFFFF:  # the largest number: its length was not known when it was written
            raise ValueError(f"cut short: {path.stat().st_size:,} of {told:,} bytes")


def _sound_of_film(path: Path) -> tuple[Array, int]:
    import av

    with _breaking(path, av.FFmpegError), av.open(path) as container:
        if not container.streams.audio:
            raise ValueError("no sound in it")
        resampler = av.AudioResampler(format="fltp", layout="mono")
        pieces = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        pieces += resampler.resample(None)
        rate = container.streams.audio[0].rate
    if not pieces:
        raise BrokenFileError(path, "no sound in it")
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces]), int(rate)


def read_picture(path: Path) -> Any:
    """A picture of Pillow, read to its end."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    with _breaking(path, UnidentifiedImageError), Pillow.open(path) as picture:
        picture.load()
        return picture.copy()


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of the numbers in their names."""

    def order(path: Path) -> tuple[list[int], str]:
        return [int(number) for number in re.findall(r"\d+", path.stem)], path.name

    files = sorted((path for path in folder.iterdir() if path.suffix.lower() in PICTURES), key=order)
    if not files:
        raise BrokenFileError(folder, "no picture in it")
    return files


def read_frames(video: Video, places: Callable[[int], list[int]]) -> list[Any]:
    """Of the frames of a film those at `places(how many there are)`, as pictures of Pillow."""
    import av

    with _breaking(video.path, av.FFmpegError):
        frames = _decoded(video, places)
    if not frames:
        raise BrokenFileError(video.path, "no picture in it")
    return frames


def _decoded(video: Video, places: Callable[[int], list[int]]) -> list[Any]:
    import av

    with av.open(video.path) as container:
        if not container.streams.video:
            raise ValueError("no picture in it")
        length = sum(packet.size > 0 for packet in container.demux(video=0))
    last = min(length, length if video.last is None else video.last)
    if last <= video.first:
        raise ValueError(f"{length} frames in it, of which those from {video.first} on were asked for")
    wanted = [video.first + place for place in places(last - video.first)]
    kept: dict[int, Any] = {}
    with av.open(video.path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            wants = number in wanted
            kept[number] = frame.to_image() if wants else None  # type: ignore[no-untyped-call]
            if number >= wanted[-1]:
                break
    decoded = [number for number in wanted if kept.get(number) is not None]
    if len(decoded) < len(wanted):
        raise ValueError(f"{len(kept)} of {length} frames could be decoded")
    return [kept[number] for number in wanted]


def read_features(path: Path) -> Array:
    """The array of a `.npy`, or of a `.pt` that holds one tensor, as float32; objects are never unpickled."""
    with _breaking(path, RuntimeError, EOFError, TypeError):
        if path.suffix == ".pt":
            values = np.asarray(_tensor(path), np.float32)
        else:
            values = np.load(path, allow_pickle=False).astype(np.float32)
    return _finite(values)


def _tensor(path: Path) -> Tensor:
    from pickle import UnpicklingError

    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise ValueError(f"torch 2.6 or newer is needed to read it safely, got {torch.__version__}")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError("it holds more than a tensor, and what that is would be run by reading it") from None
    if not isinstance(tensor, Tensor):
        raise ValueError(f"it must hold one tensor, got a {type(tensor).__name__}")
    return tensor.detach()


def read_row(row: Row) -> Array:
    """One sample of an array, as float32."""
    with _breaking(row.path, KeyError, IndexError, SafetensorError):
        return _finite(np.array(_opened(row.path, row.array)[row.number], np.float32))


_opened = lru_cache(maxsize=32)(array_of)


def _finite(values: Array) -> Array:
    """The same with 0 in place of what is not finite: extractors of features write −inf for silence."""
    return np.where(np.isfinite(values), values, np.float32(0))


@contextmanager
def _breaking(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Whatever reading a damaged file raises becomes a BrokenFileError."""
    caught: tuple[type[Exception], ...] = (*errors, OSError, ValueError, SyntaxError)
    try:
        yield
    except BrokenFileError:
        raise
    except caught as error:
        raise BrokenFileError(path, " ".join(str(error).split()) or type(error).__name__) from None


def probe(medium: Medium) -> None:
    """Read a medium to its end, and forget it. Raises BrokenFileError, naming the file, if that can't be done."""
    match medium:
        case Audio(path):
            read_sound(path)
        case Image(path):
            read_picture(path)
        case Frames(path):
            for file in frame_files(path):
                read_picture(file)
        case Flow(path, vertical):
            for folder in (path, vertical):
                for file in frame_files(folder):
                    read_picture(file)
        case Video():
            read_frames(medium, lambda length: [length - 1])
        case Features(path):
            read_features(path)
        case Row():
            read_row(medium)
        case Text():
            pass
