"""A small world: a data set with hostile texts, and results as the demo would have made them."""

import numpy as np
import pytest

from bss_service.core.observation import FIELDS
from demo.plan import CONDITIONS, POLICIES, Run, compared_runs, swapped_run
from demo.results import (
    EVERYONE,
    RIGHT,
    WRONG,
    Announcement,
    Decision,
    Epoch,
    Facts,
    Results,
    RunResult,
    ScoreBands,
    Step,
)
from demo.swap import prove
from trainer_client.reference.data import Dataset

HOSTILE = '<script src="https://evil.example/x.js"></script>&"\'</style></svg>$x$'
SAMPLES = 40  # for training
ARMS = ("uniform", "hard")


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
        split=np.repeat(np.array([0, 1, 2], np.uint8), [SAMPLES, 10, 10]),
        classes=(HOSTILE + "a", HOSTILE + "b"),
        captions=tuple(f"{HOSTILE}{number}" for number in range(60)),
        licence=HOSTILE,
    )


@pytest.fixture(scope="session")
def results() -> Results:
    """Two seeds, three epochs: every policy gains 3 points over uniform with seed 0 and 5 with seed 1."""
    runs = [_result(run) for run in compared_runs(POLICIES, 2, 3)]
    swapped = swapped_run(3)
    steps = [Step(step, step // 10, 1 + (step >= 14), 0.01 * step) for step in range(30)]
    done = _result(swapped, steps)
    announced = Announcement("balance", 2, 14, handed_out=14, trained=11, epoch=1, epoch_start=10, epoch_end=20)
    facts = Facts("python -m demo", "today", 60.0, 2, "Linux", {"python": "3"}, SAMPLES, 10, 10, HOSTILE)
    return Results(facts, runs, prove(announced, done), done)


def _result(run: Run, steps: list[Step] | None = None) -> RunResult:
    gain = 0.0 if run.policy == "uniform" else 0.03 + 0.02 * run.seed
    accuracy = {"image": 0.4, "text": 0.5, "joint": 0.6 + gain}
    is_noisy = run.condition == CONDITIONS[1]
    groups = (EVERYONE, RIGHT, WRONG) if is_noisy else (EVERYONE,)
    return RunResult(
        run=run,
        epochs=[Epoch(k, 10 * (k + 1), 1, 1.0, accuracy) for k in range(run.epochs)],
        best_epoch=run.epochs - 1,
        test=accuracy,
        seconds=5.0,
        extra_forward_samples=SAMPLES if run.measure_first else 0,
        worst_wait_seconds=0.01,
        batches=30,
        decisions=[_decision(run, k) for k in range(run.epochs)],
        bands=[ScoreBands(k, {group: [-0.2, 0.0, 0.1, 0.3, 0.6] for group in groups}) for k in range(1, run.epochs)],
        scores=[None, *np.linspace(-0.9, 0.9, SAMPLES - 1).tolist()],
        wrong_label=[is_noisy and number < 10 for number in range(SAMPLES)],
        steps=steps or [],
    )


def _decision(run: Run, number: int) -> Decision:
    detail = {"arm": "hard", "warm_up": number == 0, "probabilities": dict.fromkeys(ARMS, 0.5)}
    return Decision(
        first_step=10 * number,
        end_step=10 * number + 10,
        epoch=number,
        policy_version=1,
        policy=run.policy,
        observation=dict.fromkeys(FIELDS, 0.0),
        action={"kappa_similarity": 1.0, "kappa_loss": 1.0, "share": 0.5, "coverage": "draw"},
        propensity=1.0,
        detail=detail if run.policy == "bandit" else {},
        gain=0.1,
        reward=None if number == 0 else -1.0,
    )
