"""A script that torchrun starts with any number of ranks: python -m tests.trainer_client.support.elastic URL JOB FOLDER

It trains to step `STEPS`, from FOLDER's checkpoint if there is one, which rank 0 writes after every second step. At
step `DIES_AT` the last rank kills itself, once. Each rank appends a line to FOLDER/rows for each step: the step, its
rank, the number of ranks, and its rows.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from tests.support.simulated import spec
from trainer_client import JobSpec, ScheduledBatchSampler, WithIndex
from trainer_client.reference.checkpoint import read_checkpoint, write_checkpoint

SAMPLES, STEPS, DIES_AT = 48, 12, 5  # an epoch has 6
COMMAND = ("-m", "tests.trainer_client.support.elastic")


def job(name: str) -> JobSpec:
    return spec(name, samples=SAMPLES, batch_size=8, policy="balance", patience=5)


def measured(index: torch.Tensor) -> dict[str, torch.Tensor]:
    """A function of the sample alone, so that it doesn't depend on who computes it."""
    x = torch.sin(index * 12.9898) * 0.5 + 0.5
    return {"similarity": x, "loss": 3 - 2 * x, "probability": x[:, None].repeat(1, 3)}


def dies(folder: Path, step: int) -> bool:
    """Whether it is this process' time; there is no second one."""
    if step != DIES_AT or dist.get_rank() != dist.get_world_size() - 1 or (folder / "died").exists():
        return False
    (folder / "died").touch()
    return True


def join(folder: Path) -> None:
    """Meet the other ranks; after a restart elsewhere, since gloo would look for the rank that is dead."""
    names = ("MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "RANK", "WORLD_SIZE")
    port, restart, rank, size = (os.environ[name] for name in names)
    meeting = f"file://{folder}/meeting-{port}-{restart}"
    dist.init_process_group("gloo", meeting, rank=int(rank), world_size=int(size))


def main() -> None:
    url, name, where = sys.argv[1:]
    folder = Path(where)
    join(folder)
    model, checkpoint = DistributedDataParallel(torch.nn.Linear(1, 1)), folder / "checkpoint.pt"
    with ScheduledBatchSampler(job(name), url) as sampler:
        loader: DataLoader[Any] = DataLoader(WithIndex(TensorDataset(torch.arange(SAMPLES))), batch_sampler=sampler)
        if checkpoint.exists():
            sampler.load_state_dict(read_checkpoint(checkpoint))
        step = sampler.batches_trained
        while step < STEPS:
            for index, (sample,) in loader:
                if dies(folder, step):
                    os.kill(os.getpid(), signal.SIGKILL)
                model(sample[:, None].float()).sum().backward()
                sampler.feedback(index, measured(index))
                with (folder / "rows").open("a") as rows:
                    rows.write(json.dumps([step, sampler.rank, sampler.world_size, index.tolist()]) + "\n")
                step += 1
                if dist.get_rank() == 0 and step % 2 == 0:
                    write_checkpoint(checkpoint, sampler.state_dict())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
