import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.services import Service
from trainer_client import SchedulerClient

SCRIPT = Path(__file__).parents[2] / "examples/other_language.mjs"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, of Debian's package nodejs")
def test_javascript_drives_a_job(service: Service, client: SchedulerClient, job_name: str) -> None:
    command, environment = ["node", SCRIPT, "--job", job_name], {**os.environ, "BSS_URL": service.url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"epoch {epoch}" for epoch in range(1, 6)]
    state = client.job(job_name)
    assert state.validation is not None
    assert (state.steps_fed_back, state.fed_back_until, state.validation.step) == (40, 40, 40)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode != 0
    assert f"job {job_name} is there already" in again.stderr
