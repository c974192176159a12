"""64 busy jobs beside 1,000 idle ones over one PostgreSQL, by one service and by three: calls, and what each costs.

    python -m benchmarks.crowd.shared       (--write writes benchmarks/results/shared.md; about four minutes)

Services, trainers and the server share this machine: three services can't be faster than its cores allow. So beside the
calls a second stands the processor time of a call, of the services and of the server: what each would do on cores of
its own follows from that. Every answer is checked, as by `make load`; exits with 1 if a check fails.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.crowd import traffic
from benchmarks.crowd.traffic import PATIENCE, Phase, Workload
from benchmarks.watch import MB, errors, machine, processor_seconds, publish, resident
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from tests.support.cluster import Cluster
from tests.support.postgres import Postgres, programs
from trainer_client.client import SchedulerClient

RESULT: Final = Path(__file__).parents[1] / "results" / "shared.md"
G: Final = 256
SAMPLES: Final = 50_000
SIZES: Final = (1, 3)
PROCESSES: Final = 4  # of trainers


@dataclass(frozen=True)
class Outcome:
    """number: of calls of all kinds; hot: seconds that each hot call took; processor seconds of services and server."""

    number: int
    hot: np.ndarray
    services: float
    server: float
    memory: int  # bytes, of all services
    wrong: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idle", type=int, default=1000, help="jobs that exist")
    parser.add_argument("--busy", type=int, default=64, help="jobs that train, with one rank each")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each number of services")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    wrong: list[str] = []
    publish(report(args.idle, args.busy, args.seconds, wrong), RESULT if args.write else None)
    sys.exit(1 if wrong else 0)


def report(idle: int, busy: int, seconds: float, wrong: list[str]) -> Iterator[str]:
    """The lines of the result; what went wrong is added to `wrong`."""
    yield "# Services that share a store"
    yield ""
    yield f"`python -m benchmarks.crowd.shared --write`: {busy} jobs of one trainer each, which asks as fast as it can"
    yield f"for {seconds:g} s, beside {idle:,} idle jobs; batches of {G}, jobs of {SAMPLES:,} samples, a PostgreSQL"
    yield f"server that syncs its log; {machine()}."
    yield "The last column is computed: services over their processor time of a call, each on a core of its own."
    yield ""
    yield "| services | calls/s | hot p50 ms | p99 ms | their ms a call | server's | MB | calls/s on own cores |"
    yield "|---|---|---|---|---|---|---|---|"
    for size in SIZES:
        done = outcome(size, idle, busy, seconds)
        number = done.number
        p50, p99 = 1000 * np.quantile(done.hot, [0.5, 0.99])
        costs = f"{1000 * done.services / number:.2f} | {1000 * done.server / number:.2f}"
        yield (
            f"| {size} | {number / seconds:,.0f} | {p50:.1f} | {p99:.1f} | {costs} | {done.memory / MB:.0f} | "
            f"{size * number / done.services:,.0f} |"
        )
        wrong += done.wrong
    yield ""
    yield from errors(wrong)


def outcome(size: int, idle: int, busy: int, seconds: float) -> Outcome:
    """Of so many services. Raises SystemExit where PostgreSQL is missing."""
    found = programs()
    if found is None:
        raise SystemExit("needs PostgreSQL's server: apt-get install postgresql")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Postgres(found, durable=True)) as server,
        closing(Cluster(Path(folder), server.database("shared"))) as cluster,
    ):
        for _ in range(size):
            cluster.add()
        cluster.settle()
        entry = cluster.services[0].url
        with SchedulerClient(entry) as client:
            for number in range(idle):
                client.create_job(JobSpec(name=f"idle-{number}", samples=1000, modalities=["a", "b"], batch_size=G))
        with traffic.Crew(entry, trades(busy), [Phase("load", seconds)], processes=PROCESSES) as crew:
            begin = crew.begin()
            before = spent(cluster), server.processor_seconds()
            threading.Event().wait(seconds)
            services, of_server = spent(cluster) - before[0], server.processor_seconds() - before[1]
            memory = sum(resident(service.process.pid) for service in cluster.services)
            findings = crew.findings()
        calls = findings.during(begin, begin + seconds)
        return Outcome(len(calls), calls[calls[:, 0] == 0, 2], services, of_server, memory, findings.wrong)


def spent(cluster: Cluster) -> float:
    """Processor seconds of all services."""
    return sum(processor_seconds(service.process.pid) for service in cluster.services)


def trades(busy: int) -> list[Workload]:
    """Jobs of one rank that promise whole epochs, under the policies in turn."""
    made = []
    for number in range(busy):
        policy, parameters = traffic.POLICIES["epoch"][number % len(traffic.POLICIES["epoch"])]
        spec = JobSpec(
            name=f"busy-{number}",
            samples=SAMPLES,
            modalities=["audio", "video"],
            batch_size=G,
            tail="carry",  # so that an epoch has each sample
            seed=number,
            policy=PolicySpec(name=policy, parameters=parameters),
            patience=PATIENCE,
        )
        made.append(Workload(spec, "epoch", ranks=1))
    return made


if __name__ == "__main__":
    main()
