"""Tasks: what a student is to learn, from which samples, and what is wrong with them."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bss_service.core.arrays import Bool, Float32, Int64
from envs.sources import source
from trainer_client.reference.data import Dataset
from trainer_client.reference.data.corrupt import corrupt

TEST: Final = 600  # samples at most


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one split."""

    modalities: tuple[Float32, ...]  # M of (n, d_j)
    labels: Int64  # (n,)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A task made ready for a student."""

    train: Part
    validation: Part
    test: Part
    classes: int
    learning_rate: float
    clean: Bool  # (n,) training samples whose label and modalities are right
    wrong_label: Bool  # (n,)
    truth: Int64  # (n,) true class of each training sample
    wrong_modality: Bool  # (n, M) what this modality shows belongs to another sample, or is nothing


@dataclass(frozen=True, slots=True)
class Task:
    """What a student is to learn; the same task gives the same lesson, bit for bit."""

    source: str  # a name that `envs.sources.source` knows
    samples: int  # training samples at most
    learning_rate: float
    intervals: int  # epochs that the student is trained for
    seed: int
    validation: int = 300  # samples at most
    horizon_known: bool = True  # whether the scheduler is told how long the run will be
    noisy_labels: float = 0.0  # share of the training samples with a random label
    flipped_labels: float = 0.0  # share with the label of the next class
    mispaired: float = 0.0  # share with the other modalities of another sample
    blank: float = 0.0  # share without the other modalities
    spoiled_validation: bool = False  # whether validation labels are as wrong as training labels
    dimmed: float = 0.0  # deviation of noise on one modality, in every split


@dataclass(frozen=True)
class Distribution:
    """Tasks to draw from: a source, a size, a learning rate, a length, and none, one or two kinds of harm."""

    sources: tuple[str, ...]
    harms: tuple[str, ...]  # fields of Task; "dimmed" may come on top of any
    samples: tuple[int, int] = (250, 600)
    learning_rates: tuple[float, float] = (0.05, 0.2)
    intervals: tuple[int, int] = (15, 40)
    validation: tuple[int, int] = (200, 600)
    horizon_unknown: float = 0.15  # share of the tasks
    shares: tuple[float, float] = (0.1, 0.5)  # of harmed samples

    @property
    def modalities(self) -> int:
        """M, of every task. Raises ValueError where sources differ in it."""
        numbers = {name: source(name).modalities for name in self.sources}
        if len(set(numbers.values())) > 1:
            raise ValueError(f"sources must have the same number of modalities, got {numbers}")
        return next(iter(numbers.values()))

    @property
    def classes(self) -> int:
        """The most classes that a task has."""
        return max(source(name).classes for name in self.sources)

    def draw(self, rng: np.random.Generator) -> Task:
        """The next task."""
        name = self.sources[int(rng.integers(len(self.sources)))]
        count = int(rng.choice(3, p=[0.25, 0.65, 0.1]))
        chosen = rng.permutation(len(self.harms))[:count]
        harms = {self.harms[k]: float(rng.uniform(*self.shares)) for k in chosen}
        dimmed = float(rng.uniform(0.5, 2)) if rng.random() < 0.2 else 0.0
        return Task(
            source=name,
            samples=int(rng.integers(self.samples[0], self.samples[1], endpoint=True)),
            learning_rate=float(np.exp(rng.uniform(*np.log(self.learning_rates)))),
            intervals=int(rng.integers(self.intervals[0], self.intervals[1], endpoint=True)),
            validation=int(rng.integers(self.validation[0], self.validation[1], endpoint=True)),
            seed=int(rng.integers(2**63)),
            horizon_known=bool(rng.random() >= self.horizon_unknown),
            dimmed=dimmed,
            **harms,  # type: ignore[arg-type]  # shares, all of them
        )


def lesson(task: Task) -> Lesson:
    """Raises ValueError naming argument and value if the task can't be made of its source."""
    sample_rng, harm_rng, spoil_rng = np.random.default_rng(task.seed).spawn(3)
    dataset = source(task.source).sample((task.samples, task.validation, TEST), sample_rng)
    dimmed = list(dataset.modalities)[int(harm_rng.integers(len(dataset.modalities)))]
    corruption = corrupt(
        dataset,
        noisy_labels=task.noisy_labels,
        flipped_labels=task.flipped_labels,
        mispaired=task.mispaired,
        blank=task.blank,
        modality_noise={dimmed: task.dimmed},
        seed=int(harm_rng.integers(2**63)),
    )
    worse = corruption.dataset
    if task.spoiled_validation:
        worse = replace(worse, labels=_spoiled(worse, task, spoil_rng))
    training = worse.indices("train")
    wrong_label = worse.labels != dataset.labels
    wrong_modality = np.zeros((len(worse), len(worse.modalities)), np.bool_)
    wrong_modality[:, 1:] = (corruption.is_mispaired | corruption.is_blank)[:, None]  # the first is always kept
    clean = ~wrong_label & ~wrong_modality.any(axis=1)
    return Lesson(
        train=_part(worse, "train"),
        validation=_part(worse, "validation"),
        test=_part(worse, "test"),
        classes=len(worse.classes),
        learning_rate=task.learning_rate,
        clean=clean[training],
        wrong_label=wrong_label[training],
        truth=dataset.labels[training],
        wrong_modality=wrong_modality[training],
    )


def _spoiled(dataset: Dataset, task: Task, rng: np.random.Generator) -> Int64:
    """All labels, with those of the validation samples harmed as the training labels are."""
    labels, classes = dataset.labels.copy(), len(dataset.classes)
    chosen = rng.permutation(dataset.indices("validation"))
    noisy = chosen[: round(task.noisy_labels * len(chosen))]
    labels[noisy] = rng.integers(classes, size=len(noisy))
    flipped = rng.permutation(chosen)[: round(task.flipped_labels * len(chosen))]
    labels[flipped] = (labels[flipped] + 1) % classes
    return labels


def oracle(whole: Lesson) -> Lesson:
    """The lesson with the clean samples alone, repeated until there are as many as before: what no policy can know.

    Raises ValueError where no sample is clean.
    """
    if not whole.clean.any():
        raise ValueError(f"clean must hold a sample at least, got none of {len(whole.clean)}")
    clean = np.resize(np.flatnonzero(whole.clean), len(whole.clean))
    train = Part(tuple(values[clean] for values in whole.train.modalities), whole.train.labels[clean])
    return replace(
        whole,
        train=train,
        clean=whole.clean[clean],
        wrong_label=whole.wrong_label[clean],
        truth=whole.truth[clean],
        wrong_modality=whole.wrong_modality[clean],
    )


def _part(dataset: Dataset, split: str) -> Part:
    chosen = dataset.indices(split)
    return Part(tuple(values[chosen] for values in dataset.modalities.values()), dataset.labels[chosen])


def training_tasks() -> Distribution:
    """What policies are trained on: synthetic worlds alone, with random labels or wrong pairs."""
    return Distribution(("synthetic:2",), ("noisy_labels", "mispaired"))


def judged_tasks() -> Distribution:
    """What policies that act on evidence are trained on: synthetic worlds as well, with every kind of harm."""
    return replace(training_tasks(), harms=("noisy_labels", "flipped_labels", "mispaired", "blank"))


def held_out_tasks() -> Distribution:
    """What no policy is trained on: real sets."""
    return Distribution(("emoji", "watch"), ("noisy_labels", "flipped_labels", "mispaired", "blank"))
