"""The hot call, and what a training loop waits for a batch, against what a user would otherwise use.

    make bench        (or: python benchmarks/hot_path.py --samples 1000000)

One run measures all of them in turn, round after round, so that a noisy machine disturbs them alike; what counts are
the ratios.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler

from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Feedback, StepsRequest
from bss_service.testing import ServiceProcess
from tests.support.postgres import Postgres, programs
from trainer_client.client import SchedulerClient
from trainer_client.sampler import ScheduledBatchSampler

G = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="n")
    parser.add_argument("--rounds", type=int, default=300, help="measurements of each")
    parser.add_argument("--step-ms", type=float, default=5.0, help="length of a simulated training step")
    args = parser.parse_args()
    torch.set_num_threads(1)  # its idle threads spin, and would take the second core from the service
    with ExitStack() as running:
        services = {"SQLite": running.enter_context(ServiceProcess())}
        if (found := programs()) is not None:
            server = running.enter_context(closing(Postgres(found, durable=True)))
            services["PostgreSQL"] = running.enter_context(ServiceProcess(store=server.database("hot")))
        calls({store: service.url for store, service in services.items()}, args.samples, args.rounds)
        waits(services["SQLite"].url, args.samples, args.rounds, args.step_ms / 1000)


def calls(urls: Mapping[str, str], samples: int, rounds: int) -> None:
    """Feedback for a batch and the next one or sixteen over each store, and the same in process."""
    weights = torch.rand(samples, generator=torch.Generator().manual_seed(0))
    subjects: dict[str, Callable[[], object]] = {}
    with ExitStack() as clients:
        for store, url in urls.items():
            client = clients.enter_context(SchedulerClient(url))
            subjects[f"{store}: feedback for 1 batch, next batch"] = HotCall(client, "one", samples, 1)
            subjects[f"{store}: feedback for 16 batches, next 16"] = HotCall(client, "sixteen", samples, 16)
        subjects["torch.multinomial, 1 batch with replacement"] = lambda: torch.multinomial(weights, G, True)
        subjects["torch.multinomial, 1 batch without replacement"] = lambda: torch.multinomial(weights, G)
        timed = measure(rounds, subjects)
    say(f"n = {samples:,}, batch {G}, medians of {rounds} rounds; the service commits every call,")
    say("to SQLite without waiting for the disk, to PostgreSQL, where that is installed, with")
    table(timed, "torch.multinomial, 1 batch with replacement")


class HotCall:
    """One trainer's sequence of hot calls."""

    def __init__(self, client: SchedulerClient, name: str, samples: int, count: int) -> None:
        spec = JobSpec(
            name=name,
            samples=samples,
            modalities=["a", "b"],
            batch_size=G,
            policy=PolicySpec(name="balance"),
            patience=0,
        )
        client.create_job(spec)
        self._client, self._name, self._count = client, name, count
        x = np.random.default_rng(0).random((count, G), dtype=np.float32)
        self._values: dict[str, Any] = {"similarity": x, "loss": x, "probability": np.stack([x, x, x], axis=2)}
        self._steps = np.arange(len(client.steps(name, StepsRequest(start=0, count=count)).batches.indices))

    def __call__(self) -> None:
        done = len(self._steps)
        feedback = Feedback(step=self._steps, **{name: values[:done] for name, values in self._values.items()})
        start = int(self._steps[-1]) + 1
        answer = self._client.steps(self._name, StepsRequest(start=start, count=self._count, feedback=feedback))
        self._steps = start + np.arange(len(answer.batches.indices))


def waits(url: str, samples: int, rounds: int, step_seconds: float) -> None:
    """What a loop with steps of some milliseconds waits for each batch of indices, feedback included."""
    spec = JobSpec(name="loop", samples=samples, modalities=["a", "b"], batch_size=G, policy=PolicySpec(name="balance"))
    x = torch.rand(G, generator=torch.Generator().manual_seed(0))
    measurement = {"similarity": x, "loss": x, "probability": torch.stack([x, x, x], dim=1)}
    plain = iter(BatchSampler(RandomSampler(range(samples), generator=torch.Generator().manual_seed(0)), G, True))
    with ScheduledBatchSampler(spec, url) as sampler:
        scheduled = iter(sampler)
        next(plain), next(scheduled)  # both draw their epoch's order at the first batch
        sampler.feedback(0, measurement)
        scheduled_waits, feedback_times, plain_waits = [], [], []
        for step in range(1, min(rounds, samples // G - 1)):
            scheduled_waits.append(seconds(lambda: next(scheduled)))
            time.sleep(step_seconds)
            feedback_times.append(seconds(lambda step=step: sampler.feedback(step, measurement)))
            plain_waits.append(seconds(lambda: next(plain)))
    say(f"\na loop with {1000 * step_seconds:g} ms a step, prefetch 16")
    table(
        {
            "scheduled: wait for a batch": scheduled_waits,
            "scheduled: hand over feedback": feedback_times,
            "RandomSampler: wait for a batch": plain_waits,
        },
        "RandomSampler: wait for a batch",
    )
    say(f"longest wait: scheduled {1000 * max(scheduled_waits):.2f} ms, RandomSampler {1000 * max(plain_waits):.2f} ms")


def measure(rounds: int, subjects: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each call, the subjects in turn."""
    timed: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            timed[name].append(seconds(subject))
    return timed


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def table(timed: dict[str, list[float]], reference: str) -> None:
    """Median, 99th percentile, and the ratio of medians to a reference."""
    base = float(np.median(timed[reference]))
    say(f"{'':48} {'p50 ms':>8} {'p99 ms':>8} {'ratio':>7}")
    for name, values in timed.items():
        p50, p99 = np.quantile(values, [0.5, 0.99])
        say(f"{name:48} {1000 * p50:8.3f} {1000 * p99:8.3f} {p50 / base:7.2f}")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
