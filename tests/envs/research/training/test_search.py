from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bss_service.core.action import COMPONENTS, Action
from bss_service.policies import artefact
from envs.research.rollouts import Pool, pool
from envs.research.training.search import NARROW, SPACES, WIDE, Search, SearchState, Space
from envs.tasks import Distribution
from tests.support.trained import observations

TASKS = Distribution(("synthetic:2",), ("noisy_labels",), samples=(64, 96), intervals=(3, 4), validation=(20, 30))
SEARCH = Search(WIDE, TASKS, seed=2, population=4, tasks_each=2)


@pytest.fixture(scope="module")
def runs() -> Iterator[Pool]:
    with pool(1) as made:
        yield made


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_zero_matrix_takes_the_base_action_whatever_it_sees(space: Space, runs: Pool) -> None:
    search = replace(SEARCH, space=space)
    state = search.begin(runs)
    modes = artefact.read(search.artefact(state, np.zeros_like(state.mean))).distribution(observations(50)).mode()
    for mode in modes:
        assert Action.from_vector(mode).share == pytest.approx(space.base.share, abs=0.01)
        assert Action.from_vector(mode).coverage == space.base.coverage


def test_a_matrix_moves_only_what_the_space_lets_it(runs: Pool) -> None:
    search = replace(SEARCH, space=NARROW)
    state = search.begin(runs)
    matrix = np.random.default_rng(0).normal(0, 1, state.mean.shape)
    modes = artefact.read(search.artefact(state, matrix)).distribution(observations(50)).mode()
    moved = {name for name, spread in zip(COMPONENTS, np.ptp(modes, axis=0), strict=True) if spread > 1e-6}
    assert moved == set(NARROW.moves)


def test_a_generation_moves_towards_the_candidates_that_did_best(runs: Pool) -> None:
    state = SEARCH.begin(runs)
    following, generation, intervals = SEARCH.advance(state, runs)
    assert generation.best >= generation.population
    assert generation.gain == 0.0  # the search begins at the zero matrix
    assert intervals > 0
    assert (following.mean != state.mean).any()


def test_a_search_resumed_from_its_checkpoint_goes_on_as_if_it_had_not_stopped(runs: Pool, tmp_path: Path) -> None:
    first, _, intervals = SEARCH.advance(SEARCH.begin(runs), runs)
    first.save(tmp_path / "state", intervals)
    loaded, spent = SearchState.load(tmp_path / "state")
    assert spent == intervals
    whole, resumed = SEARCH.advance(first, runs)[0], SEARCH.advance(loaded, runs)[0]
    assert np.array_equal(whole.mean, resumed.mean)
    assert np.array_equal(whole.deviation, resumed.deviation)
