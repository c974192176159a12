"""`BalanceScheduling-v0` and its discrete form: Gymnasium's contract, alone and side by side."""

import inspect
import pickle
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines3

import envs  # noqa: F401  # registers what gymnasium.make finds
from bss_service.core.action import CHOICES, DIMENSION, NAMED_ACTIONS, RANGES
from bss_service.core.observation import FIELDS
from envs.cohort import DIVERGED
from envs.scheduling import (
    BalanceScheduling,
    DiscreteBalanceScheduling,
    VectorBalanceScheduling,
    VectorDiscreteBalanceScheduling,
)
from envs.tasks import Distribution, Task, lesson
from tests.envs.lessons import ABSURD, SHORT

NAMES = ("BalanceScheduling-v0", "BalanceScheduling-Discrete-v0")
both = pytest.mark.parametrize("name", NAMES)


def plain(info: dict[str, Any], place: int | None = None) -> dict[str, Any]:
    """An info, or what a vector environment's info says of one place, in Python's own types."""
    own_types = {}
    for name, value in info.items():
        if name.startswith("_") or not (place is None or info.get(f"_{name}", np.ones(99))[place]):
            continue
        if isinstance(value, dict):
            own_types[name] = plain(value, place)
        else:
            own = value if place is None else value[place]
            own_types[name] = own.item() if isinstance(own, np.generic) else own
    return own_types


def action_of(space: gymnasium.Space[Any], number: int) -> Any:
    """The same action for the same number, wherever it is taken."""
    rng = np.random.default_rng(number)
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(rng.integers(space.n))
    return rng.uniform(-1, 1, space.shape).astype(np.float32)


def episodes(env: gymnasium.Env[Any, Any], seed: int, steps: int) -> list[tuple[Any, ...]]:
    """What comes of so many calls of step, of which one after the end of an episode is a reset, as in NEXT_STEP."""
    observation, info = env.reset(seed=seed)
    came: list[tuple[Any, ...]] = [(observation.tobytes(), 0.0, False, False, plain(info))]
    over = False
    for k in range(steps):
        if over:
            observation, info = env.reset()
            came.append((observation.tobytes(), 0.0, False, False, plain(info)))
            over = False
            continue
        observation, reward, terminated, truncated, info = env.step(action_of(env.action_space, 1000 * seed + k))
        came.append((observation.tobytes(), reward, terminated, truncated, plain(info)))
        over = terminated or truncated
    return came


def side_by_side(env: VectorEnv[Any, Any, Any], seed: int, steps: int) -> list[list[tuple[Any, ...]]]:
    """The same for each place."""
    observations, infos = env.reset(seed=seed)
    came = [[(observations[b].tobytes(), 0.0, False, False, plain(infos, b))] for b in range(env.num_envs)]
    for k in range(steps):
        actions = np.array([action_of(env.single_action_space, 1000 * (seed + b) + k) for b in range(env.num_envs)])
        observations, rewards, terminated, truncated, infos = env.step(actions)
        for b, of_place in enumerate(came):
            of_place.append((observations[b].tobytes(), rewards[b], terminated[b], truncated[b], plain(infos, b)))
    return came


def make(name: str = NAMES[0], tasks: Distribution | str = SHORT, **options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(name, tasks=tasks, **options)


def make_vec(number: int, name: str = NAMES[0], tasks: Any = SHORT, **options: Any) -> VectorEnv[Any, Any, Any]:
    return gymnasium.make_vec(name, num_envs=number, tasks=tasks, **options)


# What every environment owes.


@both
def test_gymnasium_finds_nothing_wrong(name: str) -> None:
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(name, render_mode="rgb_array").unwrapped)


