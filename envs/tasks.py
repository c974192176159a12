"""Tasks: what a student is to learn, from which samples, and what is wrong with them."""

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

import numpy as np

from bss_service.core.arrays import Bool, Float32, Int64
from envs.sources import FEATURES, Source, source
from trainer_client.reference.data import Dataset
from trainer_client.reference.data.corrupt import corrupt
from trainer_client.reference.data.sources import RECIPES

TEST: Final = 600  # samples at most
BATCH_SIZE: Final = 32  # of every student
GROUP: Final = "envs.tasks"  # of entry points
NAME: Final = r"[a-z][a-z0-9_-]{0,49}"  # of a family
BUILT_IN: Final = {"randomised": EntryPoint("randomised", "envs.research.training.worlds:Randomised", GROUP)}
RESERVED: Final = ("training", "held-out", *BUILT_IN, *RECIPES)


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one split."""

    modalities: tuple[Float32, ...]  # M of (n, d_j)
    labels: Int64  # (n,)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A task made ready for a student. `of` makes one of what can't be told from the rest."""

    train: Part
    validation: Part
    test: Part
    classes: int
    learning_rate: float
    clean: Bool  # (n,) training samples whose label and modalities are right
    wrong_label: Bool  # (n,)
    truth: Int64  # (n,) true class of each training sample
    wrong_modality: Bool  # (n, M) what this modality shows belongs to another sample, or is nothing

    @classmethod
    def of(
        cls,
        train: Part,
        validation: Part,
        test: Part,
        *,
        classes: int,
        learning_rate: float,
        truth: Int64,
        wrong_modality: Bool,
    ) -> "Lesson":
        """A label is wrong where it is not the true class, a sample is clean where nothing of it is wrong."""
        wrong_label: Bool = np.not_equal(train.labels, truth)
        clean = ~wrong_label & ~wrong_modality.any(axis=1)
        return cls(train, validation, test, classes, learning_rate, clean, wrong_label, truth, wrong_modality)


class Family(Protocol):
    """Lessons of a kind: a class that takes no arguments, in the entry-point group `envs.tasks` of a package.

    By its name there it stands wherever a source of tasks does. Which labels and pairs are wrong is its own affair,
    and its lessons tell: no harm is done to them besides.
    """

    modalities: int  # M of every lesson, at least 2
    classes: int  # the most that a lesson has

    def lesson(self, seed: int) -> Lesson:
        """The lesson of a seed in [0, 2⁶³); the same seed gives the same lesson, bit for bit, in any process.

        At least 32 samples to train on, and views of at most 64 features with a deviation of about 1.
        """
        ...


class FamilyError(ValueError):
    """A family that a package brings can't be used."""

    def __init__(self, name: str, wrong: str) -> None:
        super().__init__(f"task family {name!r} {wrong}")


