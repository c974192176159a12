"""Frameworks with several processes over gloo, each held against a plain loop with two."""

import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.services import Service
from tests.trainer_client.loops.frameworks.script import STEPS
from tests.trainer_client.loops.frameworks.test_trl import COMPLETIONS, CURIOUS, PROMPTS, plain_loop
from trainer_client import SchedulerClient

pytestmark = pytest.mark.long  # each process imports for many seconds; test_world_size.py has how a rank is found
NUMBERS = count()
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
PROGRAM = ("-m", "tests.trainer_client.loops.frameworks.script")
LAUNCHED: dict[str, tuple[str, ...]] = {
    "plain": (*TORCHRUN, "2", *PROGRAM, "plain"),
    "mesh": (*TORCHRUN, "4", *PROGRAM, "mesh"),
    "fabric": (*PROGRAM, "fabric"),
    "accelerate": (*TORCHRUN, "2", *PROGRAM, "accelerate"),
    "lightning": (*PROGRAM, "lightning"),
    "lightning by torchrun": (*TORCHRUN, "2", *PROGRAM, "lightning"),
    "transformers": (*TORCHRUN, "2", *PROGRAM, "transformers"),
    "trl": (*TORCHRUN, "2", *PROGRAM, "trl"),
    "ray": (*PROGRAM, "ray"),
}
Ranks = list[dict[str, Any]]
STOPS = (6, STEPS)  # in the second epoch, and at the end


def run(service: Service, how: str, job: str, folder: Path, stop: int = STEPS) -> Ranks:
    """Train to a step; what came of each process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *LAUNCHED[how], service.url, job, str(folder), str(stop)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob(f"{stop}-*.pt"))]


def batches(ranks: Ranks) -> list[list[int]]:
    """The global batches."""
    return [one + other for one, other in zip(*(rank["batches"] for rank in ranks), strict=True)]


def same_weights(one: Ranks, other: Ranks) -> bool:
    """Bit for bit, in every process."""
    first, *rest = [rank["weights"] for rank in one + other]
    return all(torch.equal(first[name], weights[name]) for weights in rest for name in first)


@pytest.fixture(scope="module")
def plain(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return run(service, "plain", f"plain-of-two-{next(NUMBERS)}", tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("how", ["fabric", "accelerate", "lightning", "lightning by torchrun", "transformers", "ray"])
def test_two_processes_that_are_stopped_in_an_epoch_and_go_on_train_as_the_plain_loop_of_two(
    service: Service, client: SchedulerClient, plain: Ranks, tmp_path: Path, how: str
) -> None:
    if how == "ray":
        pytest.importorskip("ray", reason="pip install 'bss-scheduler[ray]'")
    job, came = f"two-{next(NUMBERS)}", []
    for stop in STOPS:
        ranks = run(service, how, job, tmp_path, stop)
        came += batches(ranks)
    assert came == batches(plain)
    assert same_weights(ranks, plain)
    state = client.job(job)
    assert state.steps_fed_back == state.fed_back_until == STEPS
    if how not in ("fabric", "accelerate", "ray"):  # whose loops report nothing
        assert state.validation is not None
        assert (state.validation.step, ranks[0]["reports"][-1], ranks[1]["reports"]) == (STEPS, STEPS, [])


def test_on_a_mesh_the_processes_of_a_rank_get_the_same_rows_and_one_of_them_gives_feedback(
    service: Service, client: SchedulerClient, plain: Ranks, tmp_path: Path
) -> None:
    job, came = f"mesh-{next(NUMBERS)}", []
    for stop in STOPS:
        ranks = run(service, "mesh", job, tmp_path, stop)
        assert [rank["batches"] for rank in ranks[::2]] == [rank["batches"] for rank in ranks[1::2]]
        came += batches(ranks[::2])
    assert came == batches(plain)
    assert same_weights(ranks, plain)
    state = client.job(job)
    assert (state.steps_fed_back, state.fed_back_until, len(state.trainers)) == (STEPS, STEPS, 2)


def test_two_processes_of_trl_complete_each_its_own_prompts_as_a_plain_loop_has_them(
    service: Service, client: SchedulerClient, tmp_path: Path
) -> None:
    job, at_once, stops = f"trl-of-two-{next(NUMBERS)}", 4, (8, 12)  # stopped in the second epoch, of 6 steps
    came: list[list[int]] = []
    for stop in stops:
        ranks = run(service, "trl", job, tmp_path, stop)
        came += batches(ranks)
    assert came == plain_loop(client, at_once=at_once, policy=CURIOUS)
    for start in range(0, len(came), PROMPTS // at_once):
        rows = [number for batch in came[start : start + PROMPTS // at_once] for number in batch]
        assert sorted(rows) == sorted([*range(PROMPTS)] * COMPLETIONS)
    assert same_weights(ranks, ranks)
    assert client.job(job).steps_fed_back == len(came)
