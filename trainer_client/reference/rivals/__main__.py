"""What each rival costs on this machine, beside plain training, in processor time, and whether it runs over processes.

python -m trainer_client.reference.rivals     (about a minute on one core)
"""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from trainer_client.exchange.prefetch import ScheduledBatch
from trainer_client.reference.data import Dataset
from trainer_client.reference.evaluation import to_device
from trainer_client.reference.model import build_model
from trainer_client.reference.passes import Passes
from trainer_client.reference.rivals import Heads, Rival, Run, create_rival, rival_class, rival_names

EPOCHS: Final = 5  # the first is not measured
# What lets a rival begin at once, and look no further than an epoch.
AT_ONCE: Final[Mapping[str, Mapping[str, Any]]] = {
    "g_blending": {"super_epoch": 1},
    "umt": {"teacher_epochs": 1},
    "smv": {"warm_up": 0},
    "remix": {"warm_up": 0},
    "di_mml": {"begins": 0},
    "infobatch": {"anneal": 1},
    "reconboost": {"epochs_per_stage": 1, "correct_epochs": 1},
}


class Times(NamedTuple):
    """Processor seconds of an epoch."""

    steps: float
    before: float  # the epoch, the most that one took


def main(samples: int = 512, batch_size: int = 64, repeats: int = 3) -> int:
    """Measure all rivals in turn, `repeats` times; 0."""
    argparse.ArgumentParser(prog="python -m trainer_client.reference.rivals", description=__doc__).parse_args()
    torch.set_num_threads(1)
    dataset = made(samples)
    names: list[str | None] = [None, *rival_names()]
    rounds = [{name: measured(dataset, name, batch_size) for name in names} for _ in range(repeats)]
    table = Table(
        "rival", "a step, in plain steps", "before an epoch, in plain epochs", "what it costs", "several processes"
    )
    for name in rival_names():
        shares = [[seconds / each[None].steps for seconds in each[name]] for each in rounds]
        step, before = np.median(shares, axis=0)
        kind = rival_class(name)
        table.add_row(
            name,
            f"{step:.2f}",
            f"{before:.2f}",
            str(kind.cost),
            f"no: {kind.one_process}" if kind.one_process else "yes",
        )
    Console(width=160).print(table)
    return 0


def made(samples: int) -> Dataset:
    """Images and signals of ten classes, at random: nothing is learnt of them but what time it takes."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(samples * 5 // 4, 3, 32, 32)).astype(np.float32)
    signals = rng.normal(size=(samples * 5 // 4, 6, 128)).astype(np.float32)
    rest = len(images) - samples
    split = np.repeat(np.array([0, 1, 2], dtype=np.uint8), [samples, rest - 1, 1])
    classes = tuple("abcdefghij")
    return Dataset("made", {"image": images, "signal": signals}, np.arange(len(images)) % 10, split, classes)


def measured(dataset: Dataset, name: str | None, batch_size: int) -> Times:
    """Of training with a rival, or with the interface and nothing behind it."""
    device = torch.device("cpu")
    rival = Rival() if name is None else create_rival(name, AT_ONCE.get(name, {}))
    model = build_model(dataset, seed=0)
    train = dataset.indices("train")
    run = Run(model, len(train), 10, EPOCHS, 0, lambda: build_model(dataset, seed=0), torch.optim.Adam)
    rival.start(run)
    optimiser = torch.optim.Adam(rival.parameter_groups(), lr=1e-3)
    passes = Passes(dataset, device, batch_size)
    steps, before = 0.0, 0.0
    for epoch in range(EPOCHS):
        started = time.process_time()
        rival.begin_epoch(epoch, passes)
        model.train()
        begun = time.process_time()
        for first in range(0, len(train), batch_size):
            batch = ScheduledBatch(first // batch_size, np.arange(first, first + batch_size), epoch, 1, 0)
            rows = rival.rows(batch)
            batch = batch if rows is None else batch.part(rows.numpy())
            inputs, labels = to_device(dataset, train[batch.indices], device)
            unimodal, joint, features = model(inputs)
            rival.step(Heads(unimodal, joint, features, batch), labels, torch.Tensor.mean, optimiser)
        steps += (time.process_time() - begun) * (epoch > 0)
        before = max(before, begun - started)
    return Times(steps / (EPOCHS - 1), before)


if __name__ == "__main__":
    sys.exit(main())
