"""The scheduler service as a process of its own, for as long as the demo lasts."""

import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0


class ServiceError(Exception):
    """The service did not start."""


@contextmanager
def running_service(folder: Path) -> Iterator[str]:
    """Start `bss serve` on a free loopback port over a fresh database in `folder`; gives its URL, stops it at the end.

    Its log goes to service.log in the folder. Raises ServiceError with the log's end if it does not come up.
    """
    log = folder / "service.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            _command(),
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # Ctrl-C is for the demo alone: the service must outlive the trainers
        )
    try:
        yield _wait_for_url(process, log)
    finally:
        _stop(process)


def listening_url(log: str) -> str | None:
    """The URL that the service's JSON log names, once it does."""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and entry.get("event") == "listening":
            return str(entry["url"])
    return None


def _command() -> list[str]:
    program = Path(sysconfig.get_path("scripts")) / "bss"
    return [str(program), "serve", "--port", "0", "--store", "sqlite:///bss.sqlite", "--log-format", "json"]


def _environment() -> dict[str, str]:
    """This one without the settings of any other service, such as a token."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BSS_")}


def _wait_for_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if url := listening_url(log.read_text(errors="replace")):
            return url
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:]
    raise ServiceError(f"the service did not start within {START_SECONDS:g} s; the end of {log}:\n{tail}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
