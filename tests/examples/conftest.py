"""Examples as processes of their own, run as a user would."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.services import Service

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(service: Service, tmp_path: Path, job_name: str) -> Callable[..., list[str]]:
    """Runs an example on this test's job, in a folder of this test's own; the lines that it prints."""
    environment = {**os.environ, "BSS_URL": service.url, "OMP_NUM_THREADS": "1"}

    def run(example: str, *arguments: str, under: tuple[str, ...] = ()) -> list[str]:
        command = [sys.executable, *under, str(EXAMPLES / example), "--job", job_name, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
        return done.stdout.splitlines()

    return run
