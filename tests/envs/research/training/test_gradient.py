from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bss_service.core.action import Action
from bss_service.policies import artefact
from envs.research.training.gradient import JUDGED_START, START, Gradient
from envs.tasks import Distribution
from tests.support.trained import observations

TASKS = Distribution(("synthetic:2",), ("noisy_labels",), samples=(64, 96), intervals=(3, 4), validation=(20, 30))


def gradient(algorithm: str, **options: Any) -> Gradient:
    return Gradient(algorithm, TASKS, seed=3, workers=1, envs=4, steps=8, **options)


@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("sac", marks=pytest.mark.long)])
def test_a_run_resumed_from_its_checkpoint_goes_on_as_if_it_had_not_stopped(algorithm: str, tmp_path: Path) -> None:
    whole, stopped, resumed = gradient(algorithm), gradient(algorithm), gradient(algorithm)
    try:
        for _ in range(3):
            figures = whole.advance()
        stopped.advance()
        stopped.save(tmp_path / "state")
        resumed.load(tmp_path / "state")
        resumed.advance()
        assert resumed.advance() == pytest.approx(figures, rel=0, abs=0, nan_ok=True)
        assert resumed.intervals == whole.intervals == 3 * 4 * 8
        assert resumed.artefact("a", {}) == whole.artefact("a", {}) != stopped.artefact("a", {})
    finally:
        for each in (whole, stopped, resumed):
            each.close()


def test_a_checkpoint_holds_numbers_alone(tmp_path: Path) -> None:
    """And it is told how far the iteration before it has come."""
    told: list[str] = []
    learner = gradient("sac", progress=told.append)
    try:
        learner.advance()
        learner.save(tmp_path / "state")
    finally:
        learner.close()
    assert told == [f"{intervals} of 32 intervals" for intervals in range(4, 33, 4)]
    assert set(torch.load(tmp_path / "state", weights_only=True)) >= {"parameters", "observations", "replay"}


@pytest.mark.parametrize(
    ("algorithm", "begin"),
    [("ppo", START), pytest.param("sac", START, marks=pytest.mark.long), ("ppo-evidence", JUDGED_START)],
)
def test_training_begins_near_plain_shuffling_or_at_the_rule(algorithm: str, begin: Action) -> None:
    learner = gradient(algorithm)
    try:
        first = artefact.read(learner.artefact("untrained", {}))
    finally:
        learner.close()
    modes = first.distribution(observations(200)).mode()
    assert np.abs(np.clip(modes, -1, 1) - begin.to_vector()).max() < 0.2