@both
def test_stable_baselines3_finds_nothing_wrong(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_for_stable_baselines3(make(name).unwrapped)


@both
def test_it_is_made_by_name_with_the_training_tasks(name: str) -> None:
    env = gymnasium.make(name)
    _, info = env.reset(seed=0)
    assert info["task"]["source"] == "synthetic:2"
    assert env.step(env.action_space.sample())[0].shape == (len(FIELDS),)


@both
def test_its_spec_makes_the_same_again(name: str) -> None:
    env = make(name, judged=True)
    assert env.spec is not None
    again = gymnasium.make(env.spec)
    assert episodes(again, 3, 3) == episodes(env, 3, 3)
    restored = gymnasium.make(pickle.loads(pickle.dumps(env.spec)))  # noqa: S301  its own
    assert episodes(restored, 3, 3) == episodes(env, 3, 3)


@both
def test_an_environment_can_be_pickled_in_the_middle_of_an_episode(name: str) -> None:
    env = make(name).unwrapped
    env.reset(seed=1)
    copy = pickle.loads(pickle.dumps(env))  # noqa: S301  its own
    action = action_of(env.action_space, 0)
    one, other = env.step(action), copy.step(action)
    assert one[0].tobytes() == other[0].tobytes()
    assert one[1:] == other[1:]


@both
def test_the_same_seed_gives_the_same_episodes_and_another_seed_others(name: str) -> None:
    assert episodes(make(name), 3, 12) == episodes(make(name), 3, 12)
    assert episodes(make(name), 3, 3) != episodes(make(name), 4, 3)


def test_actions_matter() -> None:
    env = make(NAMES[1])
    came = []
    for k in range(env.action_space.n):
        env.reset(seed=3)
        env.step(0)  # the first draw knows nothing to weigh
        env.step(k)  # a pull remembers now what it draws towards then
        came.append(env.step(k)[0].tobytes())
    assert len(set(came)) == len(NAMED_ACTIONS)


def test_a_discrete_action_is_the_named_one() -> None:
    continuous, discrete = make(NAMES[0]), make(NAMES[1])
    for k, action in enumerate(NAMED_ACTIONS.values()):
        continuous.reset(seed=3)
        discrete.reset(seed=3)
        assert discrete.step(k)[4]["action"] == action.as_dict()
        applied = continuous.step(action.to_vector())[4]["action"]
        assert {name: applied[name] for name in CHOICES} == {name: getattr(action, name) for name in CHOICES}
        assert [applied[name] for name in RANGES] == pytest.approx([getattr(action, name) for name in RANGES], abs=1e-6)


# Episodes.


@pytest.mark.parametrize("seed", range(4))
def test_an_episode_is_truncated_at_its_horizon_and_its_rewards_are_what_the_best_checkpoint_gains(seed: int) -> None:
    env = make()
    observation, info = env.reset(seed=seed)
    first = float(observation[FIELDS.index("validation_accuracy")])
    intervals = info["task"]["intervals"]
    rewards, accuracies = [], [first]
    for k in range(intervals):
        observation, reward, terminated, truncated, info = env.step(action_of(env.action_space, k))
        rewards.append(reward)
        accuracies.append(info["validation_accuracy"])
        assert (terminated, truncated) == (False, k == intervals - 1)
        assert env.observation_space.contains(observation)
        assert ("best_validation_accuracy" in info) == truncated
    assert info["best_validation_accuracy"] == pytest.approx(max(accuracies), abs=1e-6)
    assert sum(rewards) == pytest.approx(max(accuracies) - first, abs=1e-6)
    assert min(rewards) >= 0


def test_the_test_accuracy_is_told_at_the_end_and_only_where_asked_for() -> None:
    for judged in (False, True):
        came = episodes(make(judged=judged), 0, 12)
        for _, _, terminated, truncated, info in came:
            assert ("test_accuracy" in info) == (judged and (terminated or truncated))
        assert any(truncated for _, _, _, truncated, _ in came)
    assert [c[:4] for c in came] == [c[:4] for c in episodes(make(), 0, 12)]  # it changes nothing else


@both
def test_divergence_terminates_with_the_documented_reward_and_a_finite_observation(name: str) -> None:
    env = make(name, ABSURD, judged=True)
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(action_of(env.action_space, 0))
    assert (reward, terminated, truncated) == (DIVERGED, True, False)
    assert np.isfinite(observation).all()
    assert env.observation_space.contains(observation)
    assert set(info) == {"best_validation_accuracy", "test_accuracy"}
    env.reset()  # and on it goes
    env.step(action_of(env.action_space, 0))


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match="reset before its first step"):
        BalanceScheduling(SHORT).step(np.zeros(DIMENSION, np.float32))


