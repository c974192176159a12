from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bss_service.policies import artefact
from envs.research.rollouts import Pool, pool
from envs.research.training.imitation import DEVIATION, Imitation
from envs.tasks import Distribution

TASKS = Distribution(("synthetic:2",), ("noisy_labels",), samples=(64, 96), intervals=(4, 6), validation=(20, 30))


@pytest.fixture(scope="module")
def runs() -> Iterator[Pool]:
    with pool(1) as made:
        yield made


def imitation(runs: Pool) -> Imitation:
    return Imitation(TASKS, seed=5, pool=runs, episodes=6, fit_steps=150)


def test_the_network_comes_to_do_what_the_teacher_does(runs: Pool) -> None:
    learner = imitation(runs)
    learner.advance()
    seen, advice, weights = (np.concatenate(parts) for parts in zip(*learner.lessons, strict=True))
    untaught = (
        (artefact.read(imitation(runs).artefact("a", {})).distribution(seen).mode() - advice) ** 2 * weights
    ).sum(1)
    taught = ((artefact.read(learner.artefact("a", {})).distribution(seen).mode() - advice) ** 2 * weights).sum(1)
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
