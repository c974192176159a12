"""Where tasks get their samples: a synthetic family that needs no data, and real sets reduced to short vectors."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Final, Protocol

import numpy as np

from bss_service.core.arrays import Bool, Float32, Float64, Int64
from trainer_client.reference.data import Dataset
from trainer_client.reference.data.dataset import SPLITS
from trainer_client.reference.data.sources import load

FEATURES: Final = 64  # the most that a view has; wider ones are reduced to their leading principal components
FREQUENCIES: Final = 16  # of a signal's spectrum


class Source(Protocol):
    """Gives the data set of a task."""

    name: str
    modalities: int  # M of every data set
    classes: int  # the most that a data set has

    def sample(self, sizes: Sequence[int], rng: np.random.Generator) -> Dataset:
        """A data set with at most `sizes` = (training, validation, test) samples, of vectors (n, d ≤ FEATURES)."""
        ...


class Views:
    """Two or more views of a real data set; every task is a random part of it, within its own split."""

    def __init__(self, dataset: Dataset) -> None:
        """dataset: its first modality is the one whose pairing is kept where pairs are wrong."""
        views = list(dataset.modalities)
        self.name = dataset.name
        self.modalities, self.classes = len(views), len(dataset.classes)
        self._dataset = Dataset(
            name=self.name,
            modalities={view: vectors(dataset, view) for view in views},
            labels=dataset.labels,
            split=dataset.split,
            classes=dataset.classes,
        )

    def sample(self, sizes: Sequence[int], rng: np.random.Generator) -> Dataset:
        whole = self._dataset
        kept = np.concatenate(
            [rng.permutation(whole.indices(split))[:size] for split, size in zip(SPLITS, sizes, strict=True)]
        )
        return Dataset(
            name=self.name,
            modalities={view: values[kept] for view, values in whole.modalities.items()},
            labels=whole.labels[kept],
            split=whole.split[kept],
            classes=whole.classes,
        )


class Synthetic:
    """A family of random worlds, a new one for every task.

    A class is a few clusters of latent points. Each modality sees them through a random matrix and a random bend,
    with a signal strength of its own, so that one modality is often stronger; some samples are seen badly in one of
    the modalities. How many classes, clusters and features there are, how unequal the classes are in size, how heavy
    the tails of the features and how hard it all is, is drawn too.
    """

    classes = 10

    def __init__(self, modalities: int = 2) -> None:
        """Raises ValueError for fewer than 2 modalities."""
        if modalities < 2:
            raise ValueError(f"modalities must be at least 2, got {modalities}")
        self.name = f"synthetic:{modalities}"
        self.modalities = modalities

    def sample(self, sizes: Sequence[int], rng: np.random.Generator) -> Dataset:
        classes, clusters = int(rng.integers(3, self.classes + 1)), int(rng.integers(1, 5))
        latent = int(rng.integers(6, 17))
        total = sum(sizes)
        priors = rng.dirichlet(np.full(classes, rng.choice([2.0, 10.0, 1000.0])))
        labels = rng.choice(classes, size=total, p=priors)
        labels[:classes] = np.arange(classes)
        centres = rng.standard_normal((classes, clusters, latent))
        points = centres[labels, rng.integers(clusters, size=total)]
        points = points + rng.uniform(0.2, 0.7) * rng.standard_normal((total, latent))
        views = {f"view{m + 1}": _seen(points, rng) for m in range(self.modalities)}
        split = np.repeat(np.arange(3, dtype=np.uint8), sizes)
        return Dataset(
            name=self.name,
            modalities=views,
            labels=labels,
            split=split,
            classes=tuple(f"class{c + 1}" for c in range(classes)),
        )


@cache
def source(name: str) -> Source:
    """The source of a name: "synthetic:M" for M modalities, or what `trainer_client.reference.data` loads by that name.

    Raises ValueError for an unknown name and FileNotFoundError for no file.
    """
    synthetic = re.fullmatch(r"synthetic:(\d{1,2})", name)
    chosen: Source = Synthetic(int(synthetic[1])) if synthetic else Views(load(name))
    return chosen


def vectors(dataset: Dataset, view: str) -> Float32:
    """A view as (n, d ≤ FEATURES) vectors with deviation 1 on average over the training samples.

    Signals (n, channels, time) become mean, deviation and the logarithm of the lowest amplitudes of their spectrum,
    images are laid flat, token ids become counts.
    """
    values = dataset.modalities[view]
    if values.dtype == np.int64:
        flat = _counts(values, dataset.vocabulary(view))
    elif values.ndim == 3:
        flat = _spectra(values)
    else:
        flat = values.reshape(len(values), -1).astype(np.float64)
    training = dataset.indices("train")
    flat = flat - flat[training].mean(axis=0)
    if flat.shape[1] > FEATURES:
        flat = flat @ _principal_axes(flat[training], FEATURES)
    else:
        deviation = flat[training].std(axis=0)
        flat = flat / np.where(deviation > 0, deviation, 1)
    flat /= max(np.sqrt((flat[training] ** 2).mean()), 1e-12)
    reduced: Float32 = flat.astype(np.float32)
    return reduced


def _seen(points: Float64, rng: np.random.Generator) -> Float32:
    """Latent points (n, l) as a modality sees them, (n, d)."""
    total, latent = points.shape
    features = int(rng.integers(8, FEATURES + 1))
    visible: Bool = np.asarray(rng.random(latent) < rng.uniform(0.4, 1.0))
    visible[rng.integers(latent)] = True
    mixing = rng.standard_normal((latent, features)) * visible[:, None] / np.sqrt(visible.sum())
    signal = points @ mixing
    bend = rng.uniform(0, 2)
    signal = np.where(rng.random(features) < 0.5, signal, np.tanh(bend * signal + rng.standard_normal(features)))
    noise = np.exp(rng.uniform(np.log(0.3), np.log(4.0)))
    badly = rng.random(total) < rng.uniform(0, 0.3)
    noises = noise * np.where(badly, rng.uniform(1.5, 4), 1.0)
    values = signal + noises[:, None] * rng.standard_normal((total, features))
    if rng.random() < 0.3:
        values = np.sign(values) * np.abs(values) ** rng.uniform(1, 2)  # heavy tails, as of counts
    values -= values.mean(axis=0)
    seen: Float32 = (values / np.sqrt((values**2).mean())).astype(np.float32)
    return seen


def _counts(ids: Int64, vocabulary: int) -> Float64:
    counts = np.zeros((len(ids), vocabulary))
    np.add.at(counts, (np.arange(len(ids))[:, None], ids), 1.0)
    counts[:, 0] = 0  # padding
    return np.sqrt(counts)


def _spectra(signals: Float32) -> Float64:
    amplitudes = np.abs(np.fft.rfft(signals, axis=2)[:, :, 1 : FREQUENCIES + 1])
    parts = [signals.mean(axis=2), signals.std(axis=2), np.log1p(amplitudes).reshape(len(signals), -1)]
    return np.concatenate([part.astype(np.float64) for part in parts], axis=1)


def _principal_axes(centred: Float64, number: int) -> Float64:
    """(d, number) unit vectors of the largest variance; through the smaller of the two Gram matrices.

    Directions in which the samples don't differ are 0 there: what is left of them is rounding.
    """
    n, d = centred.shape
    if d <= n:
        axes: Float64 = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :number]
        return axes
    left = np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, :number]
    axes = centred.T @ left
    norms = np.linalg.norm(axes, axis=0)
    return axes / np.where(norms > 1e-6 * norms.max(), norms, np.inf)
