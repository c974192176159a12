"""64 trainers of 16 jobs at once, each answer checked: errors, exactly-once feedback, memory, and how long calls take.

    make load        (python -m benchmarks.load --write writes benchmarks/results/load.md; about four minutes)

Exits with 1 if a check fails. Beside it, in the same run: a single trainer alone, the same trainers at a training
loop's pace, and both against a bare application that answers as many bytes from memory.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.crowd import traffic
from benchmarks.crowd.bare import bare_service
from benchmarks.crowd.traffic import KINDS, PATIENCE, Phase, Workload
from benchmarks.watch import MB, Watch, errors, machine, publish, quantiles_row, slope
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Feedback, StepsRequest
from bss_service.testing import ServiceProcess
from tests.whole.attacks.crowd import Hostile
from tests.whole.attacks.frame import longest_hold
from trainer_client.client import SchedulerClient

RESULT = Path(__file__).parent / "results" / "load.md"
G = 256
JOBS = 16
RANKS = 4
PROCESSES = 4
ALONE_SECONDS = 5.0
BARE_SECONDS = 20.0
HOSTILE = JOBS * RANKS // 10 + 1  # clients
WORSE_LIMIT = 3.0  # times that the hot call's p99 may be beside them
HOLD_LIMIT = 0.05  # seconds that the event loop may be late by because of them
SLOPE_LIMIT = 6.0  # MB a minute, of the second half; 10 bytes kept of every call at 10,000 calls a minute are 0.1
GROWTH_LIMIT = 1.1  # most memory of the second half over the median of its first ten seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="of the load")
    parser.add_argument("--paced", type=float, default=30.0, help="seconds at a training loop's pace afterwards")
    parser.add_argument("--step-ms", type=float, default=500.0, help="the training loop's pace")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    wrong: list[str] = []
    publish(report(args.seconds, args.paced, args.step_ms / 1000, wrong), RESULT if args.write else None)
    sys.exit(1 if wrong else 0)


def report(seconds: float, paced: float, pace: float, wrong: list[str]) -> Iterator[str]:
    """The lines of the result; what went wrong is added to `wrong`."""
    yield "# Load"
    yield ""
    yield f"`python -m benchmarks.load --write`: {JOBS * RANKS} trainers, {RANKS} ranks of each of {JOBS} jobs, for"
    yield f"{seconds:g} s without a pause between calls and twice {paced:g} s at {1000 * pace:g} ms a step, the second"
    yield "time beside hostile clients; n of 50,000 to"
    yield f"200,000, batches of {G}, six policies, swaps, repeated feedback, one JSON client in sixteen;"
    yield f"{machine()}."
    yield ""
    phases = [Phase("load", seconds), Phase("paced", paced, pace), Phase("hostile", paced, pace)]
    with ServiceProcess() as service:
        by_itself = alone(service.url, ALONE_SECONDS)
        watch = Watch(service)
        hostile = Hostile(service.url, [f"load-{k}" for k in range(JOBS)], HOSTILE)
        with traffic.Crew(service.url, trades(), phases, processes=PROCESSES) as crew, hostile:
            begin = crew.begin()
            attacked = begin + seconds + paced
            time.sleep(max(0.0, attacked - time.monotonic()))
            holds = [longest_hold(service.url)]
            hostile.go()
            time.sleep(max(0.0, attacked + paced - time.monotonic()))
            hostile.stop()
            holds.append(longest_hold(service.url))
            findings = crew.findings()
        rows = watch.stop()
        honest = [line for line in service.log if "job=hostile-" not in line]
        failures = [line for line in honest if "error" in line or "patience" in line]
    with bare_service(G) as url:
        bare_by_itself = hot_calls(url, ALONE_SECONDS, ranks=1, bare=True)
        bare_loaded = crowd(url, BARE_SECONDS)
    loaded = findings.during(begin, begin + seconds)
    yield "| call | number | p50 ms | p99 ms |"
    yield "|---|---|---|---|"
    for kind, name in enumerate(KINDS):
        yield f"| {name} | {quantiles_row(loaded[loaded[:, 0] == kind, 2])} |"
    at_pace = findings.during(begin + seconds, begin + seconds + paced)
    hot, hot_paced = loaded[loaded[:, 0] == 0, 2], at_pace[at_pace[:, 0] == 0, 2]
    yield f"| hot call, at {1000 * pace:g} ms a step | {quantiles_row(hot_paced)} |"
    beside = findings.during(attacked, attacked + paced)
    hot_beside = beside[beside[:, 0] == 0, 2]
    yield f"| hot call, at that pace, beside {HOSTILE} hostile clients | {quantiles_row(hot_beside)} |"
    yield f"| hot call, one trainer alone | {quantiles_row(by_itself)} |"
    yield f"| bare application, {JOBS * RANKS} trainers | {quantiles_row(bare_loaded)} |"
    yield f"| bare application, one trainer alone | {quantiles_row(bare_by_itself)} |"
    yield ""
    rates = len(loaded) / seconds, len(bare_loaded) / BARE_SECONDS
    yield f"{rates[0]:,.0f} calls/s under load, {rates[1]:,.0f} by the bare application;"
    yield f"p50 of the hot call / p50 of the bare application: {ratio(hot, bare_loaded)} with {JOBS * RANKS} trainers,"
    yield f"{ratio(by_itself, bare_by_itself)} with one. The first call of an interval waits for all ranks' feedback."
    yield ""
    worse = float(np.quantile(hot_beside, 0.99) / np.quantile(hot_paced, 0.99))
    yield f"Beside {HOSTILE} clients of scope `read` and `train` that ask for the dearest that they may (they got"
    yield f"{dict(sorted(hostile.statuses.items()))}) the hot call's p99 is {worse:.1f} times that without. The event"
    yield f"loop was late by {1000 * holds[0]:.0f} ms at the most without them, where {JOBS * RANKS} trainers ask"
    yield f"at once, and by {1000 * holds[1]:.0f} ms with."
    yield ""
    if worse > WORSE_LIMIT:
        wrong.append(f"hostile clients make the hot call's p99 {worse:.1f} times as long")
    if holds[1] > holds[0] + HOLD_LIMIT:
        wrong.append(f"hostile clients make the event loop late by {1000 * (holds[1] - holds[0]):.0f} ms more")
    yield from memory(rows[(rows[:, 0] >= begin) & (rows[:, 0] < begin + seconds)], wrong)
    wrong += findings.wrong + [f"log: {line.strip()}" for line in failures]
    yield f"{findings.steps:,} steps, {findings.applied:,} times feedback applied ({RANKS} a step),"
    yield f"{findings.repeated:,} repetitions told as such, {findings.epochs} epochs finished and whole."
    yield ""
    yield from errors(wrong)


def trades() -> list[Workload]:
    """The jobs: ten of 50,000 samples, four of 100,000, two of 200,000; every second one promises whole epochs."""
    sizes = [50_000] * 10 + [100_000] * 4 + [200_000] * 2
    made = []
    for k, samples in enumerate(sizes):
        coverage = "epoch" if k % 2 else "any"
        policy, parameters = traffic.POLICIES[coverage][k // 2 % len(traffic.POLICIES[coverage])]
        spec = JobSpec(
            name=f"load-{k}",
            samples=samples,
            modalities=["audio", "video"],
            batch_size=G,
            tail="carry",  # so that an epoch has each sample
            seed=k,
            policy=PolicySpec(name=policy, parameters=parameters),
            interval=None if samples == 50_000 else 100,
            patience=PATIENCE,
        )
        json_ranks = (3,) if k % 4 == 3 else ()
        made.append(
            Workload(
                spec,
                coverage,
                RANKS,
                count=4 if k % 4 == 2 else 1,
                json_ranks=json_ranks,
                warm_up=2 * samples // G,  # from the third epoch on a job holds as much as it ever will
                swap_every=2,
            )
        )
    return made


def memory(rows: np.ndarray, wrong: list[str]) -> Iterator[str]:
    """Whether the service's memory was flat in the second half of some samples."""
    late = rows[rows[:, 0] >= (rows[0, 0] + rows[-1, 0]) / 2]
    early = float(np.median(late[:10, 2]))
    per_minute = 60 * slope(late[:, 0], late[:, 2]) / MB
    growth = float(late[:, 2].max()) / early
    busy = (rows[-1, 3] - rows[0, 3]) / (rows[-1, 0] - rows[0, 0])
    yield f"Memory of the service: {early / MB:.0f} MB at half time, at most {late[:, 2].max() / MB:.0f} MB afterwards;"
    yield f"slope of the second half (Theil–Sen) {per_minute:+.1f} MB/min. Flat means at most {SLOPE_LIMIT:g} MB/min,"
    yield f"and no more than {GROWTH_LIMIT:g} times what it was at half time. It used {100 * busy:.0f} % of a core."
    yield "Every 10 s, MB: " + ", ".join(f"{row[2] / MB:.0f}" for row in rows[::10]) + "."
    yield ""
    if per_minute > SLOPE_LIMIT or growth > GROWTH_LIMIT:
        wrong.append(f"memory is not flat: {per_minute:+.1f} MB/min, {growth:.2f} times")


