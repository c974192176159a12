import multiprocessing
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice
from bss_service.protocol.decisions import Decision
from envs.research.actors import FixedActor, of_artefact, of_name, parse
from envs.research.rollouts import Episode, play, pool
from envs.run import StudentRun
from envs.students import one_thread_each
from envs.tasks import Task
from tests.support.trained import made_up

TASK = Task("synthetic:2", samples=96, learning_rate=0.1, intervals=4, seed=1, validation=40, noisy_labels=0.4)
UNIFORM = partial(of_name, "uniform", {})


def test_runs_of_one_task_and_seed_differ_by_their_policy_alone() -> None:
    keep = partial(FixedActor, Action(share=0.5, rank_by="loss", coverage="subset"))
    first, again, other, reseeded = play(
        [Episode(TASK, 7, UNIFORM), Episode(TASK, 7, UNIFORM), Episode(TASK, 7, keep), Episode(TASK, 8, UNIFORM)]
    )
    assert np.array_equal(first.observations, again.observations)
    assert np.array_equal(first.observations[0], other.observations[0])  # the same data and weights
    assert not np.array_equal(first.observations[-1], other.observations[-1])
    assert not np.array_equal(first.observations[0], reseeded.observations[0])


def test_what_a_run_comes_to_does_not_depend_on_where_it_is_made() -> None:
    longer = Task("synthetic:2", samples=128, learning_rate=0.1, intervals=6, seed=2, validation=30)
    episodes = [Episode(task, seed, UNIFORM) for task in (TASK, longer) for seed in range(3)]
    alone = [play([episode])[0] for episode in episodes]
    with pool(2) as runs:
        together = runs(episodes)
    for a, b in zip(alone, together, strict=True):
        assert (a.validation_accuracy, a.test_accuracy) == (b.validation_accuracy, b.test_accuracy)
        assert np.array_equal(a.observations, b.observations)


def test_the_oracle_uses_clean_samples_alone_and_shuffled_scores_change_what_is_drawn() -> None:
    keep = partial(FixedActor, Action(share=0.5, rank_by="loss", coverage="subset"))
    plain, shuffled, uniform, oracle = play(
        [
            Episode(TASK, 7, keep),
            Episode(TASK, 7, keep, "shuffled"),
            Episode(TASK, 7, UNIFORM),
            Episode(TASK, 7, UNIFORM, "oracle"),
        ]
    )
    assert not np.array_equal(plain.observations[-1], shuffled.observations[-1])
    assert not np.array_equal(uniform.observations[-1], oracle.observations[-1])


def test_the_share_that_the_last_interval_left_out_for_want_of_belief_is_told() -> None:
    doubts = partial(FixedActor, Action(belief=0.8, probes=0.1))
    plain, doubtful = play([Episode(TASK, 7, UNIFORM), Episode(TASK, 7, doubts)])
    assert plain.left_out == 0
    assert 0.1 < doubtful.left_out < 0.5


def test_the_oracle_of_a_clean_task_is_uniform() -> None:
    clean = replace(TASK, noisy_labels=0.0)
    uniform, oracle = play([Episode(clean, 7, UNIFORM), Episode(clean, 7, UNIFORM, "oracle")])
    np.testing.assert_array_equal(uniform.observations, oracle.observations)


class Pupil:
    """Acts uniformly and writes down what it was taught."""

    judge = None

    def __init__(self, seed: int) -> None:
        self.taught: list[Decision] = []

    def act(self, observation: Observation) -> Choice:
        return Choice(Action())

    def learn(self, decision: Decision) -> None:
        self.taught.append(decision)


def test_an_actor_is_taught_by_every_interval_but_the_last() -> None:
    pupils: list[Pupil] = []

    def enter(seed: int) -> Pupil:
        pupils.append(Pupil(seed))
        return pupils[-1]

    play([Episode(TASK, 7, enter)])
    steps = TASK.samples // 32
    assert [decision.first_step for decision in pupils[0].taught] == [0, steps, 2 * steps]
    assert all(decision.reward is not None for decision in pupils[0].taught)


def test_a_policy_of_the_service_learns_what_its_actor_is_taught() -> None:
    """After a reward that is as high as can be, the bandit's arm is likelier than before."""
    untaught, taught = of_name("bandit", {"warm_up": 0}, 3), of_name("bandit", {"warm_up": 0}, 3)
    run = StudentRun(samples=96, modalities=2, batch_size=32, intervals=4, seed=0)
    observation = run.observe()
    first = [actor.act(observation) for actor in (untaught, taught)]
    assert first[0] == first[1]
    decision = Decision.model_construct(
        **first[0].fields(), first_step=0, end_step=3, epoch=0, policy_version=1, policy="bandit", reward=1.0
    )
    taught.learn(decision)
    assert taught.act(observation).detail != untaught.act(observation).detail


def test_policies_that_learn_and_artefacts_are_run_as_in_the_service() -> None:
    bandit, trained = play(
        [Episode(TASK, 7, partial(of_name, "bandit", {})), Episode(TASK, 7, partial(of_artefact, made_up()))]
    )
    assert len(bandit.observations) == len(trained.observations) == TASK.intervals
    assert 0 < bandit.test_accuracy < 1


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [("nobody", "policy must be one of"), ("balance:{", "must be JSON"), ('curriculum:{"reverse": 3}', "reverse")],
)
def test_a_wrong_reference_is_refused_with_its_reason(reference: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(reference)


def test_processes_of_a_pool_use_one_thread_each() -> None:
    with one_thread_each():
        assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
        with multiprocessing.get_context("spawn").Pool(1) as processes:
            assert processes.apply(os.getenv, ["OPENBLAS_NUM_THREADS"]) == "1"
