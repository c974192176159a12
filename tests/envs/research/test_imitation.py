from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bss_service import artefact
from bss_service.core.action import Action
from bss_service.core.observation import FIELDS
from envs.research.imitation import DEVIATION, Imitation
from envs.research.rollouts import Pool, pool
from envs.research.teacher import Teacher, lessons
from envs.tasks import Distribution, Task

TASKS = Distribution(("synthetic:2",), ("noisy_labels",), samples=(64, 96), intervals=(4, 6), validation=(20, 30))
TASK = Task("synthetic:2", samples=100, learning_rate=0.1, intervals=10, seed=0)


@pytest.fixture(scope="module")
def runs() -> Iterator[Pool]:
    with pool(1) as made:
        yield made


def imitation(runs: Pool) -> Imitation:
    return Imitation(TASKS, seed=5, pool=runs, episodes=6, fit_steps=150)


def test_the_teacher_leaves_out_what_is_wrong_and_nothing_else() -> None:
    assert Teacher(TASK).action(1.0).share == 1.0
    noisy = Teacher(replace(TASK, noisy_labels=0.4))
    assert noisy.action(0.0).share == 1.0
    assert 0.55 < noisy.action(1.0).share < 0.7
    assert noisy.action(1.0).kappa_loss > 1


def test_the_teacher_says_of_every_observation_what_it_would_do() -> None:
    seen = np.zeros((3, len(FIELDS)), np.float32)
    seen[:, FIELDS.index("progress")] = [0, 0.5, 1]
    task = replace(TASK, mispaired=0.3)
    _, actions, weights = lessons(task, seen)
    assert [Action.from_vector(a).share for a in actions] == pytest.approx(
        [Teacher(task).action(p).share for p in (0, 0.5, 1)], abs=1e-5
    )
    assert weights.shape == actions.shape
    assert (weights > 0).all()


def test_the_network_comes_to_do_what_the_teacher_does(runs: Pool) -> None:
    learner = imitation(runs)
    learner.advance()
    seen, told, weights = (np.concatenate(parts) for parts in zip(*learner.told, strict=True))
    untaught = ((artefact.read(imitation(runs).artefact("a", {})).distribution(seen).mode() - told) ** 2 * weights).sum(
        1
    )
    taught = ((artefact.read(learner.artefact("a", {})).distribution(seen).mode() - told) ** 2 * weights).sum(1)
    assert taught.mean() < 0.2 * untaught.mean()


def test_an_imitation_resumed_from_its_checkpoint_goes_on_as_if_it_had_not_stopped(runs: Pool, tmp_path: Path) -> None:
    whole, stopped, resumed = imitation(runs), imitation(runs), imitation(runs)
    whole.advance()
    figures = whole.advance()
    stopped.advance()
    stopped.save(tmp_path / "state")
    resumed.load(tmp_path / "state")
    assert resumed.advance() == figures
    assert resumed.intervals == whole.intervals
    assert resumed.artefact("a", {}) == whole.artefact("a", {})


def test_the_artefact_acts_with_a_small_deviation(runs: Pool) -> None:
    learner = imitation(runs)
    learner.advance()
    assert np.exp(artefact.read(learner.artefact("a", {})).tensors["log_std"]) == pytest.approx(DEVIATION, rel=1e-5)
