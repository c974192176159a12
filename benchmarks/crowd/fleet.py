"""How many processes 1,000 jobs with 100,000 batches a second need: a simulation with service times measured here.

    python -m benchmarks.crowd.fleet        (--write writes benchmarks/results/fleet.md; two minutes; needs PostgreSQL)

Measured, of one process over a PostgreSQL server that syncs its log: the processor time of a hot call by the batches in
it, what a commit takes alone and in a group, and the bytes that a batch leaves in the store. Simulated: processes with
their real shares of the jobs' shards, each one queue for its processor and one for its writer, which commits all that
waits; a trainer asks again once it has its answer and has trained on what it got.
"""

import argparse
import heapq
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.hot_path import G, HotCall
from benchmarks.watch import machine, processor_seconds, publish
from bss_service.journal.owning.shards import SHARDS, shard_of
from bss_service.journal.store import Store
from bss_service.journal.transaction import Entry, Transaction
from bss_service.testing import ServiceProcess
from tests.support.postgres import Postgres, programs
from trainer_client.client import SchedulerClient

RESULT = Path(__file__).parents[1] / "results" / "fleet.md"
SAMPLES: Final = 50_000  # of a job
GROUP: Final = 256  # transactions that are committed together
AHEAD: Final = 32  # batches that a sampler has fetched at most
ARRIVES, COMPUTED, WRITTEN = range(3)


@dataclass(frozen=True)
class Measured:
    """Seconds of a call with so many batches, and what it stores."""

    batches: int  # of a call
    processor: float  # of the service
    alone: float  # that a commit takes
    each: float  # more for each other in its group
    stored: float  # bytes a batch
    call: float  # that one trainer alone waits, median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100_000, help="batches a second, of all jobs")
    parser.add_argument("--calls", type=int, default=400, help="that are measured of each kind")
    parser.add_argument("--seconds", type=float, default=20.0, help="that are simulated")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    publish(report(args.jobs, args.rate, args.calls, args.seconds), RESULT if args.write else None)


def report(jobs: int, rate: float, calls: int, seconds: float) -> Iterator[str]:
    """The lines of the result."""
    yield "# A fleet of services"
    yield ""
    yield f"`python -m benchmarks.crowd.fleet --write`: {jobs:,} jobs with {rate:,.0f} batches a second in all, by"
    yield f"simulation with times measured on {machine()}."
    yield f"Batches of {G}, two modalities, jobs of {SAMPLES:,} samples."
    yield ""
    measured = list(measure((1, 16), calls))
    yield "| batches a call | processor, ms | commit alone, ms | each other in its group, ms | stored, bytes a batch |"
    yield "|---|---|---|---|---|"
    for m in measured:
        times = " | ".join(f"{1000 * value:.2f}" for value in (m.processor, m.alone, m.each))
        yield f"| {m.batches} | {times} | {m.stored:,.0f} |"
    yield ""
    one = simulate(1, 1.0, measured[0], seconds)
    yield f"One trainer alone, one batch a call: {1000 * measured[0].call:.2f} ms with its client's own part, measured;"
    yield f"{1000 * np.median(one.waits):.2f} ms without it, simulated."
    yield ""
    yield "| batches a call | processes | jobs of the fullest | its processor | batches/s | p50 ms | p99 ms | late |"
    yield "|---|---|---|---|---|---|---|---|"
    for m in measured:
        for processes in sizes(rate / m.batches * m.processor):
            yield f"| {m.batches} | {processes} | {row(jobs, rate, m, processes, seconds)} |"
    yield ""
    yield f"A process is a core. A call is late that takes longer than {AHEAD} batches last, which a sampler has at"
    yield f"hand. The server takes {rate * measured[-1].stored / 1e6:,.0f} MB/s in; a commit is taken to be as fast"
    yield "beside those of other processes as alone, which needs as many cores and as fast a disk there."


def sizes(cores: float) -> list[int]:
    """Numbers of processes about the least that could do, up to one a shard."""
    return sorted({min(SHARDS, max(1, math.ceil(cores * spare))) for spare in (0.75, 1.1, 1.5, 2.0, 3.0)})


