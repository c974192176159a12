from collections.abc import Callable
from pathlib import Path

import pytest

from bss_service.policies import artefact
from trainer_client import SchedulerClient


@pytest.mark.long
def test_a_job_goes_on_under_the_policy_that_was_trained(
    run: Callable[..., list[str]], client: SchedulerClient, job_name: str, tmp_path: Path
) -> None:
    run("plain_pytorch.py", "--epochs", "1")
    lines = run("train_policy.py", "--timesteps", "64", "--runs", "3")
    assert "so short a training is not expected to gain anything" in lines[-2]
    assert lines[-1] == f"{job_name}: policy version 2, runs/ppo.safetensors, draws from step 32 on"
    _, epoch = run("plain_pytorch.py", "--epochs", "2")
    assert epoch.endswith("drawn by artefact")
    written = artefact.read((tmp_path / "runs/ppo.safetensors").read_bytes())
    assert client.policy(job_name).policy.parameters["sha256"] == written.sha256
