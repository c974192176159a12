"""A family of tasks in a package of its own: `spirals`, once this is installed beside bss-scheduler."""

import numpy as np

from envs import Lesson, Part


class Spirals:
    """Points on the arms of a spiral, an arm a class, seen by angle and by place.

    Annotators err where the arms lie close: harm that depends on the sample, which no share in a `Task` can say.
    """

    modalities = 2
    classes = 3

    def lesson(self, seed: int) -> Lesson:
        rng = np.random.default_rng(seed)
        turns, noise = rng.uniform(0.3, 0.9), rng.uniform(0.05, 0.2)

        def seen(size: int) -> tuple[Part, np.ndarray]:
            arm, radius = rng.integers(self.classes, size=size), rng.random(size)
            angle = 2 * np.pi * (arm / self.classes + turns * radius) + noise * rng.standard_normal(size)
            views = ([np.cos(angle), np.sin(angle), 2 * radius], [radius * np.cos(angle), radius * np.sin(angle)])
            return Part(tuple(np.stack(view, axis=1).astype(np.float32) for view in views), arm), radius

        (train, radius), (validation, _), (test, _) = seen(400), seen(200), seen(400)
        erred = rng.random(400) < 0.8 * (1 - radius)
        given = np.where(erred, (train.labels + 1) % self.classes, train.labels)
        return Lesson.of(
            Part(train.modalities, given),
            validation,
            test,
            classes=self.classes,
            learning_rate=float(rng.uniform(0.05, 0.2)),
            truth=train.labels,
            wrong_modality=np.zeros((400, 2), np.bool_),
        )
