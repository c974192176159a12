"""Worlds of which everything is known: lessons with harm of many kinds, for a judge of samples to learn from.

Wider than those that policies are trained on: two to four modalities, two to fifty classes, classes that look alike,
samples that are hard for good reasons, networks that memorise and such that cannot. All are drawn; none is real.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bss_service.core.arrays import Bool, Float32, Float64, Int64
from envs.sources import FEATURES, Synthetic
from envs.tasks import Lesson, Part

KINDS: Final = {"clean": 0.2, "random": 0.26, "flipped": 0.26, "mispaired": 0.1, "blank": 0.05, "two": 0.13}
SPOILT: Final = 0.08  # share of the worlds whose validation labels are as wrong as the training labels
TAME: Final = 0.85  # share of the worlds of vectors that policies could have been trained on
OF_CLASS: Final = 12  # samples at least on average
TEST: Final = 600  # samples


@dataclass(frozen=True, slots=True)
class Size:
    """What worlds that are trained side by side have in common."""

    samples: int
    modalities: int
    classes: int = 10  # at most
    signals: bool = False  # modalities are short signals, for convolutions, not vectors
    test: int = 1  # samples that nobody asks for, where a judge is trained
    tame: float = TAME


class Randomised:
    """Worlds as a family of tasks (domain randomisation, Tobin et al. 2017): all that makes a task up is drawn anew.

    Half of them are wider than those of `envs.tasks.training_tasks`: classes that look alike, samples between them,
    features of unequal scale. Harm is random or flipped labels, of all classes or of some, wrong pairs, blank
    modalities, two at once, or none; one in twelve validation sets is as wrong as the training set.
    """

    modalities, classes = 2, Synthetic.classes

    def lesson(self, seed: int) -> Lesson:
        rng = np.random.default_rng(seed)
        samples = round(np.exp(rng.uniform(np.log(250), np.log(600))))
        size = Size(samples, self.modalities, self.classes, test=TEST, tame=0.5)
        return replace(world(size, rng), learning_rate=float(np.exp(rng.uniform(np.log(0.05), np.log(0.2)))))


def world(size: Size, rng: np.random.Generator) -> Lesson:
    """A lesson, harmed or not. Its learning rate is 1: whoever trains chooses one."""
    validation = int(rng.integers(150, 601))
    truth, views = _seen_of(size, size.samples + validation + size.test, rng)
    classes = int(truth.max()) + 1
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    training = slice(0, size.samples)
    known = truth[training].copy()
    labels, confusion = _relabelled(known, classes, _label_harm(kind, rng), views[0][training], rng)
    harmed, wrong_modality = _repaired([view[training] for view in views], _pair_harm(kind, rng), rng)
    held_out = truth[size.samples : -size.test]
    if rng.random() < SPOILT:
        held_out = np.array([rng.choice(classes, p=confusion[t]) for t in held_out])
    return Lesson.of(
        Part(tuple(harmed), labels),
        Part(tuple(view[size.samples : -size.test] for view in views), held_out),
        Part(tuple(view[-size.test :] for view in views), truth[-size.test :]),
        classes=classes,
        learning_rate=1.0,
        truth=known,
        wrong_modality=wrong_modality,
    )


# What is seen.


def _seen_of(size: Size, total: int, rng: np.random.Generator) -> tuple[Int64, list[Float32]]:
    """True classes (n,) and views (n, d) of so many samples, the first of them of every class."""
    if not size.signals and size.classes <= Synthetic.classes and rng.random() < size.tame:
        dataset = Synthetic(size.modalities).sample((total - 2, 1, 1), rng)
        return dataset.labels, list(dataset.modalities.values())
    classes = _number_of_classes(size, rng)
    truth = rng.choice(classes, size=total, p=rng.dirichlet(np.full(classes, rng.choice([1.0, 3.0, 10.0, 1000.0]))))
    truth[:classes] = np.arange(classes)
    views = _signals(truth, size.modalities, rng) if size.signals else _vectors(truth, size.modalities, rng)
    return truth, views


def _number_of_classes(size: Size, rng: np.random.Generator) -> int:
    most = min(size.classes, size.samples // OF_CLASS)
    return int(rng.integers(2 if most <= 10 else 8, most, endpoint=True))


def _vectors(truth: Int64, modalities: int, rng: np.random.Generator) -> list[Float32]:
    """A class is a few clusters of latent points, which each modality sees in its own way, (n, d) each."""
    classes, clusters, latent = int(truth.max()) + 1, int(rng.integers(1, 7)), int(rng.integers(3, 17))
    # Classes come in groups that look alike, so that some confusions have nothing to do with harm.
    groups = rng.standard_normal((int(rng.integers(1, classes + 1)), latent))
    apart = rng.uniform(0.4, 1.0)
    centres = groups[rng.integers(len(groups), size=classes)][:, None] * np.sqrt(1 - apart**2)
    centres = centres + apart * rng.standard_normal((classes, clusters, latent))
    place = rng.integers(clusters, size=len(truth))
    points = centres[truth, place]
    between = np.flatnonzero(rng.random(len(truth)) < rng.choice([0.0, rng.uniform(0, 0.3)]))
    other = centres[rng.integers(classes, size=len(between)), rng.integers(clusters, size=len(between))]
    points[between] += rng.uniform(0.2, 0.6, size=(len(between), 1)) * (other - points[between])
    points = points + rng.uniform(0.1, 0.8) * rng.standard_normal(points.shape)
    ease = rng.uniform(0, 2)  # of the whole world: a world is hard for all its modalities
    return [_seen(points, ease, rng) for _ in range(modalities)]


def _seen(points: Float64, ease: float, rng: np.random.Generator) -> Float32:
    """Latent points (n, l) as a modality sees them, (n, d)."""
    total, latent = points.shape
    features = round(np.exp(rng.uniform(np.log(4), np.log(FEATURES))))
    visible: Bool = np.asarray(rng.random(latent) < rng.uniform(0.3, 1.0))
    visible[rng.integers(latent)] = True
    signal = points @ (rng.standard_normal((latent, features)) * visible[:, None] / np.sqrt(visible.sum()))
    bend = rng.uniform(0, 2.5)
    bent = rng.random(features) < rng.uniform(0, 1)
    signal = np.where(bent, np.tanh(bend * signal + rng.standard_normal(features)), signal)
    noise = np.exp(rng.uniform(-1.2, 1.2) - ease)
    badly = rng.random(total) < rng.uniform(0, 0.3)
    noises = noise * np.where(badly, rng.uniform(1.5, 4), 1.0)
    values = signal + noises[:, None] * rng.standard_normal((total, features))
    values *= np.exp(rng.uniform(0, 1.2) * rng.standard_normal(features))  # what matters need not be what varies most
    if rng.random() < 0.4:
        values = np.sign(values) * np.abs(values) ** rng.uniform(1, 2.5)  # heavy tails, as of counts
    return _scaled(values)


def _signals(truth: Int64, modalities: int, rng: np.random.Generator) -> list[Float32]:
    """A class is a few motifs that come somewhere in a signal, (n, FEATURES) each."""
    classes, motifs = int(truth.max()) + 1, int(rng.integers(1, 4))
    place = rng.integers(motifs, size=len(truth))
    ease = rng.uniform(0, 2)
    return [_heard(truth * motifs + place, classes * motifs, ease, rng) for _ in range(modalities)]


def _heard(motif: Int64, number: int, ease: float, rng: np.random.Generator) -> Float32:
    total, length = len(motif), int(rng.integers(8, 25))
    waves = rng.standard_normal((number, length)).cumsum(axis=1) * rng.uniform(0.2, 1)
    waves = waves + rng.standard_normal((number, length))
    waves /= waves.std(axis=1, keepdims=True)
    start = rng.integers(FEATURES - length + 1, size=total)
    if rng.random() < 0.5:
        start = start // 4 + 4  # nearly always in the same place
    start = np.minimum(start, FEATURES - length)
    noise = np.exp(rng.uniform(-1.2, 0.8) - ease)
    values = noise * rng.standard_normal((total, FEATURES))
    loud = np.exp(0.3 * rng.standard_normal((total, 1)))
    values[np.arange(total)[:, None], start[:, None] + np.arange(length)] += loud * waves[motif]
    return _scaled(values)


def _scaled(values: Float64) -> Float32:
    values = values - values.mean(axis=0)
    scaled: Float32 = (values / np.sqrt((values**2).mean())).astype(np.float32)
    return scaled


# Harm.


def _label_harm(kind: str, rng: np.random.Generator) -> str:
    if kind == "two":
        return str(rng.choice(["random", "flipped"]))
    return kind if kind in ("random", "flipped") else "none"


def _pair_harm(kind: str, rng: np.random.Generator) -> str:
    if kind == "two":
        return str(rng.choice(["mispaired", "blank"]))
    return kind if kind in ("mispaired", "blank") else "none"


def _relabelled(
    truth: Int64, classes: int, harm: str, view: Float32, rng: np.random.Generator
) -> tuple[Int64, Float64]:
    """Labels (n,), and the confusion (c, c) that they came by: what share of each class has which label."""
    confusion = np.eye(classes)
    if harm == "random":
        share = rng.uniform(0.05, 0.6)
        confusion = (1 - share) * confusion + share / classes
    elif harm == "flipped":
        shares = np.full(classes, rng.uniform(0.05, 0.42))
        if rng.random() < 0.3:
            shares *= rng.random(classes) < 0.6  # some classes only
        confusion = np.diag(1 - shares)
        confusion[np.arange(classes), _partners(truth, classes, view, rng)] += shares
    cumulative = confusion.cumsum(axis=1)
    drawn = (rng.random(len(truth))[:, None] > cumulative[truth]).sum(axis=1)
    return np.minimum(drawn, classes - 1).astype(np.int64), confusion


def _partners(truth: Int64, classes: int, view: Float32, rng: np.random.Generator) -> Int64:
    """The class that each is taken for, (c,): the next, any other, or the one that looks most like it."""
    how = rng.random()
    if how < 0.45 or classes == 2:
        return (np.arange(classes) + 1) % classes
    if how < 0.7:
        return (np.arange(classes) + rng.integers(1, classes, size=classes)) % classes
    centres = np.stack([view[truth == c].mean(axis=0) for c in range(classes)])
    distances = ((centres[:, None] - centres[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest: Int64 = distances.argmin(axis=1)
    return nearest


def _repaired(views: list[Float32], harm: str, rng: np.random.Generator) -> tuple[list[Float32], Bool]:
    """Views with harm done to some or all but one of them, and where, (n, M)."""
    total, modalities = len(views[0]), len(views)
    wrong = np.zeros((total, modalities), np.bool_)
    if harm == "none":
        return views, wrong
    order = rng.permutation(modalities)
    chosen = order[: int(rng.integers(1, modalities))]
    harmed = rng.permutation(total)[: round(rng.uniform(0.1, 0.55) * total)]
    views = list(views)
    for m in chosen:
        view = views[m].copy()
        view[harmed] = views[m][np.roll(harmed, 1)] if harm == "mispaired" else 0
        views[m] = view
    wrong[np.ix_(harmed, chosen)] = True
    return views, wrong
