"""A scheduler service as a process of its own, for as long as whoever started it needs it."""

import os
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.01
LOG_SHOWN: Final = 2000  # characters, in an error

_LISTENING: Final = re.compile(r'^(?=.*\blistening\b).*?(http://[^\s",]+).*\n', re.MULTILINE)  # a line with its end


class ServiceStartError(RuntimeError):
    """The service did not come up; the message holds the end of its log."""


class ServiceProcess:
    """`bss serve` on a free loopback port.

    ```python
    with ServiceProcess(flags=["--max-samples", "1000"]) as service:
        client = SchedulerClient(service.url)
    ```

    It imports what this process imports, and has its environment without the settings `BSS_*`. It ends with this
    process, even by kill -9, but not by Ctrl-C: whoever catches that may need it for a while.

    folder: where it runs, with its log, service.log, and its store, bss.sqlite; None: a temporary one, which `close`
    removes. store: SQLAlchemy URL of a store elsewhere. flags: of `bss serve`. environment: variables of its own;
    BSS_TOKEN is also its `token`.

    From `start` on it has a `url`, the `port` of which it takes again when it is started again, and a `process`.
    """

    process: "subprocess.Popen[bytes]"
    url: str

    def __init__(
        self,
        folder: Path | None = None,
        *,
        store: str | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._resources = ExitStack()
        self.folder = folder.resolve() if folder else self._temporary_folder()
        self.port = 0
        self._store = store or f"sqlite:///{self.folder}/bss.sqlite"
        self._flags = flags
        self._environment = dict(environment or {})
        weakref.finalize(self, self._resources.close)  # after that of a temporary folder, so that it comes before it

    @property
    def token(self) -> SecretStr | None:
        """What a client must show; None: nothing."""
        token = self._environment.get("BSS_TOKEN")
        return SecretStr(token) if token else None

    @property
    def log(self) -> list[str]:
        """The lines of its log, of all starts, each with its end."""
        with self._log_file.open(encoding="utf-8", errors="replace") as log:
            return list(log)

    def start(self) -> Self:
        """Start it; returns when it listens. Raises ServiceStartError."""
        where = ["--port", str(self.port), "--store", self._store]
        with self._log_file.open("ab") as log:
            begin = log.tell()
            self.process = self._spawn(["serve", *where, *self._flags], log)
        self._resources.callback(_end, self.process)
        try:
            self.url = self._wait_for_url(begin)
        except BaseException:
            self.kill()
            raise
        self.port = urlsplit(self.url).port or 0
        return self

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        _end(self.process)

    def stop(self) -> int:
        """SIGTERM; the exit status, that of kill -9 if it does not end within STOP_SECONDS."""
        return _end(self.process)

    def close(self) -> None:
        """Stop it if it runs, and remove a temporary folder."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self, arguments: Sequence[str], log: BinaryIO) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "bss_service.testing", *arguments],
            cwd=self.folder,
            env=inherited_environment() | self._environment,
            stdin=subprocess.PIPE,  # closes with this process; then it ends, too
            stdout=log,
            stderr=log,
            start_new_session=True,  # where no Ctrl-C comes
        )

    @property
    def _log_file(self) -> Path:
        return self.folder / "service.log"

    def _temporary_folder(self) -> Path:
        return Path(self._resources.enter_context(TemporaryDirectory(prefix="bss-", ignore_cleanup_errors=True)))

    def _wait_for_url(self, begin: int) -> str:
        """The URL in the log behind so many bytes, those of earlier starts."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if url := listening_url(self._log_file.read_bytes()[begin:].decode(errors="replace")):
                return url
            time.sleep(POLL_SECONDS)
        raise ServiceStartError(f"the service did not start; the end of its log:\n{''.join(self.log)[-LOG_SHOWN:]}")


def listening_url(log: str) -> str | None:
    """The URL at which a service listens, by its log in either format; None as long as that does not say so."""
    match = _LISTENING.search(log)
    return match[1] if match else None


def inherited_environment() -> dict[str, str]:
    """This process's, without settings of any other service, and with its import path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BSS_")}
    return inherited | {"PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)}


def _end(process: "subprocess.Popen[bytes]") -> int:
    """SIGTERM, and SIGKILL where that is not enough; the exit status, of one that had ended, too."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdin is not None
    process.stdin.close()
    return process.returncode
