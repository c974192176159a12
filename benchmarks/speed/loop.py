"""What scheduling costs a training loop, against the loop that one would have without it.

    python -m benchmarks.speed.loop

A loop with a RandomSampler and one that is scheduled and measures take turns, round after round, so that a busy machine
disturbs them alike; what counts are the ratios. A step is a device that is busy for so many milliseconds: in turn with
the host, as where the loop waits for each loss, or beside it, one step ahead, as where it doesn't.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.testing import ServiceProcess
from trainer_client import Measurement, ScheduledBatchSampler, WithIndex, measure

G: Final = 256
CLASSES: Final = 10
CASES: Final = ((10.0, 0), (10.0, 2), (3.0, 0))  # milliseconds a step, workers of the loader


class Rows(Dataset[tuple[Tensor, int]]):
    """A data set that gives a batch in one call."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._row = torch.zeros(16)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._row, index % CLASSES

    def __len__(self) -> int:
        return self._samples


@dataclass
class Device:
    """What takes its time for a step, and nothing of the processor."""

    seconds: float
    is_beside: bool  # the host may be a step ahead
    _free: float = 0.0

    def step(self) -> None:
        """Begin a step, and wait for it or the one before."""
        begin = max(time.perf_counter(), self._free)
        before, self._free = self._free, begin + self.seconds
        until = before if self.is_beside else self._free
        if (left := until - time.perf_counter()) > 0:
            time.sleep(left)


@dataclass
class Heads:
    """Logits of two unimodal heads and the joint one, as a step leaves them."""

    unimodal: list[Tensor]
    joint: Tensor
    labels: Tensor
    seconds: float = 0.0  # of the processor, that were measured by

    def measured(self) -> Measurement:
        """The signals, their time noted: between two steps it is another than in a row."""
        began = time.thread_time()
        signals = measure(self.unimodal, self.joint, self.labels)
        self.seconds += time.thread_time() - began
        return signals

    @classmethod
    def made(cls) -> "Heads":
        """Some."""
        random = torch.Generator().manual_seed(0)
        first, second, joint = (torch.randn(G, CLASSES, generator=random) for _ in range(3))
        return cls([first, second], joint, torch.randint(CLASSES, (G,), generator=random))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="n")
    parser.add_argument("--rounds", type=int, default=6, help="of each loop")
    parser.add_argument("--seconds", type=float, default=0.6, help="of a round")
    args = parser.parse_args()
    torch.set_num_threads(1)  # its idle threads spin, and would take the second core from the service
    tensor_operations()
    print(f"\nloops: n = {args.samples:,}, batch {G}; medians of {args.rounds} pairs of rounds of {args.seconds:g} s")
    print(f"{'':46} {'throughput':>10} {'CPU ms a step':>32}")
    print(f"{'':46} {'/ plain':>10} {'plain':>10} {'measure':>10} {'rest':>10}")
    with ServiceProcess() as service:
        for milliseconds, workers in CASES:
            for is_beside in (True, False):
                loops(service.url, args.samples, args.rounds, args.seconds, milliseconds, workers, is_beside)


def tensor_operations() -> None:
    """`measure`, for a job of the paper's signals and one of evidence."""
    heads = Heads.made()
    timed = cpu_of(
        {
            "measure": lambda: measure(heads.unimodal, heads.joint, heads.labels),
            "measure, signals of evidence": lambda: dict(measure(heads.unimodal, heads.joint, heads.labels)),
            "three cross-entropies": lambda: [
                cross_entropy(logits, heads.labels) for logits in (*heads.unimodal, heads.joint)
            ],
        }
    )
    base = timed["three cross-entropies"]
    print(f"tensor operations, batch {G}, {CLASSES} classes, two heads and the joint one")
    print(f"{'':46} {'ratio':>10} {'ms':>10}")
    for name, seconds in timed.items():
        print(f"{name:46} {seconds / base:10.2f} {1000 * seconds:10.3f}")


def cpu_of(subjects: dict[str, Callable[[], object]], rounds: int = 60, calls: int = 20) -> dict[str, float]:
    """Seconds of the processor for a call, the subjects in turn: medians."""
    timed: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            began = time.thread_time()
            for _ in range(calls):
                subject()
            timed[name].append((time.thread_time() - began) / calls)
    return {name: float(np.median(values)) for name, values in timed.items()}


def loops(
    url: str, samples: int, rounds: int, seconds: float, milliseconds: float, workers: int, is_beside: bool
) -> None:
    """One line: throughput and processor time of both loops, beyond the tensor operations."""
    name = f"{milliseconds:g}ms-{workers}-{'beside' if is_beside else 'turn'}"
    spec = JobSpec(name=name, samples=samples, modalities=["a", "b"], batch_size=G, policy=PolicySpec(name="balance"))
    data, steps = Rows(samples), max(10, round(1000 * seconds / milliseconds))
    options: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    random = torch.Generator().manual_seed(0)
    plain = BatchSampler(RandomSampler(data, generator=random), G, drop_last=True)
    with ExitStack() as stack:
        sampler = stack.enter_context(ScheduledBatchSampler(spec, url))
        without = iter(DataLoader(data, batch_sampler=plain, **options))
        scheduled = iter(DataLoader(WithIndex(data), batch_sampler=sampler, **options))
        measured = [Heads.made() for _ in range(rounds + 1)]
        pairs = []
        for heads in measured:
            device = Device(milliseconds / 1000, is_beside)
            pairs.append((run_plain(without, device, steps), run_scheduled(scheduled, sampler, heads, device, steps)))
        del without, scheduled
    pairs = pairs[1:]  # the first draws the epoch
    ratio = np.median([plain_wall / wall for (plain_wall, _), (wall, _) in pairs])
    plain_cpu, cpu = np.median([(plain_cpu, cpu) for (_, plain_cpu), (_, cpu) in pairs], axis=0)
    tensors = np.median([heads.seconds / steps for heads in measured[1:]])
    what = f"{milliseconds:g} ms {'beside the host' if is_beside else 'in turn with it'}, {workers} workers"
    rest = cpu - plain_cpu - tensors
    print(f"{what:46} {ratio:10.3f} {1000 * plain_cpu:10.3f} {1000 * tensors:10.3f} {1000 * rest:10.3f}", flush=True)


def run_plain(batches: Iterator[Any], device: Device, steps: int) -> tuple[float, float]:
    """Seconds, and of the processor, a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(batches)
        device.step()
    return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps


def run_scheduled(
    batches: Iterator[Any], sampler: ScheduledBatchSampler, heads: Heads, device: Device, steps: int
) -> tuple[float, float]:
    """The same; what is left in the outbox is sent, and its processor time counted."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        index, _ = next(batches)
        device.step()
        sampler.feedback(index, heads.measured())
    wall = time.perf_counter() - wall
    sampler.flush()
    return wall / steps, (time.process_time() - cpu) / steps


if __name__ == "__main__":
    main()
