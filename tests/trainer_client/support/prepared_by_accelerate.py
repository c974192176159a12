"""One rank of a loop whose DataLoader went through Accelerate, or not:

python -m tests.trainer_client.support.prepared_by_accelerate URL JOB FOLDER HOW

It prints what came of it in one line.
"""

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader, TensorDataset

from tests.support.simulated import spec
from trainer_client import DoubleShardingError, ScheduledBatchSampler, SchedulerClient, WithIndex

HOW: dict[str, dict[str, Any]] = {
    "prepared": {},
    "uneven": {"even_batches": False},
    "split": {"split_batches": True},
    "dispatched": {"dispatch_batches": True},
    "left alone": {},
}


def train(accelerator: Accelerator, sampler: ScheduledBatchSampler, how: str) -> str:
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    loader: DataLoader[Any] = DataLoader(WithIndex(TensorDataset(torch.arange(50))), batch_sampler=sampler)
    if how != "left alone":
        loader = accelerator.prepare(loader)
    for index, (sample,) in loader:
        accelerator.backward(model(sample[:, None].float()).sum())
        sampler.feedback(index)
    return f"trained {sampler.batches_trained}"


def main() -> None:
    url, job, folder, how = sys.argv[1:]
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=size)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**HOW[how]))
    with SchedulerClient(url) as client, ScheduledBatchSampler(spec(job, policy="uniform"), client) as sampler:
        try:
            outcome = train(accelerator, sampler, how)
        except DoubleShardingError as error:
            outcome = f"refused: {error}"
        sys.stdout.write(outcome + "\n")
        sys.stdout.flush()
    os._exit(0)  # a group whose other rank is in a collective call can't be left in peace


if __name__ == "__main__":
    main()