@dataclass(frozen=True, slots=True)
class Task:
    """What a student is to learn; the same task gives the same lesson, bit for bit."""

    source: str  # a name that `origin` knows
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
    """Tasks to draw from: a source, a size, a learning rate, a length, and none, one or two kinds of harm.

    Of a family's tasks the length is drawn, and the seed; the rest is the family's affair.
    """

    sources: tuple[str, ...]  # names that `origin` knows
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
        numbers = {name: origin(name).modalities for name in self.sources}
        if len(set(numbers.values())) > 1:
            raise ValueError(f"sources must have the same number of modalities, got {numbers}")
        return next(iter(numbers.values()))

    @property
    def classes(self) -> int:
        """The most classes that a task has."""
        return max(origin(name).classes for name in self.sources)

    def draw(self, rng: np.random.Generator) -> Task:
        """The next task."""
        name = self.sources[int(rng.integers(len(self.sources)))]
        count = int(rng.choice(3, p=[0.25, 0.65, 0.1]))
        chosen = rng.permutation(len(self.harms))[:count]
        harms = {self.harms[k]: float(rng.uniform(*self.shares)) for k in chosen}
        dimmed = float(rng.uniform(0.5, 2)) if rng.random() < 0.2 else 0.0
        if is_family(name):
            harms, dimmed = {}, 0.0
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
    """Raises ValueError naming argument and value if the task can't be made of its source, FamilyError of a family."""
    whence = origin(task.source)
    if isinstance(whence, _Installed):
        return whence.lesson(task.seed)
    sample_rng, harm_rng, spoil_rng = np.random.default_rng(task.seed).spawn(3)
    dataset = whence.sample((task.samples, task.validation, TEST), sample_rng)
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
    wrong_modality = np.zeros((len(worse), len(worse.modalities)), np.bool_)
    wrong_modality[:, 1:] = (corruption.is_mispaired | corruption.is_blank)[:, None]  # the first is always kept
    return Lesson.of(
        _part(worse, "train"),
        _part(worse, "validation"),
        _part(worse, "test"),
        classes=len(worse.classes),
        learning_rate=task.learning_rate,
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


# Families of other packages.


class _Installed:
    """A family that was found, whose lessons are looked at before they are used."""

    def __init__(self, entry: EntryPoint) -> None:
        """Raises FamilyError where it is none."""
        self.name = entry.name
        is_ours = entry in BUILT_IN.values()
        if not is_ours and (not re.fullmatch(NAME, self.name) or self.name in RESERVED):
            raise FamilyError(self.name, f"must have a name that matches {NAME} and is none of {', '.join(RESERVED)}")
        try:
            self._family: Family = entry.load()()
            self.modalities, self.classes = int(self._family.modalities), int(self._family.classes)
        except Exception as error:  # of a package that this one knows nothing about
            raise FamilyError(self.name, f"can't be loaded: {type(error).__name__}: {error}") from error
        for field, value in (("modalities", self.modalities), ("classes", self.classes)):
            if value < 2:
                raise FamilyError(self.name, f"must have {field} of at least 2, got {value}")

    def lesson(self, seed: int) -> Lesson:
        """Raises FamilyError where it gives none, or one that no student can be trained on."""
        try:
            made = self._family.lesson(seed)
        except Exception as error:
            raise FamilyError(self.name, f"gave no lesson of seed {seed}: {type(error).__name__}: {error}") from error
        wrong = self._wrong_with(made)
        if wrong is not None:
            raise FamilyError(self.name, f"gave a lesson of seed {seed} that can't be used: {wrong}")
        return made

    def _wrong_with(self, made: Lesson) -> str | None:
        """What is wrong with a lesson, if anything."""
        if not isinstance(made, Lesson):
            return f"it must be an envs.Lesson, got {type(made).__name__}"
        if not 2 <= made.classes <= self.classes:
            return f"classes must lie in 2 to {self.classes}, got {made.classes}"
        if not 0 < made.learning_rate < np.inf:
            return f"learning_rate must be positive and finite, got {made.learning_rate}"
        parts = {"train": (made.train, BATCH_SIZE), "validation": (made.validation, 1), "test": (made.test, 1)}
        widths = [view.shape[1:] for view in made.train.modalities]
        for name, (part, least) in parts.items():
            if wrong := _wrong_with(part, widths, made.classes, self.modalities, least):
                return f"{name}.{wrong}"
        number = len(made.train.labels)
        known = {"clean": (np.bool_, (number,)), "wrong_label": (np.bool_, (number,)), "truth": (np.int64, (number,))}
        for name, (kind, shape) in {**known, "wrong_modality": (np.bool_, (number, self.modalities))}.items():
            values = getattr(made, name)
            if getattr(values, "dtype", None) != kind or values.shape != shape:
                return f"{name} must be {np.dtype(kind)} {shape}, got {_told(values)}"
        return None


def _wrong_with(part: Part, widths: list[tuple[int, ...]], classes: int, modalities: int, least: int) -> str | None:
    """What is wrong with one part of a lesson, if anything."""
    number = len(part.labels)
    if _told(part.labels) != f"int64 ({number},)" or not ((part.labels >= 0) & (part.labels < classes)).all():
        return f"labels must be int64 (n,) in 0 to {classes - 1}, got {_told(part.labels)}"
    if number < least:
        return f"labels must number at least {least}, got {number}"
    if len(part.modalities) != modalities:
        return f"modalities must be {modalities}, got {len(part.modalities)}"
    for k, (view, width) in enumerate(zip(part.modalities, widths, strict=True)):
        if view.dtype != np.float32 or view.ndim != 2 or len(view) != number or not 0 < view.shape[1] <= FEATURES:
            return f"modalities[{k}] must be float32 ({number}, d) with d from 1 to {FEATURES}, got {_told(view)}"
        if view.shape[1:] != width or not np.isfinite(view).all():
            return f"modalities[{k}] must hold finite numbers, as many a sample as in training, got {_told(view)}"
    return None


def _told(values: object) -> str:
    """An array's type and shape, or what is there in place of one."""
    return f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__


@cache
def origin(name: str) -> Source | _Installed:
    """Where the tasks of a name come from: what `envs.sources.source` knows by it, or an installed family.

    Raises ValueError for an unknown name, FileNotFoundError for no file, and FamilyError for a family that is broken.
    """
    if name in _found():
        return _Installed(_found()[name])
    if re.fullmatch(NAME, name) and name not in RECIPES:
        known = ", ".join([*RECIPES, "synthetic:M", "a path ending in .npz", *family_names()])
        raise ValueError(f"data must be one of {known}, got {name!r}: no installed package has such a family")
    return source(name)


def family_names() -> list[str]:
    """The names of all families, sorted: those that installed packages bring, and "randomised"."""
    return sorted(_found())


def is_family(name: str) -> bool:
    """Whether tasks of that name are a family's."""
    return name in _found()


def family_version(name: str) -> str:
    """The package that a family comes from, and its version."""
    package = _found()[name].dist
    return f"{package.name} {package.version}" if package else ""


@cache
def _found() -> dict[str, EntryPoint]:
    return BUILT_IN | {entry.name: entry for entry in entry_points(group=GROUP)}
