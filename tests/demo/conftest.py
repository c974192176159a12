"""A small world: a data set with hostile texts, and results as the demo would have made them."""

from collections.abc import Callable

import numpy as np
import pytest

from demo.plan import ORACLE, POLICIES, SAMPLES, Run, compared_runs, swapped_run
from demo.results import (
    BINS,
    RIGHT,
    WRONG,
    Announcement,
    DataFacts,
    Epoch,
    Facts,
    Results,
    RunResult,
    Step,
    Suspect,
)
from demo.samples import samples_of
from demo.swap import prove
from trainer_client.reference.data import Dataset

HOSTILE = '<script src="https://evil.example/x.js"></script>&"\'</style></svg>$x$'
TRAINING = 40  # samples


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """60 pictures of 4 × 4 pixels, whose names and classes try to break out of a page."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 3, 4, 4))
    pixels[0], pixels[1] = 0, 255
    return Dataset(
        name="hostile",
        modalities={
            "image": ((pixels - 100) / 50).astype(np.float32),
            "text": rng.integers(1, 9, (60, 5)),
        },
        labels=rng.integers(0, 2, 60),
        split=np.repeat(np.array([0, 1, 2], np.uint8), [TRAINING, 10, 10]),
        classes=(HOSTILE + "a", HOSTILE + "b"),
        captions=tuple(f"{HOSTILE}{number}" for number in range(60)),
        licence=HOSTILE,
    )


@pytest.fixture(scope="session")
def load(dataset: Dataset) -> Callable[[str], Dataset]:
    """The data set for emoji, and for watch the same without its pictures."""
    text = dict.fromkeys(("accelerometer", "gyroscope"), dataset.modalities["text"])
    watch = Dataset("watch", text, dataset.labels, dataset.split, dataset.classes, dataset.captions)
    return {"emoji": dataset, "watch": watch}.__getitem__


@pytest.fixture(scope="session")
def results(load: Callable[[str], Dataset]) -> Results:
    """Two seeds, three epochs: every policy gains 3 points over uniform with seed 0 and 5 with seed 1."""
    runs = [_result(run, load(run.condition.data)) for run in compared_runs(POLICIES, 2, 3)]
    swapped = swapped_run(3)
    steps = [Step(step, step // 10, 1 + (step >= 14), 0.01 * step) for step in range(30)]
    done = _result(swapped, load("emoji"), steps)
    announced = Announcement("balance", 2, 14, handed_out=14, trained=11, epoch=1, epoch_start=10, epoch_end=20)
    data = {name: DataFacts(TRAINING, 10, 10, 2, HOSTILE) for name in SAMPLES}
    facts = Facts("python -m demo", "today", 60.0, 2, 0.5, "Linux", {"python": "3"}, data)
    return Results(facts, runs, prove(announced, done), done)


def _result(run: Run, dataset: Dataset, steps: list[Step] | None = None) -> RunResult:
    """Samples are listed by number; of those with right and wrong labels half each are believed."""
    accuracy = 0.6 if run.policy == "uniform" else 0.63 + 0.02 * run.seed
    samples = samples_of(run, dataset)
    wrong, given = samples.wrong, samples.given.labels[samples.given.indices("train")]
    suspects = [Suspect(k, k / TRAINING, int(given[k]), 1 - int(given[k]), bool(wrong[k])) for k in range(TRAINING)]
    counts = {RIGHT: int((~wrong).sum()), WRONG: int(wrong.sum())}
    return RunResult(
        run=run,
        epochs=[Epoch(k, accuracy - 0.1, 0.25) for k in range(run.epochs)],
        best_epoch=run.epochs - 1,
        test=accuracy,
        seconds=5.0,
        worst_wait_seconds=0.01,
        batches=30,
        suspects=[] if run.policy == ORACLE else suspects,
        beliefs={name: [count - count // 2, *[0] * (BINS - 2), count // 2] for name, count in counts.items()},
        steps=steps or [],
    )
