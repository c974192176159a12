"""How long a plan takes, beside the nearest thing that a user would draw an order with.

    python -m benchmarks.speed.plans        (or: --samples 50000000)

A weighted order without replacement of all samples, and of the first batches alone; `torch.multinomial` in turn. Then
the first interval of a job, in process, and the memory that it takes beside its table.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from bss_service.core.sampling import uniforms, weighted_order
from bss_service.job.job import Job
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec

G: Final = 256
FEW: Final = 16 * G  # rows of a short interval
MOST: Final = 2**24  # categories that torch.multinomial takes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="n")
    parser.add_argument("--rounds", type=int, default=7, help="of each; medians are told")
    args = parser.parse_args()
    torch.set_num_threads(1)
    first_interval(args.samples)
    orders(min(args.samples, MOST), args.rounds)


def orders(samples: int, rounds: int) -> None:
    """Processor time of orders, and its ratio to that of torch."""
    weights_log = np.random.default_rng(0).normal(size=samples)
    weights = torch.from_numpy(np.exp(weights_log))
    subjects: dict[str, Callable[[], object]] = {
        "torch.multinomial without replacement": lambda: torch.multinomial(weights, samples),
        "weighted order": lambda: weighted_order(weights_log, uniforms(0, 0, 0, samples)),
        f"its first {FEW:,}": lambda: weighted_order(weights_log, uniforms(0, 0, 0, samples), FEW),
    }
    timed: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            began = time.thread_time()
            subject()
            timed[name].append(time.thread_time() - began)
    medians = {name: float(np.median(values)) for name, values in timed.items()}
    print(f"\norders of {samples:,}\n{'':46} {'ratio':>10} {'CPU ms':>10}")
    for name, seconds in medians.items():
        print(f"{name:46} {seconds / next(iter(medians.values())):10.2f} {1000 * seconds:10.1f}")


def first_interval(samples: int) -> None:
    """A job made and its first epoch drawn; first, since the most memory that was taken can't be told again."""
    before = peak()
    began = time.process_time()
    spec = JobSpec(name="job", samples=samples, modalities=["a", "b"], batch_size=G, policy=PolicySpec(name="balance"))
    job = Job(spec, {})
    job.plan()
    seconds, taken = time.process_time() - began, peak() - before
    print(f"first epoch of {samples:,} drawn: {seconds:.2f} s CPU, at most {taken / job.table.nbytes:.1f} x the table")


def peak() -> int:
    """The most memory so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
