"""Cells computed on a cluster of Ray, one processor a cell, and one GPU where that is asked for.

A cell whose node or process is lost is computed again on another, without end; one that raises is not. Functions travel
by name and are imported where they run, so each node must have this package; cells and results travel as Ray sends
values between processes of one program. No code is sent, and nothing is read from a disk.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from typing import Any, Final

import ray
from ray.exceptions import RayError, RayTaskError

from envs.research.executor.base import ONE_THREAD, Cell, Executor, ExecutorError, Result, as_they_end, check_importable

SAME: Final = ("bss-scheduler", "numpy", "torch")  # packages whose versions numbers may depend on
REACHED_IN: Final = 10.0  # seconds


@contextmanager
def on_ray(address: str | None = None, *, gpus: bool = False) -> Iterator[Executor]:
    """Computes on the cluster at an address; by default the one that Ray finds, or one that it begins here.

    gpus: where the cluster has GPUs, a cell has one for itself; without, none sees any.

    Raises ExecutorError where there is none at the address. One at a time in a process: Ray has one connection.
    """
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what Ray would otherwise send to its makers
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RayError, ValueError) as error:
        raise ExecutorError(f"there is no cluster of Ray at {address or 'the usual address'}: {error}") from None
    try:
        yield _Ray(gpus)
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Ray itself tries for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or "/" in host or not port.isdecimal():
        return  # a word of Ray's, as "local", or a client's address
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_IN).close()
    except (OSError, OverflowError) as error:
        raise ExecutorError(f"there is no cluster of Ray at {address}: {error}") from None


class _Ray:
    """Two cells a processor, or a GPU, are with the cluster, so that none waits for the next."""

    def __init__(self, gpus: bool) -> None:
        self._gpus = gpus and _there("GPU") > 0

    @property
    def slots(self) -> int:
        return max(1, _there("GPU" if self._gpus else "CPU"))

    def map(self, function: Callable[[Cell], Result], cells: Iterable[Cell]) -> Iterator[tuple[int, Result]]:
        check_importable(function)
        remote: Any = ray.remote(
            num_cpus=1, num_gpus=int(self._gpus), max_retries=-1, runtime_env={"env_vars": ONE_THREAD}
        )(_computed)
        name, here = (function.__module__, function.__qualname__), versions()
        return as_they_end(cells, lambda cell: remote.remote(name, here, cell), _one_ended, _result, lambda: self.slots)


def _there(resource: str) -> int:
    """Of a resource, in the whole cluster."""
    try:
        return int(ray.cluster_resources().get(resource, 0))  # type: ignore[no-untyped-call]
    except RayError as error:
        raise _lost(error) from None


def versions() -> dict[str, str]:
    """Of what results may depend on, in this process."""
    return {"python": sys.version.partition(" ")[0], **{name: _version(name) for name in SAME}}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _computed(name: tuple[str, str], wanted: dict[str, str], cell: Any) -> Any:
    """What runs on a node. Raises ExecutorError where the node has other versions."""
    for package, there in versions().items():
        if there != wanted[package]:
            where = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            raise ExecutorError(
                f"{package} must be {wanted[package]} on every node, as it is here; {where} has {there}"
            )
    module, qualified = name
    return attrgetter(qualified)(import_module(module))(cell)


def _one_ended(begun: list[Any]) -> Any:
    try:
        ended, _ = ray.wait(begun, num_returns=1, fetch_local=False)
    except RayError as error:
        raise _lost(error) from None
    return ended[0]


def _result(ended: Any) -> Any:
    try:
        return ray.get(ended)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise _lost(error) from None


def _lost(error: RayError) -> ExecutorError:
    return ExecutorError(f"the cluster of Ray can't compute: {str(error).splitlines()[0]}")
