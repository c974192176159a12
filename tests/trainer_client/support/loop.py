"""A user's own training loop as a process: python -m tests.trainer_client.support.loop URL JOB WORKERS ENDING

It says "training" on standard output when it is, and in the end one line of JSON: what is left behind.
"""

import gc
import json
import multiprocessing
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.support.simulated import spec
from trainer_client import Measurement, ScheduledBatchSampler, SchedulerClient, WithIndex

SAMPLES = 50


def measured(index: torch.Tensor) -> Measurement:
    x = torch.sin(index * 12.9898) * 0.5 + 0.5
    return {"similarity": x, "loss": 3 - 2 * x, "probability": x[:, None].repeat(1, 3)}


def sampler_of(url: str, job: str) -> ScheduledBatchSampler:
    return ScheduledBatchSampler(spec(job, SAMPLES), SchedulerClient(url, timeout=20), prefetch=4)


def train(sampler: ScheduledBatchSampler, workers: int, failing: bool) -> None:
    """Train without end; if `failing`, an exception ends it when a line has come on standard input."""
    loader: DataLoader[Any] = DataLoader(
        WithIndex(TensorDataset(torch.arange(SAMPLES))), batch_sampler=sampler, num_workers=workers
    )
    while True:
        for index, _ in loader:
            sampler.feedback(index, measured(index))
            if sampler.batches_trained == 8:
                say("training")
                if failing:
                    sys.stdin.readline()
                    raise ZeroDivisionError


def left_behind(sampler: ScheduledBatchSampler | None) -> dict[str, Any]:
    gc.collect()
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    state = sampler.state_dict() if sampler is not None else {"step": 8, "unsent": []}
    return {
        "threads": [t.name for t in threading.enumerate() if t.name.startswith("bss")],
        "sockets": sum(link.startswith("socket:") for link in links),
        "children": len(multiprocessing.active_children()),
        "step": state["step"],
        "unsent": sorted(saved["step"] for saved in state["unsent"]),
    }


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    url, job, workers, ending = sys.argv[1:]
    sampler = None
    try:
        if ending == "forgotten":
            forgotten = sampler_of(url, job)
            client = forgotten.client
            take_some(forgotten)
            say("training")
            sys.stdin.readline()
            del forgotten
            client.close()
        elif ending == "left open":
            globals()["kept"] = sampler_of(url, job)
            take_some(globals()["kept"])
            say("training")
            sys.stdin.readline()
            return
        else:
            with sampler_of(url, job) as sampler:
                train(sampler, int(workers), failing=ending == "exception")
    except (KeyboardInterrupt, ZeroDivisionError):
        pass
    if sampler is not None:
        sampler.client.close()
    say(json.dumps(left_behind(sampler)))


def take_some(sampler: ScheduledBatchSampler) -> None:
    for step, batch in enumerate(sampler):
        sampler.feedback(step, measured(torch.tensor(batch)))
        if step == 2:
            return


if __name__ == "__main__":
    main()
