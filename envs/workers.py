"""The vector environment for stable-baselines3, spread over processes."""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from envs.scheduling import VectorBalanceScheduling, VectorDiscreteBalanceScheduling
from envs.students import one_thread_each
from envs.tasks import Distribution


def make_sb3(
    num_envs: int = 16,
    *,
    workers: int = 1,
    tasks: str | Distribution = "training",
    discrete: bool = False,
    twins: bool = False,
) -> VecMonitor:
    """`BalanceScheduling-v0` as stable-baselines3 has vector environments: for `PPO("MlpPolicy", envs.make_sb3(16))`.

    The students are trained side by side, in `workers` processes that take one core each; what comes back depends on
    the seed and on num_envs, not on workers. The seed is the model's (`PPO(…, seed=0)`), or that of `seed()`; place b
    gets seed + b, and goes through what a single environment of that seed goes through. The info of an episode's end
    has its return and length (`episode`), and `best_validation_accuracy`. tasks and twins are as of
    `BalanceScheduling`; discrete: named actions, as of `DiscreteBalanceScheduling`.

    It owns processes: `close()` it when done, and make it under `if __name__ == "__main__":` in a script, which the
    processes import. Raises ValueError where num_envs is no multiple of workers, or for tasks that can't be made.
    """
    return VecMonitor(StudentsVecEnv(num_envs, workers, tasks, discrete=discrete, twins=twins))


class StudentsVecEnv(VecEnv):
    """B environments in W processes, each of which trains its share of the students side by side on one thread.

    What comes back depends on the seed and on B, not on W. Close it when done: it owns processes.
    """

    def __init__(
        self,
        num_envs: int,
        workers: int = 1,
        tasks: str | Distribution = "training",
        *,
        discrete: bool = False,
        twins: bool = False,
    ) -> None:
        """Arguments beside num_envs and workers as for the environment.

        Raises ValueError where the environments can't be shared out evenly.
        """
        if workers < 1 or num_envs % workers:
            raise ValueError(f"num_envs must be a multiple of workers = {workers}, got {num_envs}")
        kind = VectorDiscreteBalanceScheduling if discrete else VectorBalanceScheduling
        spaces = kind(1, tasks)
        super().__init__(num_envs, spaces.single_observation_space, spaces.single_action_space)
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in whatever state they are
        self._size = num_envs // workers
        self._pipes, self._processes = [], []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, kind, self._size, tasks, twins), daemon=True)
            with one_thread_each():
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def reset(self) -> VecEnvObs:
        """Begin everywhere anew, with the seeds of `seed` if it was called since."""
        seeds: Sequence[int | None] = self._seeds
        for k, pipe in enumerate(self._pipes):
            pipe.send(("reset", list(seeds[k * self._size : (k + 1) * self._size])))
        self._reset_seeds()
        return np.concatenate(self._receive())

    def step_async(self, actions: NDArray[Any]) -> None:
        for k, pipe in enumerate(self._pipes):
            pipe.send(("step", actions[k * self._size : (k + 1) * self._size]))

    def step_wait(self) -> VecEnvStepReturn:
        answers = self._receive()
        observations, rewards, dones = (np.concatenate([answer[k] for answer in answers]) for k in range(3))
        return observations, rewards, dones, [info for answer in answers for info in answer[3]]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
        self._pipes, self._processes = [], []

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Of the attributes of an environment only `render_mode` is to be had from outside."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"{attr_name} can't be set: the environments live in other processes")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"{method_name} can't be called: the environments live in other processes")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def _receive(self) -> list[Any]:
        """The answers of all workers; raises the first error, once nothing is left that the next call would take."""
        answers = [pipe.recv() for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


def _work(
    pipe: Connection, kind: type[VectorBalanceScheduling], size: int, tasks: str | Distribution, twins: bool
) -> None:
    torch.set_num_threads(1)
    envs = kind(size, tasks, twins=twins, autoreset_mode=AutoresetMode.SAME_STEP)
    while True:
        try:
            command, argument = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(envs.reset(seed=argument)[0] if command == "reset" else _step(envs, argument))
        except Exception as error:  # told to the one who waits for an answer
            pipe.send(error)


def _step(envs: VectorBalanceScheduling, actions: NDArray[Any]) -> tuple[Any, ...]:
    """One step in the shape of stable-baselines3."""
    observations, rewards, terminated, truncated, infos = envs.step(actions)
    of_place: list[dict[str, Any]] = [{} for _ in range(envs.num_envs)]
    for b in np.flatnonzero(terminated | truncated):
        of_place[b] = {
            **_of_place(infos["final_info"], int(b)),
            "terminal_observation": infos["final_obs"][b],
            # The horizon is where a run ends, not where it is cut off: nothing is earned after it, and
            # stable-baselines3 must not add what a critic believes of that.
            "TimeLimit.truncated": False,
        }
    return observations, rewards.astype(np.float32), terminated | truncated, of_place


def _of_place(infos: dict[str, Any], place: int) -> dict[str, Any]:
    """What the infos of a vector environment say of one place."""
    return {
        name: _of_place(value, place) if isinstance(value, dict) else value[place]
        for name, value in infos.items()
        if not name.startswith("_")
    }