def ratio(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> str:
    """Of medians."""
    return f"{np.median(one) / np.median(other):.1f}"


def alone(url: str, seconds: float) -> list[float]:
    """What one trainer's hot calls take, of a job of its own."""
    with SchedulerClient(url) as client:
        client.create_job(JobSpec(name="alone", samples=50_000, modalities=["a", "b"], batch_size=G, patience=0))
        client.steps("alone", StepsRequest(start=0))
    return hot_calls(url, seconds, ranks=1)


def hot_calls(url: str, seconds: float, ranks: int, *, bare: bool = False) -> list[float]:
    """What hot calls of a rank take, one after the other. bare: of the application that always gives step 0."""
    x = np.full((1, G // ranks), 0.5, dtype=np.float32)
    taken: list[float] = []
    with SchedulerClient(url) as client:
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            step = np.array([len(taken)])
            feedback = Feedback(step=step, similarity=x, loss=x, probability=np.stack([x, x, x], axis=2))
            start = 0 if bare else len(taken) + 1
            client.steps("alone", StepsRequest(world_size=ranks, start=start, feedback=feedback))
            taken.append(time.perf_counter() - started)
    return taken


def crowd(url: str, seconds: float) -> list[float]:
    """The same of the bare application by as many trainers as the load has, all at once."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        parts = pool.map(_part_of_crowd, [url] * PROCESSES, [seconds] * PROCESSES)
        return [taken for part in parts for taken in part]


def _part_of_crowd(url: str, seconds: float) -> list[float]:
    with ThreadPoolExecutor(JOBS * RANKS // PROCESSES) as pool:
        futures = [pool.submit(hot_calls, url, seconds, RANKS, bare=True) for _ in range(JOBS * RANKS // PROCESSES)]
        return [taken for future in futures for taken in future.result()]


if __name__ == "__main__":
    main()
