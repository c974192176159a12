"""`BalanceScheduling-v0` and `BalanceScheduling-Discrete-v0`: an episode is the training run of a student."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from bss_service.core.action import NAMED_ACTIONS, Action
from bss_service.core.arrays import Bool, Float32, Float64
from bss_service.policies.base import Choice
from envs.cohort import Cohort
from envs.spaces import action_space, discrete_action_space, observation_space
from envs.tasks import Distribution, held_out_tasks, lesson, training_tasks

TASKS: Final[dict[str, Callable[[], Distribution]]] = {"training": training_tasks, "held-out": held_out_tasks}


def box_choice(action: NDArray[Any]) -> Choice:
    """The choice of a Box action; components outside [−1, 1] are clipped."""
    return Choice(Action.from_vector(action))


def named_choice(action: NDArray[Any] | int) -> Choice:
    """The choice of a Discrete action."""
    return Choice(list(NAMED_ACTIONS.values())[int(action)])


def tasks_of(tasks: str | Distribution) -> Distribution:
    """A distribution by its name, or as it is. Raises ValueError for another name."""
    if isinstance(tasks, Distribution):
        return tasks
    if tasks not in TASKS:
        raise ValueError(f"tasks must be one of {', '.join(TASKS)} or a Distribution, got {tasks!r}")
    return TASKS[tasks]()


class BalanceScheduling(gymnasium.Env[Any, Any]):
    """DATASHEET"""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  as Gymnasium has it

    _choice = staticmethod(box_choice)

    def __init__(
        self, tasks: str | Distribution = "training", *, judged: bool = False, render_mode: str | None = None
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or rgb_array, got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space = observation_space()
        self.action_space = action_space()
        self._tasks = tasks_of(tasks)
        self._cohort = Cohort.of(self._tasks, 1, judged=judged)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32, dict[str, Any]]:
        """Draw a task and a student to train on it."""
        super().reset(seed=seed)
        task = self._tasks.draw(self.np_random)
        return self._cohort.start(0, task, lesson(task), self.np_random)

    def step(self, action: NDArray[Any]) -> tuple[Float32, float, bool, bool, dict[str, Any]]:
        """Train the student for one interval."""
        outcome = self._cohort.step([self._choice(action)])[0]
        assert outcome is not None
        return outcome.observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.info

    def render(self) -> NDArray[np.uint8] | None:
        """The state of the run as an image (h, w, 3), or None without a render mode."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() draws nothing without render_mode='rgb_array'")
            return None
        from envs.picture import picture  # matplotlib takes a while to import

        return picture(self._cohort.run(0))


class DiscreteBalanceScheduling(BalanceScheduling):
    """`BalanceScheduling-v0` with the named actions of `bss_service.core.action.NAMED_ACTIONS`.

    ## Action Space

    `Discrete(6)`; observation, rewards, starting state and end of an episode are those of `BalanceScheduling`.

    ## Version History

    - v0: first version
    """

    _choice = staticmethod(named_choice)

    def __init__(
        self, tasks: str | Distribution = "training", *, judged: bool = False, render_mode: str | None = None
    ) -> None:
        super().__init__(tasks, judged=judged, render_mode=render_mode)
        self.action_space = discrete_action_space()


class VectorBalanceScheduling(VectorEnv[Float32, NDArray[Any], Any]):
    """`BalanceScheduling-v0` for B students trained side by side; `gymnasium.make_vec` makes this one.

    Each place has a random generator of its own, seeded as Gymnasium does: place b with seed + b. With the same seed
    it goes through what the single environment goes through, bit for bit.
    """

    _choice = staticmethod(box_choice)
    _single_action_space: Callable[[], gymnasium.Space[Any]] = staticmethod(action_space)

    def __init__(
        self,
        num_envs: int = 1,
        tasks: str | Distribution = "training",
        *,
        judged: bool = False,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        """autoreset_mode: NEXT_STEP (Gymnasium's own) or SAME_STEP (stable-baselines3's)."""
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ValueError(f"autoreset_mode must be NEXT_STEP or SAME_STEP, got {autoreset_mode}")
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": autoreset_mode, "render_modes": []}
        self.single_observation_space = observation_space()
        self.single_action_space = self._single_action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._tasks = tasks_of(tasks)
        self._cohort = Cohort.of(self._tasks, num_envs, judged=judged)
        self._same_step = autoreset_mode is AutoresetMode.SAME_STEP
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._over = np.zeros(num_envs, dtype=np.bool_)
        self._observations = np.zeros((num_envs, *self.single_observation_space.shape), np.float32)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32, dict[str, Any]]:
        """Draw a task for every place. seed: one for each place, or the first of them."""
        infos: dict[str, Any] = {}
        for b in range(self.num_envs):
            own = seed + b if isinstance(seed, int) else seed[b] if seed else None
            if own is not None:
                self._rngs[b] = gymnasium.utils.seeding.np_random(own)[0]
            infos = self._begin(b, infos)
        self._over[:] = False
        return self._observations.copy(), infos

    def step(self, actions: NDArray[Any]) -> tuple[Float32, Float64, Bool, Bool, dict[str, Any]]:
        """Train every student for one interval; where the run was over, begin the next instead (NEXT_STEP)."""
        outcomes = self._cohort.step(
            [None if over else self._choice(action) for over, action in zip(self._over, actions, strict=True)]
        )
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=np.bool_)
        infos: dict[str, Any] = {}
        for b, outcome in enumerate(outcomes):
            if outcome is None:
                infos = self._begin(b, infos)
                continue
            rewards[b], terminated[b], truncated[b] = outcome.reward, outcome.terminated, outcome.truncated
            self._observations[b] = outcome.observation
            info = outcome.info
            if self._same_step and (terminated[b] or truncated[b]):
                infos = self._begin(b, self._add_info(infos, {"final_obs": outcome.observation, "final_info": info}, b))
            else:
                infos = self._add_info(infos, info, b)
        self._over = np.zeros_like(terminated) if self._same_step else terminated | truncated
        return self._observations.copy(), rewards, terminated, truncated, infos

    def _begin(self, place: int, infos: dict[str, Any]) -> dict[str, Any]:
        rng = self._rngs[place]
        task = self._tasks.draw(rng)
        self._observations[place], info = self._cohort.start(place, task, lesson(task), rng)
        return self._add_info(infos, info, place)


class VectorDiscreteBalanceScheduling(VectorBalanceScheduling):
    """`BalanceScheduling-Discrete-v0` for B students trained side by side."""

    _choice = staticmethod(named_choice)
    _single_action_space = staticmethod(discrete_action_space)