def test_randomised_tasks_and_twins_are_drawn_from_the_seed() -> None:
    """Every episode is of another world; a twin is of the same one, and takes from the rewards what the world does."""
    first, again, twinned = (
        side_by_side(make_vec(3, NAMES[0], "randomised", twins=twins), 7, 3) for twins in (False, False, True)
    )
    assert first == again
    for place, of_twin in zip(first, twinned, strict=True):
        assert [step[0] for step in place] == [step[0] for step in of_twin]
    assert [step[1] for place in first for step in place] != [step[1] for place in twinned for step in place]
    draws = [make(tasks="randomised").reset(seed=seed)[1]["task"] for seed in (7, 8)]
    assert draws[0]["source"] == "randomised"
    assert draws[0]["seed"] != draws[1]["seed"]
    one, other = (lesson(Task("randomised", 1, 1.0, 1, task["seed"])) for task in draws)
    assert one.train.labels.tobytes() != other.train.labels.tobytes()


@pytest.mark.parametrize("tasks", ["training", "held-out"])
def test_tasks_have_names(tasks: str) -> None:
    env = make(tasks=tasks)
    _, info = env.reset(seed=0)
    assert (info["task"]["source"] == "synthetic:2") == (tasks == "training")


def test_three_modalities_are_scheduled_like_two() -> None:
    tasks = Distribution(("synthetic:3",), ("blank",), (70, 90), intervals=(2, 3), validation=(20, 30))
    assert len(episodes(make(tasks=tasks), 0, 6)) == 7


# Side by side.


@both
@pytest.mark.parametrize("number", [1, 5])
def test_each_place_goes_the_way_of_a_single_environment_bit_for_bit_across_autoresets(name: str, number: int) -> None:
    came = side_by_side(make_vec(number, name), 10, 14)
    for b in range(number):
        alone = episodes(make(name), 10 + b, 14)
        assert sum(truncated for _, _, _, truncated, _ in alone) >= 2
        assert came[b] == alone


@both
def test_that_holds_where_a_neighbour_diverges_and_where_test_accuracies_are_told(name: str) -> None:
    tasks = Distribution(
        ("synthetic:2",), (), (70, 140), learning_rates=(0.01, 1e9), intervals=(3, 5), validation=(20, 40)
    )
    came = side_by_side(make_vec(6, name, tasks, judged=True), 0, 10)
    ended = {kind: sum(place[k][kind] for place in came for k in range(11)) for kind in (2, 3)}
    assert min(ended.values()) > 0  # some diverged, some came to their end
    for b in range(6):
        assert came[b] == episodes(make(name, tasks, judged=True), b, 10)


def test_in_same_step_mode_the_next_episode_begins_at_once_and_the_last_is_told_apart() -> None:
    env = make_vec(4, autoreset_mode=AutoresetMode.SAME_STEP, judged=True)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    alone = [make(judged=True) for _ in range(4)]
    observations, _ = env.reset(seed=20)
    for b, single in enumerate(alone):
        assert single.reset(seed=20 + b)[0].tobytes() == observations[b].tobytes()
    ended = 0
    for k in range(10):
        actions = np.array([action_of(env.single_action_space, 10 * k + b) for b in range(4)])
        observations, rewards, terminated, truncated, infos = env.step(actions)
        for b, single in enumerate(alone):
            own, reward, *over, info = single.step(actions[b])
            assert (reward, *over) == (rewards[b], terminated[b], truncated[b])
            if any(over):
                ended += 1
                assert infos["_final_obs"][b]
                assert infos["final_obs"][b].tobytes() == own.tobytes()
                assert plain(infos["final_info"], b) == plain(info)
                own, info = single.reset()
            batched = {name: value for name, value in plain(infos, b).items() if not name.startswith("final_")}
            assert (observations[b].tobytes(), batched) == (own.tobytes(), plain(info))
    assert ended >= 8


def test_seeds_can_be_given_place_by_place() -> None:
    env = make_vec(2)
    one, other = env.reset(seed=[7, 3])[0]
    assert one.tobytes() == make().reset(seed=7)[0].tobytes()
    assert other.tobytes() == make().reset(seed=3)[0].tobytes()
    env.reset(seed=[7, None])  # the second goes on where its generator stands


def test_what_came_back_is_not_changed_by_the_next_step() -> None:
    env = make_vec(2)
    observations, _ = env.reset(seed=0)
    before = observations.copy()
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(observations, before)


