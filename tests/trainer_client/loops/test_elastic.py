"""torchrun, a rank that is killed in an epoch, and another number of ranks afterwards."""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch

from tests.support.services import Service
from tests.trainer_client.support.elastic import COMMAND, DIES_AT, SAMPLES, STEPS, job, measured
from trainer_client import ScheduledBatchSampler, SchedulerClient

pytestmark = pytest.mark.long  # torchrun and each rank import for seconds; test_world_size.py has it in one process
NUMBERS = count()
Batches = dict[int, list[int]]


def torchrun(service: Service, name: str, folder: Path, ranks: int, restarts: int = 0) -> int:
    """Its exit status."""
    launcher = ["-m", "torch.distributed.run", "--nnodes=1:1", f"--nproc-per-node={ranks}"]
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--max-restarts={restarts}"]
    return subprocess.run(
        [sys.executable, *launcher, *meeting, *COMMAND, service.url, name, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        timeout=120,
    ).returncode


def trained(folder: Path) -> tuple[Batches, dict[int, int]]:
    """The global batch of each step, by those who trained on it last, and how many they were."""
    rows: dict[int, dict[int, list[int]]] = {}
    sizes: dict[int, int] = {}
    for line in (folder / "rows").read_text().splitlines():
        step, rank, size, share = json.loads(line)
        if sizes.get(step) != size:
            rows[step] = {}
        sizes[step] = size
        rows[step][rank] = share
    return {step: sum((rows[step][rank] for rank in sorted(rows[step])), []) for step in rows}, sizes  # noqa: RUF017


@pytest.fixture(scope="module")
def alone(service: Service) -> Batches:
    """The batches of one rank that nobody kills."""
    batches: Batches = {}
    with service.client() as client, ScheduledBatchSampler(job(f"elastic-alone-{next(NUMBERS)}"), client) as sampler:
        while len(batches) < STEPS:
            for batch in sampler:
                sampler.feedback(len(batches), measured(torch.tensor(batch)))
                batches[len(batches)] = batch
    return batches


def check(client: SchedulerClient, name: str, folder: Path, alone: Batches) -> None:
    batches, _ = trained(folder)
    assert batches == alone
    assert sorted(sample for step in range(6) for sample in batches[step]) == list(range(SAMPLES))
    assert client.job(name).steps_fed_back == STEPS


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_that_was_killed_in_an_epoch_goes_on_with_another_number_of_ranks(
    service: Service, client: SchedulerClient, tmp_path: Path, alone: Batches, first: int, then: int
) -> None:
    name = f"elastic-{next(NUMBERS)}"
    assert torchrun(service, name, tmp_path, first) != 0
    assert torchrun(service, name, tmp_path, then) == 0
    check(client, name, tmp_path, alone)
    assert trained(tmp_path)[1] == {step: first if step < DIES_AT - 1 else then for step in range(STEPS)}


def test_ranks_that_torchrun_starts_again_go_on(
    service: Service, client: SchedulerClient, tmp_path: Path, alone: Batches
) -> None:
    name = f"elastic-{next(NUMBERS)}"
    assert torchrun(service, name, tmp_path, 2, restarts=1) == 0
    assert (tmp_path / "died").exists()
    check(client, name, tmp_path, alone)
