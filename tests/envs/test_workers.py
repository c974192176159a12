"""The vector environment of stable-baselines3, over processes."""

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from bss_service.core.action import DIMENSION
from envs.scheduling import BalanceScheduling, DiscreteBalanceScheduling
from envs.tasks import Distribution
from envs.workers import StudentsVecEnv, make_sb3
from tests.envs.lessons import ABSURD, SHORT

Step = tuple[Any, ...]


@pytest.fixture
def make() -> Iterator[Callable[..., StudentsVecEnv]]:
    """Makes environments, and closes them with the test."""
    made: list[StudentsVecEnv] = []

    def make(num_envs: int, workers: int = 1, tasks: Any = SHORT, **options: Any) -> StudentsVecEnv:
        made.append(StudentsVecEnv(num_envs, workers, tasks, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


def actions(number: int, step: int) -> np.ndarray:
    return np.random.default_rng(step).uniform(-1, 1, (number, DIMENSION)).astype(np.float32)


def trajectory(env: StudentsVecEnv, seed: int = 0, steps: int = 9) -> list[Step]:
    env.seed(seed)
    came: list[Step] = [(env.reset().tobytes(),)]
    for k in range(steps):
        observations, rewards, dones, infos = env.step(actions(env.num_envs, k))
        assert rewards.dtype == np.float32
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = info["terminal_observation"].tobytes()
        came.append((observations.tobytes(), rewards.tolist(), dones.tolist(), infos))
    return came


def test_it_does_not_matter_how_many_processes_share_the_work(make: Callable[..., StudentsVecEnv]) -> None:
    one, two = make(4, 1), make(4, 2)
    assert trajectory(one) == trajectory(two)
    assert trajectory(one, seed=1) != trajectory(two, seed=2)


def test_each_environment_goes_the_way_of_a_single_one(make: Callable[..., StudentsVecEnv]) -> None:
    """And tells of an episode's end what stable-baselines3 wants to know."""
    env = make(2)
    alone = [BalanceScheduling(SHORT) for _ in range(2)]
    env.seed(5)
    observations = env.reset()
    for b, single in enumerate(alone):
        np.testing.assert_array_equal(observations[b], single.reset(seed=5 + b)[0])
    ended = 0
    for k in range(9):
        observations, rewards, dones, infos = env.step(actions(2, k))
        for b, single in enumerate(alone):
            own, reward, terminated, truncated, info = single.step(actions(2, k)[b])
            assert rewards[b] == np.float32(reward)
            assert dones[b] == (terminated or truncated)
            assert set(infos[b]) == ({"terminal_observation", "TimeLimit.truncated", *info} if dones[b] else set())
            if dones[b]:
                ended += 1
                assert infos[b]["TimeLimit.truncated"] is False
                assert infos[b]["best_validation_accuracy"] == info["best_validation_accuracy"]
                assert infos[b]["action"] == info["action"]
                np.testing.assert_array_equal(infos[b]["terminal_observation"], own)
                own = single.reset()[0]
            np.testing.assert_array_equal(observations[b], own)
    assert ended >= 4


def test_an_episode_that_diverged_was_not_truncated(make: Callable[..., StudentsVecEnv]) -> None:
    env = make(2, tasks=ABSURD)
    env.seed(0)
    env.reset()
    _, rewards, dones, infos = env.step(actions(2, 0))
    assert (rewards.tolist(), dones.tolist()) == ([-1.0, -1.0], [True, True])
    assert [info["TimeLimit.truncated"] for info in infos] == [False, False]


def test_an_error_in_a_process_reaches_the_caller_and_leaves_nothing_behind(
    make: Callable[..., StudentsVecEnv],
) -> None:
    env = make(2, 2)
    for place in (0, 1):
        env.seed(1)
        env.reset()
        wrong = actions(2, 0)
        wrong[place] = np.nan
        with pytest.raises(ValueError, match="must not hold NaN"):
            env.step(wrong)
    assert trajectory(env) == trajectory(make(2, 1))


def test_tasks_that_cannot_be_made_are_told_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="tasks must be one of training, held-out"):
        StudentsVecEnv(2, tasks="nonesuch")
    with pytest.raises(ValueError, match="modalities must be at least 2, got 1"):
        StudentsVecEnv(2, tasks=Distribution(("synthetic:1",), ()))


@pytest.mark.parametrize(("number", "workers"), [(3, 2), (4, 0), (4, -1), (2, 4)])
def test_environments_that_cannot_be_shared_out_are_refused(number: int, workers: int) -> None:
    with pytest.raises(ValueError, match=f"num_envs must be a multiple of workers.*{workers}.*got {number}"):
        StudentsVecEnv(number, workers)


def test_closing_leaves_no_process_and_closing_twice_is_fine() -> None:
    before = set(multiprocessing.active_children())
    env = StudentsVecEnv(4, 2, SHORT)
    own = set(multiprocessing.active_children()) - before
    assert len(own) == 2
    env.reset()
    env.close()
    assert not own & set(multiprocessing.active_children())
    assert [process.exitcode for process in own] == [0, 0]
    env.close()


def test_closing_in_the_middle_of_a_step_works_too() -> None:
    env = StudentsVecEnv(2, 1, SHORT)
    env.reset()
    env.step_async(actions(2, 0))
    own = multiprocessing.active_children()
    env.close()
    assert not any(process.is_alive() for process in own)


def test_what_lives_in_other_processes_cannot_be_touched(make: Callable[..., StudentsVecEnv]) -> None:
    env = make(2)
    assert env.get_attr("render_mode") == [None, None]
    assert env.env_is_wrapped(VecMonitor) == [False, False]
    with pytest.raises(AttributeError, match="tasks"):
        env.get_attr("tasks")
    with pytest.raises(AttributeError, match="tasks can't be set"):
        env.set_attr("tasks", 1)
    with pytest.raises(AttributeError, match="render can't be called"):
        env.env_method("render")


@pytest.mark.parametrize("discrete", [pytest.param(False, marks=pytest.mark.long), True])
def test_stable_baselines3_learns_on_it(discrete: bool) -> None:
    env = make_sb3(2, tasks=SHORT, discrete=discrete)
    kind = DiscreteBalanceScheduling if discrete else BalanceScheduling
    assert env.action_space == kind(SHORT).action_space
    model = PPO("MlpPolicy", env, n_steps=6, batch_size=6, n_epochs=1, seed=0, device="cpu")
    before = model.policy.action_net.bias.detach().clone()
    model.learn(24)
    env.close()
    assert not model.policy.action_net.bias.equal(before)
    assert model.ep_info_buffer
    assert all(2 <= episode["l"] <= 4 for episode in model.ep_info_buffer)
