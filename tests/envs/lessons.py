"""Small lessons and distributions that the tests of the environments share."""

import numpy as np

from envs.tasks import Distribution, Lesson, Part

SHORT = Distribution(
    ("synthetic:2",),
    ("noisy_labels", "mispaired"),
    samples=(70, 140),
    intervals=(2, 4),
    validation=(20, 40),
)
ABSURD = Distribution(
    ("synthetic:2",), (), samples=(70, 140), learning_rates=(1e12, 1e12), intervals=(3, 3), validation=(20, 40)
)


def lesson_of(
    widths: tuple[int, ...] = (7, 5), classes: int = 3, samples: int = 40, seed: int = 0, rate: float = 0.1
) -> Lesson:
    """Clusters of points, seen in views of these widths."""
    rng = np.random.default_rng(seed)
    centres = [rng.normal(size=(classes, width)) for width in widths]

    def part(number: int) -> Part:
        labels = rng.integers(classes, size=number)
        views = (of[labels] + rng.normal(size=(number, of.shape[1])) for of in centres)
        return Part(tuple(view.astype(np.float32) for view in views), labels)

    train, validation, test = part(samples), part(samples // 2), part(samples // 3)
    clean = np.ones(samples, dtype=np.bool_)
    none_wrong = np.zeros((samples, len(widths)), np.bool_)
    return Lesson(train, validation, test, classes, rate, clean, ~clean, truth=train.labels, wrong_modality=none_wrong)
