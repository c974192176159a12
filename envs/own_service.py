"""A scheduler service of one's own: a process on a free loopback port, over a store that goes with it."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Final

from pydantic import SecretStr

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0

# The pipe to its standard input closes with whoever started it, even by kill -9; then it must not stay behind.
_PROGRAM: Final = """
import os, signal, sys, threading
def end_with_parent():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end_with_parent, daemon=True).start()
from bss_cli.__main__ import main
main()
"""


class OwnService:
    """`bss serve` with a token that nobody else knows. Raises RuntimeError with its log if it does not come up."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bss-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name) / "service.log"
        self.token = SecretStr(secrets.token_urlsafe(24))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, "serve", "--port", "0", "--log-format", "json"],
                cwd=self._folder.name,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever steps the environment; it closes this one in turn
            )
        self._end = weakref.finalize(self, _end, self._process, self._folder)
        self.url = self._wait_for_url()

    def close(self) -> None:
        """End the process and remove its store."""
        self._end()

    def _environment(self) -> dict[str, str]:
        """This process's without the settings of any other service; it imports what this process imports."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("BSS_")}
        path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        return {
            **own,
            "PYTHONPATH": path,
            "BSS_TOKEN": self.token.get_secret_value(),
            "BSS_STORE": f"sqlite:///{self._folder.name}/bss.sqlite",
        }

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if url := _listening_url(self._log.read_text(errors="replace")):
                return url
            time.sleep(0.02)
        said = self._log.read_text(errors="replace")[-2000:]
        self.close()
        raise RuntimeError(
            f"the scheduler service did not start within {START_SECONDS:g} s; the end of its log:\n{said}"
        )


def _listening_url(log: str) -> str | None:
    """The URL that a log in JSON names, once it does."""
    for line in log.splitlines():
        if '"listening"' in line and line.endswith("}"):
            return str(json.loads(line)["url"])
    return None


def _end(process: "subprocess.Popen[bytes]", folder: "tempfile.TemporaryDirectory[str]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    folder.cleanup()
