"""Two processes that train one network with a rival, by DistributedDataParallel."""

import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.trainer_client.support.clusters import clusters
from trainer_client.exchange.prefetch import ScheduledBatch
from trainer_client.reference.model import build_model
from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals import Heads, Run, create_rival

STEPS = 3


def train(rank: int, rivals: list[str], folder: str) -> None:
    """Train with each rival for some steps, on other samples than the other rank; writes the weights."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    weights = {name: _trained(rank, name) for name in rivals}
    torch.save(weights, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _trained(rank: int, name: str) -> torch.Tensor:
    dataset = clusters()
    model = build_model(dataset, seed=0)
    rival = create_rival(name, {"warm_up": 0} if name == "smv" else {})
    rival.start(Run(model, 230, 4, 4, 0, lambda: build_model(dataset, 0), lambda p: torch.optim.SGD(p, lr=0.1)))
    parallel = DistributedDataParallel(model)
    optimiser = torch.optim.SGD(rival.parameter_groups(), lr=0.1)
    passes = Passes(dataset, torch.device("cpu"), 64)
    rival.begin_epoch(0, passes)
    model.train()
    for step in range(STEPS):
        samples = np.arange(16) + 16 * (2 * step + rank)
        inputs = [torch.from_numpy(array[samples]) for array in dataset.modalities.values()]
        labels = torch.from_numpy(dataset.labels[samples])
        heads = Heads(*parallel(inputs), ScheduledBatch(step, samples, 0, 1, 0))
        rival.step(heads, labels, torch.Tensor.mean, optimiser)
    return torch.cat([p.detach().flatten() for p in model.parameters()])
