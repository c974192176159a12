"""How fast `BalanceScheduling-v0` is: students trained side by side against students trained one after the other.

python -m benchmarks.env --write     (about a minute on one core; writes benchmarks/results/env.md)
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import gymnasium
import numpy as np
import torch

import envs  # noqa: F401  # registers what gymnasium.make finds
from benchmarks.speed.plain_student import PlainStudent
from benchmarks.watch import publish
from bss_service.core.action import Action
from bss_service.policies.base import Choice
from envs.cohort import BATCH_SIZE
from envs.run import StudentRun
from envs.sources import FEATURES
from envs.students import Students
from envs.tasks import Task, lesson, training_tasks

RESULT = Path(__file__).parent / "results" / "env.md"
NUMBERS = (1, 4, 16, 64)
SHORTEST = 15  # intervals of the shortest episode: no episode ends while the clock runs
CARTPOLE_STEPS = 200
ACTION = Action(kappa_similarity=1, kappa_loss=1)  # weighs every sample, and uses each once an epoch
Rates = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement; medians are told")
    parser.add_argument("--intervals", type=int, default=8, help=f"of each student, at most {SHORTEST - 1}")
    parser.add_argument("--only", type=int, nargs="+", default=NUMBERS, help="B: environments side by side")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    publish(report(args.repeats, args.intervals, args.only), RESULT if args.write else None)


def report(repeats: int, intervals: int, numbers: Sequence[int] = NUMBERS) -> Iterator[str]:
    """The lines of the result."""
    yield "# Speed of BalanceScheduling-v0"
    yield ""
    yield f"`python -m benchmarks.env --write`: median of {repeats} repeats [least, most], {intervals} intervals a"
    yield "student, the same tasks, students and actions in every column; one thread of torch;"
    yield f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}."
    yield ""
    yield '- vector: `gymnasium.make_vec("BalanceScheduling-v0", num_envs=B)`'
    yield "- plain loop: one student after the other, by modules, autograd and `torch.optim.SGD`"
    yield "  (`benchmarks/speed/plain_student.py`), with the same planning, measuring and validating in between"
    yield "- single: B environments of one student, one after the other"
    yield '- CartPole: `gymnasium.make_vec("CartPole-v1", num_envs=B, vectorization_mode="vector_entry_point")`,'
    yield "  steps a second, for scale"
    yield ""
    yield "| B | vector / plain | vector / single | vector, intervals/s | plain loop | single |"
    yield "|---|---|---|---|---|---|"
    cartpole = {}
    for number in numbers:
        rates = measured(number, repeats, intervals)
        cartpole[number] = rates.pop("cartpole")
        vector, plain, single = rates.values()
        yield (
            f"| {number} | {median(vector) / median(plain):.1f} | {median(vector) / median(single):.1f} "
            f"| {_told(vector)} | {_told(plain)} | {_told(single)} |"
        )
    yield ""
    yield "CartPole-v1, steps/s: " + ", ".join(f"{_told(r)} at B = {b}" for b, r in cartpole.items()) + "."
    yield ""
    yield f"A reset (a task drawn, its world made, a student enrolled and validated) takes {reset_ms():.1f} ms,"
    yield f"once in {SHORTEST} to 40 intervals; it is not counted above."


def measured(number: int, repeats: int, intervals: int) -> Rates:
    """Intervals a second of the ways in turn, so that whatever else the machine does meets them alike."""
    ways: dict[str, Callable[[int, int], float]] = {
        "vector": vector_seconds,
        "plain": plain_seconds,
        "single": single_seconds,
    }
    rates: Rates = {name: [] for name in (*ways, "cartpole")}
    for _ in range(repeats):
        for name, way in ways.items():
            rates[name].append(number * intervals / way(number, intervals))
        rates["cartpole"].append(number * CARTPOLE_STEPS / cartpole_seconds(number, CARTPOLE_STEPS))
    return rates


def vector_seconds(number: int, intervals: int) -> float:
    env = gymnasium.make_vec("BalanceScheduling-v0", num_envs=number)
    env.reset(seed=0)
    actions = np.tile(ACTION.to_vector(), (number, 1))
    start = time.perf_counter()
    for _ in range(intervals):
        env.step(actions)
    return time.perf_counter() - start


def single_seconds(number: int, intervals: int) -> float:
    seconds = 0.0
    for seed in range(number):
        env = gymnasium.make("BalanceScheduling-v0")
        env.reset(seed=seed)
        start = time.perf_counter()
        for _ in range(intervals):
            env.step(ACTION.to_vector())
        seconds += time.perf_counter() - start
    return seconds


def plain_seconds(number: int, intervals: int) -> float:
    seconds = 0.0
    choice = Choice(Action.from_vector(ACTION.to_vector()))
    for seed in range(number):
        student, run = plain_run(seed)
        start = time.perf_counter()
        for _ in range(intervals):
            run.finish(student.train(run.plan(choice).indices), student.validate())
            _ = run.observe().vector
        seconds += time.perf_counter() - start
    return seconds


def plain_run(seed: int) -> tuple[PlainStudent, StudentRun]:
    """The task, student and draws that a single environment has after `reset(seed)`."""
    rng = gymnasium.utils.seeding.np_random(seed)[0]
    task = training_tasks().draw(rng)
    made = lesson(task)
    students = Students(1, 2, FEATURES, training_tasks().classes, BATCH_SIZE, tested=False)
    students.enrol(0, made, rng)
    student = PlainStudent.of(students, 0, made)
    run = _run(task, len(made.train.labels), int(rng.integers(2**63)))
    run.start(student.validate())
    return student, run


def cartpole_seconds(number: int, steps: int) -> float:
    env = gymnasium.make_vec("CartPole-v1", num_envs=number, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    actions = np.arange(number) % 2
    start = time.perf_counter()
    for _ in range(steps):
        env.step(actions)
    return time.perf_counter() - start


def reset_ms() -> float:
    env = gymnasium.make("BalanceScheduling-v0")
    env.reset(seed=0)
    start = time.perf_counter()
    for seed in range(20):
        env.reset(seed=seed)
    return (time.perf_counter() - start) / 20 * 1000


def _run(task: Task, samples: int, seed: int) -> StudentRun:
    return StudentRun(
        samples=samples,
        modalities=2,
        batch_size=BATCH_SIZE,
        intervals=task.intervals,
        seed=seed,
        horizon_known=task.horizon_known,
    )


def _told(rates: list[float]) -> str:
    return f"{median(rates):,.0f} [{min(rates):,.0f}, {max(rates):,.0f}]"


if __name__ == "__main__":
    main()
