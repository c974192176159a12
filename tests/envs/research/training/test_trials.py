"""Settings found by trials: on a surface that is known, and on students."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bss_service.core.action import COMPONENTS, Action
from bss_service.policies import artefact
from envs.research.rollouts import Pool, pool
from envs.research.training.search import JUDGED
from envs.research.training.trials import CONTEXT, RANGES, Surface, Trials
from envs.tasks import Distribution
from tests.support.trained import observations

TASKS = Distribution(("synthetic:2",), ("noisy_labels",), samples=(64, 96), intervals=(6, 8), validation=(20, 30))


@pytest.fixture(scope="module")
def runs() -> Iterator[Pool]:
    with pool(1) as made:
        yield made


def trials(runs: Pool) -> Trials:
    return Trials(TASKS, seed=3, pool=runs, tasks_each=2, trials_each=2)


def test_the_highest_point_of_a_surface_is_found_through_noise_and_moves_with_the_context() -> None:
    rng = np.random.default_rng(0)
    settings, context = rng.uniform(-1, 1, (4000, 2)), rng.standard_normal((4000, 1))
    slope = np.array([1.0, -8.0]) + context * np.array([2.0, 0.0])
    gains = 3 + (slope * settings).sum(axis=1) - 2 * settings[:, 0] ** 2 - settings[:, 1] ** 2
    surface = Surface.fitted(settings, context, gains + 3 * rng.standard_normal(4000))
    best, weights = surface.best()
    assert best == pytest.approx([0.25, -1.0], abs=0.1)  # the second would lie at −4, where nothing was tried
    assert weights[0, 0] == pytest.approx(0.5, abs=0.1)
    assert surface.at(np.zeros(2)) == pytest.approx(3, abs=0.3)


def test_where_a_setting_makes_no_difference_it_stays_about_where_it_was() -> None:
    rng = np.random.default_rng(1)
    settings, context = rng.uniform(-1, 1, (4000, 2)), rng.standard_normal((4000, 1))
    best, weights = Surface.fitted(settings, context, rng.standard_normal(4000)).best()
    assert np.abs(best).max() < 0.2
    assert np.abs(weights).max() < 0.2


def test_nothing_but_its_settings_sets_a_trial_apart_from_where_trials_begin(runs: Pool) -> None:
    learner = trials(runs)
    learner.advance()
    policies = [artefact.read(learner._policy(np.full(len(RANGES), u))) for u in (-1.0, 1.0)]
    low, high = (policy.distribution(observations(50)).mode() for policy in policies)
    moved = {name for name, spread in zip(COMPONENTS, (high - low).max(axis=0), strict=True) if spread > 1e-6}
    assert moved == set(RANGES) == set(JUDGED.moves)
    beliefs = [Action.from_vector(modes[0]).belief for modes in (low, high)]
    assert beliefs == pytest.approx([0.23, 0.69], abs=0.02)


def test_a_policy_of_trials_says_how_many_there_were_and_what_they_promise(runs: Pool) -> None:
    learner = trials(runs)
    with pytest.raises(ValueError, match="before the first trial"):
        learner.artefact("mine", {})
    figures = learner.advance()
    training = artefact.read(learner.artefact("mine", {"seed": 3})).manifest.training
    assert training["trials"] == 4
    assert training["gain_at_best"] == figures["at_best"]
    assert learner.context.shape == (4, len(CONTEXT))


def test_trials_resumed_from_a_checkpoint_go_on_as_if_they_had_not_stopped(runs: Pool, tmp_path: Path) -> None:
    whole, stopped, resumed = trials(runs), trials(runs), trials(runs)
    whole.advance()
    whole.advance()
    stopped.advance()
    stopped.save(tmp_path / "state")
    resumed.load(tmp_path / "state")
    resumed.advance()
    assert resumed.artefact("mine", {}) == whole.artefact("mine", {})
    assert (resumed.iteration, resumed.intervals) == (whole.iteration, whole.intervals)