def measure(kinds: Sequence[int], calls: int) -> Iterator[Measured]:
    """Of a service over a server of its own. Raises SystemExit where PostgreSQL is missing."""
    found = programs()
    if found is None:
        raise SystemExit("needs PostgreSQL's server: apt-get install postgresql")
    with closing(Postgres(found, durable=True)) as server:
        url = server.database("fleet")
        worked = {}
        with ServiceProcess(store=url) as service, SchedulerClient(service.url) as client:
            for batches in kinds:
                hot_call = HotCall(client, f"fleet-{batches}", SAMPLES, batches)
                hot_call()
                before, taken = processor_seconds(service.process.pid), []
                for _ in range(calls):
                    started = time.perf_counter()
                    hot_call()
                    taken.append(time.perf_counter() - started)
                used = processor_seconds(service.process.pid) - before
                worked[batches] = used / calls, float(np.median(taken))
        with closing(Store(url)) as store:
            for batches in kinds:
                name = f"fleet-{batches}"
                fed = [entry.body for entry in store.journal(name) if entry.kind == "feedback"]
                stored = store.stored_bytes(name) / (batches * len(fed))
                alone, each = commits(store, name, fed[-1])
                yield Measured(batches, worked[batches][0], alone, each, stored, worked[batches][1])


def commits(store: Store, name: str, body: bytes) -> tuple[float, float]:
    """Seconds of a commit alone, and of each of many in a group, medians."""
    numbers = count()

    def transaction() -> Transaction:
        return Transaction(f"{name}-alone", entries=[Entry(next(numbers), "feedback", body)])

    alone, together = [], []
    for _ in range(50):
        started = time.perf_counter()
        store.commit(transaction()).result()
        alone.append(time.perf_counter() - started)
    for _ in range(5):
        made = [transaction() for _ in range(GROUP)]
        started = time.perf_counter()
        for future in [store.commit(each) for each in made]:
            future.result()
        together.append((time.perf_counter() - started) / GROUP)
    return float(np.median(alone)), float(np.median(together))


@dataclass(frozen=True)
class Simulated:
    """A process: what each answer took, in seconds, and the share of time that its processor worked."""

    waits: np.ndarray
    busy: float


def simulate(jobs: int, period: float, times: Measured, seconds: float, seed: int = 0) -> Simulated:
    """A process with so many jobs, each of which asks once in a period where its last answer is there by then."""
    rng = np.random.default_rng(seed)
    order = count()
    events: list[tuple[float, int, int, list[int]]] = []

    def at(moment: float, kind: int, who: list[int]) -> None:
        heapq.heappush(events, (moment, next(order), kind, who))

    for job in range(jobs):
        at(rng.random() * period, ARRIVES, [job])
    asked, free, queue, writes = {}, 0.0, [], False
    waits = []
    while events and events[0][0] < seconds:
        now, _, kind, who = heapq.heappop(events)
        if kind == ARRIVES:
            asked[who[0]], free = now, max(now, free) + times.processor
            at(free, COMPUTED, who)
        elif kind == COMPUTED:
            queue += who
        else:
            writes = False
            for job in who:
                waits.append(now - asked[job])
                at(max(now, asked[job] + period * rng.uniform(0.9, 1.1)), ARRIVES, [job])
        if queue and not writes:
            at(now + times.alone + times.each * (len(queue) - 1), WRITTEN, queue)
            queue, writes = [], True
    return Simulated(np.array(waits), min(1.0, len(waits) * times.processor / seconds))


def row(jobs: int, rate: float, times: Measured, processes: int, seconds: float) -> str:
    """What a fleet of a size does, as cells of a table."""
    period = times.batches * jobs / rate
    shares = Counter(shard_of(f"job-{number}") % processes for number in range(jobs))
    each = [simulate(share, period, times, seconds, seed) for seed, share in enumerate(shares.values())]
    waits = np.concatenate([one.waits for one in each])
    p50, p99 = 1000 * np.quantile(waits, [0.5, 0.99])
    late = float(np.mean(waits > AHEAD * jobs / rate))
    done = len(waits) * times.batches / seconds
    busiest = max(one.busy for one in each)
    return f"{max(shares.values())} | {100 * busiest:.0f} % | {done:,.0f} | {p50:.1f} | {p99:.1f} | {100 * late:.1f} %"


if __name__ == "__main__":
    main()
