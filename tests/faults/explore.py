"""Draws programs with hypothesis, runs them, and makes the first one that goes wrong small."""

import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky

from tests.faults.expected.histories import Violation
from tests.faults.programs import Program, programs
from tests.faults.run import Run
from tests.faults.service import Service

_numbers = count()


class Found(Exception):  # noqa: N818
    """A program that makes the service do what it must not do."""

    def __init__(self, violation: str, program: Program) -> None:
        super().__init__(
            f"VIOLATION: {violation}\nby the program (run it again with "
            f"python -m tests.faults --program '{program.to_json()}')"
        )
        self.violation = violation
        self.program = program


def explore(
    service: Service,
    pool: ThreadPoolExecutor,
    done: "Counter[str]",
    number: int,
    *,
    seed: int | None,
    shrink: bool = False,
) -> None:
    """Run `number` programs; a seed of None draws the same ones each time. Raises Found, with the smallest program."""
    smallest: list[Found] = []

    def attempt(program: Program) -> None:
        try:
            _once(service, pool, done, program)
        except Found as violation:
            smallest.append(violation)
            raise

    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    test = settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        derandomize=seed is None,
    )(given(programs)(attempt))
    if seed is not None:
        test = hypothesis.seed(seed)(test)
    try:
        test()
    except (Found, Flaky):
        raise min(smallest, key=lambda violation: len(violation.program.to_json())) from None


def repeat(service: Service, pool: ThreadPoolExecutor, done: "Counter[str]", program: Program, times: int) -> None:
    """Run one program several times. Raises Found."""
    for _ in range(times):
        _once(service, pool, done, program)


def _once(service: Service, pool: ThreadPoolExecutor, done: "Counter[str]", program: Program) -> None:
    done["programs"] += 1
    try:
        Run(service, pool, done, next(_numbers)).run(program)
    except Violation as violation:
        service.revive()
        raise Found(str(violation), program) from None
    except Exception:  # the service is dead, or the harness itself is wrong
        service.revive()
        raise Found(traceback.format_exc(), program) from None
