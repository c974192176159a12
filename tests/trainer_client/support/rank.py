"""One rank of a distributed run as a process, started with RANK and WORLD_SIZE as torchrun would:

python -m tests.trainer_client.support.rank URL JOB FOLDER UNTIL [DIES_AT]

It trains to step UNTIL from FOLDER's checkpoint, if there is one; rank 0 writes it after every second step. At step
DIES_AT it kills itself. If another rank dies it waits for it to come back, in this process. In the end it prints its
rows of each step.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from tests.support.simulated import spec
from trainer_client import Measurement, ScheduledBatchSampler, SchedulerClient, WithIndex
from trainer_client.reference.checkpoint import read_checkpoint, write_checkpoint

SAMPLES = 50
JOB: dict[str, Any] = {"samples": SAMPLES, "batch_size": 8, "policy": "balance", "interval": 2, "lag": 0, "patience": 2}


def measured(step: int, index: torch.Tensor) -> Measurement:
    """A function of step and sample, so that it doesn't depend on who computes it."""
    x = torch.sin(index * 12.9898 + step * 0.37) * 0.5 + 0.5
    return {"similarity": x, "loss": 3 - 2 * x, "probability": x[:, None].repeat(1, 3)}


def join(folder: Path) -> None:
    """Meet the other ranks; each generation at a place of its own, where nobody has left anything."""
    generation = int((folder / "generation").read_text())
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", f"file://{folder}/meeting-{generation}", rank=rank, world_size=size)


def train(sampler: ScheduledBatchSampler, folder: Path, until: int, dies_at: int, rows: dict[int, list[int]]) -> None:
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    checkpoint = folder / "checkpoint.pt"
    step = 0
    if checkpoint.exists():
        sampler.load_state_dict(read_checkpoint(checkpoint))
        step = sampler.batches_trained
    loader: DataLoader[Any] = DataLoader(WithIndex(TensorDataset(torch.arange(SAMPLES))), batch_sampler=sampler)
    while step < until:
        for index, (sample,) in loader:
            if step == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            model(sample[:, None].float()).sum().backward()
            rows[step] = index.tolist()
            sampler.feedback(index, measured(step, index))
            step += 1
            if dist.get_rank() == 0 and step % 2 == 0:
                write_checkpoint(checkpoint, sampler.state_dict())
            if step == until:
                break
        if step < until and dist.get_rank() == 0:
            heads = {"audio": (0.5, 0.5), "video": (0.3, 0.3 + step / 1000)}
            sampler.validation(loss=2 - step / 100, accuracy=0.5, modalities=heads)


def main() -> None:
    url, job, folder, until, *rest = sys.argv[1:]
    dies_at = int(rest[0]) if rest else -1
    rows: dict[int, list[int]] = {}
    join(Path(folder))
    with SchedulerClient(url) as client, ScheduledBatchSampler(spec(job, **JOB), client, prefetch=2) as sampler:
        while True:
            before = (Path(folder) / "generation").read_text()
            try:
                train(sampler, Path(folder), int(until), dies_at, rows)
                break
            except RuntimeError:  # gloo: another rank has died
                dist.destroy_process_group()
                while (Path(folder) / "generation").read_text() == before:
                    time.sleep(0.05)
                join(Path(folder))
        sampler.flush()
        dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
