"""Services that start in a tenth of the time: forked from a process that has loaded what `bss serve` loads.

Each is a process like any other, with its own environment, folder and standard streams; only the interpreter and its
modules are not loaded again. `python -m tests.support.nursery` is the process that forks.
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Final

from bss_service.testing.service import inherited_environment

AT_THE_START: Final = ("LD_PRELOAD", "PYTHONPATH")  # what an interpreter reads but once
MOST: Final = 2**16  # bytes of a request


class Born:
    """A process of the nursery, as subprocess.Popen has them."""

    def __init__(self, nursery: "Nursery", pid: int, stdin: int) -> None:
        self._nursery = nursery
        self._ended = os.pidfd_open(pid)
        self.pid = pid
        self.stdin = FileIO(stdin, "w")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, −N by signal N; None: it runs."""
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self.returncode = self._nursery.status_of(self.pid)
            os.close(self._ended)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended. Raises TimeoutExpired."""
        if self.returncode is None:
            select.select([self._ended], [], [], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(["bss", "serve"], timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Nothing, where it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks, from the first request until this process ends."""

    def __init__(self) -> None:
        self._environment = inherited_environment()
        self._lock = Lock()
        self._socket: socket.socket | None = None

    def fork(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: BinaryIO) -> Born:
        """`python -m bss_service.testing ARGUMENTS` in a folder; what it says goes to the log."""
        read, write = os.pipe()
        request = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "environment": dict(environment),
        }
        try:
            pid = self._ask(request, [read, log.fileno()])
        finally:
            os.close(read)
        return Born(self, pid, write)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process of the nursery is what a new one with this environment would be."""
        return all(environment.get(name) == self._environment.get(name) for name in AT_THE_START)

    def status_of(self, pid: int) -> int:
        """The exit status of a process that has ended."""
        return self._ask({"ended": pid}, [])

    def _ask(self, request: dict[str, Any], descriptors: list[int]) -> int:
        with self._lock:
            if self._socket is None:
                self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    command = [sys.executable, "-P", "-m", "tests.support.nursery"]
                    process = subprocess.Popen(command, stdin=theirs, env=self._environment, start_new_session=True)
                process.returncode = 0  # it ends with this process, and nobody waits for it
                atexit.register(self._socket.close)
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            return int(self._socket.recv(MOST))


def _next_service(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request; returns in a child, with what it is to be."""
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, MOST, 2)
        if not message:
            os._exit(0)  # whom they were for has ended
        request = json.loads(message)
        if "ended" in request:
            _, status = os.waitpid(request["ended"], 0)
            requests.send(b"%d" % os.waitstatus_to_exitcode(status))
            continue
        child = os.fork()
        if child == 0:
            for target, descriptor in zip((0, 1, 2), (descriptors[0], descriptors[1], descriptors[1]), strict=True):
                os.dup2(descriptor, target)
            for descriptor in descriptors:
                os.close(descriptor)
            requests.close()
            return dict(request)
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(b"%d" % child)


def load() -> None:
    """Load what `bss serve` loads, before the first fork."""
    import bss_cli.commands
    import bss_service.http.server
    from bss_service.policies.base import policy_class, policy_names

    assert bss_cli.commands and bss_service.http.server
    for name in policy_names():
        policy_class(name)
    gc.freeze()


def main() -> None:
    from bss_service.testing.__main__ import main as serve

    load()
    with socket.socket(fileno=os.dup(0)) as requests:
        request = _next_service(requests)
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["bss", *request["arguments"]]
    serve()


if __name__ == "__main__":
    main()