def test_gymnasium_s_own_wrappers_go_round_it() -> None:
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(make_vec(3))
    env.reset(seed=0)
    lengths = []
    for _ in range(6):
        infos = env.step(env.action_space.sample())[4]
        lengths += infos["episode"]["l"][infos["_episode"]].tolist() if "episode" in infos else []
    assert lengths
    assert set(lengths) <= {2, 3, 4}


# Pictures.


@both
def test_a_picture_shows_the_run_and_changes_with_it(name: str) -> None:
    env = make(name, render_mode="rgb_array")
    env.reset(seed=0)
    pictures = [env.render()]
    for k in range(2):
        env.step(action_of(env.action_space, k))
        pictures.append(env.render())
    for picture in pictures:
        assert picture.shape == (300, 900, 3)
        assert picture.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == 3


# What is refused.


@pytest.mark.parametrize("kind", [BalanceScheduling, DiscreteBalanceScheduling])
def test_an_unknown_render_mode_is_refused(kind: type[BalanceScheduling]) -> None:
    with pytest.raises(ValueError, match="render_mode must be None or rgb_array, got 'human'"):
        kind(render_mode="human")


@pytest.mark.parametrize("kind", [BalanceScheduling, VectorBalanceScheduling])
def test_unknown_tasks_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="training, held-out, randomised or a Distribution, got 'validation'"):
        kind(tasks="validation")


def test_what_a_vector_environment_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"autoreset_mode must be NEXT_STEP or SAME_STEP, got .*DISABLED"):
        VectorBalanceScheduling(2, SHORT, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        VectorBalanceScheduling(0, SHORT)
    with pytest.raises(ValueError, match=r"seed must hold one for each of 2 environments, got \[1, 2, 3\]"):
        VectorBalanceScheduling(2, SHORT).reset(seed=[1, 2, 3])


@pytest.mark.parametrize("wrong", [-1, 8])
def test_a_discrete_action_out_of_range_is_refused(wrong: int) -> None:
    env = DiscreteBalanceScheduling(SHORT)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"action must lie in 0 to 7, got {wrong}"):
        env.step(wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros(3, np.float32), r"an action vector has shape \(16,\), got \(3,\)"),
        (np.full(DIMENSION, np.nan, np.float32), "must not hold NaN"),
    ],
)
def test_an_action_that_is_none_is_refused_and_the_episode_goes_on(wrong: np.ndarray, words: str) -> None:
    env = BalanceScheduling(SHORT)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.step(wrong)
    env.step(np.zeros(DIMENSION, np.float32))


# The data sheet.


def test_the_data_sheet_names_every_argument_component_and_field() -> None:
    sheet = BalanceScheduling.__doc__ or ""
    named = [*inspect.signature(BalanceScheduling).parameters, *RANGES, *CHOICES, *FIELDS]
    assert [name for name in named if f"`{name}`" not in sheet] == []
    assert str(DIVERGED) in sheet
    for low, high in RANGES.values():
        assert f"| {low:g} | {high:g} |" in sheet


def test_vector_forms_have_the_spaces_of_the_single_ones() -> None:
    for single, vector in (
        (BalanceScheduling, VectorBalanceScheduling),
        (DiscreteBalanceScheduling, VectorDiscreteBalanceScheduling),
    ):
        one, many = single(SHORT), vector(3, SHORT)
        assert (many.single_action_space, many.single_observation_space) == (one.action_space, one.observation_space)


@pytest.mark.parametrize("places", [1, 2])
def test_runs_that_end_together_begin_anew_together(places: int) -> None:
    tasks = Distribution(("synthetic:2",), (), samples=(64, 64), intervals=(3, 3), validation=(20, 20))
    side_by_side = VectorBalanceScheduling(places, tasks)
    side_by_side.reset(seed=0)
    ends = [side_by_side.step(np.zeros(side_by_side.action_space.shape, np.float32))[3].all() for _ in range(12)]
    assert ends == [False, False, True, False] * 3


def test_only_a_single_environment_draws() -> None:
    with pytest.raises(ValueError, match="render_mode must be None, got 'rgb_array'"):
        VectorBalanceScheduling(2, render_mode="rgb_array")  # type: ignore[arg-type]
