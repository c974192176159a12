"""Where a long command computes: the options that say so, and what they stand for."""

from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bss_cli.terminal import MISUSED, fail

if TYPE_CHECKING:
    from envs.research.executor import Executor

USUAL_WORKERS = 2


class Kind(StrEnum):
    """What computes."""

    PROCESSES = "processes"
    RAY = "ray"


Where = Annotated[Kind, typer.Option("--executor", help="Processes of this machine, or a cluster of Ray.")]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="With --executor ray: of its cluster. Default: as Ray finds it.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help=f"Processes; results don't depend on it. Default: {USUAL_WORKERS}")
]


def executor(
    kind: Kind, workers: int | None, address: str | None, *, gpus: bool = False
) -> "AbstractContextManager[Executor]":
    """What computes cells; gpus: on a cluster that has any, each on one of these. Ends the program where the options
    don't go together.
    """
    if kind is Kind.RAY:
        if workers is not None:
            fail("--workers goes with --executor processes; Ray uses the processors that its cluster has", MISUSED)
        try:
            from envs.research.executor.on_ray import on_ray
        except ModuleNotFoundError as missing:
            if missing.name != "ray":
                raise
            fail("ray is not installed; --executor ray comes with pip install 'bss-scheduler[ray]'")
        return on_ray(address, gpus=gpus)
    if address is not None:
        fail(f"--address goes with --executor ray, got {address!r}", MISUSED)
    from envs.research.executor import processes

    return processes(workers or USUAL_WORKERS)
