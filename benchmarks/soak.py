"""The service at a steady pace for an hour, stopped and killed now and then: what it costs, and that nothing is lost.

    make soak        (or: python -m benchmarks.soak --minutes 60 --write, which writes benchmarks/results/soak.md)

Four jobs of four ranks at the pace of a training loop, and one small job that comes to many epochs and decisions.
Exits with 1 if a check fails.
"""

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.crowd import traffic
from benchmarks.crowd.traffic import KINDS, ONE_RANK, PATIENCE, POLICIES, Findings, Phase, Workload
from benchmarks.watch import MB, Watch, errors, machine, quantiles_row, slope
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.testing import ServiceProcess

RESULT = Path(__file__).parent / "results" / "soak.md"
G = 256
PAUSE = 0.1  # seconds from step to step of each rank
SMALL = JobSpec(
    name="many-decisions",
    samples=2048,
    modalities=["audio", "video"],
    batch_size=G,
    policy=PolicySpec(name="bandit"),
    interval=4,
    patience=PATIENCE,
)
ROUND_SECONDS = 1800.0  # in which the service is stopped once and killed once
WINDOW_SECONDS = 300.0
OUTAGE_SECONDS = 120.0
SETTLED_SECONDS = 240.0  # of a process, until each job holds two epochs of plans; its memory is judged from then on
SLOPE_LIMIT = 3.0  # MB a minute; the decision log, which grows by design, has about one of them


@dataclass
class Restarts:
    """Stops and kills that happened, as (monotonic second, what, seconds until it listened again)."""

    done: list[tuple[float, str, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    lines: list[str] = []
    wrong: list[str] = []
    try:
        for line in report(60 * args.minutes, wrong):
            print(line, flush=True)
            lines.append(line)
    finally:  # also what there is of an hour that was interrupted
        if args.write:
            RESULT.write_text("\n".join(lines) + "\n")
    sys.exit(1 if wrong else 0)


def report(seconds: float, wrong: list[str]) -> Iterator[str]:
    """The lines of the result; what went wrong is added to `wrong`."""
    yield "# Soak"
    yield ""
    yield f"`python -m benchmarks.soak --minutes {seconds / 60:g} --write`: {len(trades())} jobs,"
    yield f"{sum(workload.ranks for workload in trades())} trainers, {1000 * PAUSE:g} ms a step; the small job has n ="
    yield f"{SMALL.samples:,}, intervals of {SMALL.interval} steps and {1000 * PAUSE / 2:g} ms a step; batches of {G};"
    yield f"{machine()}."
    yield ""
    with ServiceProcess() as service:
        watch = Watch(service)
        phases = [Phase("steady", seconds, PAUSE)]
        with traffic.Crew(service.url, trades(), phases, processes=2, outage=OUTAGE_SECONDS) as crew:
            begin = crew.begin()
            restarts = restart_now_and_then(service, begin, seconds)
            findings = crew.findings()
        rows = watch.stop()
        failed = [line.strip() for line in service.log if "request failed" in line or "patience ran out" in line]
    wrong += [*findings.wrong, *restarts.wrong, *(f"log: {line}" for line in failed)]
    yield from windows(findings, rows, begin, seconds)
    yield ""
    yield from summary(findings, restarts, rows, begin, seconds, wrong)
    yield ""
    yield from errors(wrong)


def trades() -> list[Workload]:
    """The jobs."""
    made = [Workload(SMALL, "any", ranks=1, pace=0.5, repeat=0.01)]
    for k, samples in enumerate((50_000, 50_000, 100_000, 200_000)):
        coverage = "epoch" if k % 2 else "any"
        policy, parameters = POLICIES[coverage][1 + k // 2]
        spec = SMALL.model_copy(
            update={
                "name": f"soak-{k}",
                "samples": samples,
                "seed": k,
                "policy": PolicySpec(name=policy, parameters=parameters),
                "interval": None if k < 3 else 100,
            }
        )
        made.append(Workload(spec, coverage, count=4 if k == 2 else 1, json_ranks=(3,) if k == 1 else (), swap_every=3))
    return made


def restart_now_and_then(service: ServiceProcess, begin: float, seconds: float) -> Restarts:
    """Stop the service at a third of each round and kill it at two thirds, and start it again at once."""
    restarts = Restarts()
    length = min(ROUND_SECONDS, seconds)
    moments = [
        (begin + length * (k + part), act)
        for k in range(int(seconds // length))
        for part, act in ((1 / 3, "SIGTERM"), (2 / 3, "kill -9"))
    ]
    for moment, act in moments:
        threading.Event().wait(max(0.0, moment - time.monotonic()))
        started = time.monotonic()
        try:
            if act == "SIGTERM":
                status = service.stop()
                if status != 0:
                    restarts.wrong.append(f"after SIGTERM the service ended with status {status}")
            else:
                service.kill()
            service.start()
        except Exception as error:
            restarts.wrong.append(f"{act}: the service did not come back: {type(error).__name__}: {error}")
            break
        restarts.done.append((started, act, time.monotonic() - started))
    return restarts


def windows(findings: Findings, rows: np.ndarray, begin: float, seconds: float) -> Iterator[str]:
    """A line for each five minutes, or for each third of a run that is shorter."""
    yield "| minute | hot calls | p50 ms | p99 ms | plans of the small job | p50 ms | p99 ms | decisions | service MB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    length = min(WINDOW_SECONDS, seconds / 3)
    decisions = 0
    for k in range(round(seconds / length)):
        start, stop = begin + k * length, begin + (k + 1) * length
        calls = findings.during(start if k else 0.0, stop)
        hot, first = (calls[calls[:, 0] == KINDS.index(kind), 2] for kind in ("hot call", ONE_RANK))
        decisions += len(first)
        memory = rows[(rows[:, 0] >= start) & (rows[:, 0] < stop), 2]
        held = f"{np.median(memory) / MB:.0f}" if len(memory) else ""
        yield f"| {(stop - begin) / 60:.3g} | {quantiles_row(hot)} | {quantiles_row(first)} | {decisions:,} | {held} |"


def summary(
    findings: Findings, restarts: Restarts, rows: np.ndarray, begin: float, seconds: float, wrong: list[str]
) -> Iterator[str]:
    """What was done, and what it cost."""
    back = [taken for _, _, taken in restarts.done]
    acts = [act for _, act, _ in restarts.done]
    yield f"{findings.steps:,} batches, {findings.applied:,} times feedback applied, {findings.repeated:,} repetitions"
    yield f"told as such, {findings.epochs} epochs finished and whole;"
    yield f"{acts.count('SIGTERM')} stops and {acts.count('kill -9')} kills,"
    yield f"listening again after at most {max(back, default=0.0):.1f} s, {findings.outages} calls made again."
    if len(rows) < 2 or not findings.steps:
        wrong.append("nothing was measured")
        return
    grown = rows[-1, 4] - rows[0, 4]
    yield f"The store grew by {grown / MB:.0f} MB: {grown / MB / findings.steps * 1e6:,.0f} MB for 10⁶ batches of {G},"
    yield f"{grown / findings.steps / G:.0f} bytes for each sample drawn."
    used = sum(of[-1, 3] for of in processes(rows))
    yield f"The service used {100 * used / (rows[-1, 0] - rows[0, 0]):.0f} % of a core."
    slopes = [60 * slope(of[:, 0], of[:, 2]) / MB for of in settled(rows)]
    told_slopes = ", ".join(f"{s:+.1f}" for s in slopes) or "none was old enough"
    yield f"Slope of its memory (Theil–Sen, MB/min, each process from its fifth minute on): {told_slopes};"
    yield f"the median may be at most {SLOPE_LIMIT:g}. Most: {rows[:, 2].max() / MB:.0f} MB."
    if slopes and np.median(slopes) > SLOPE_LIMIT:
        wrong.append(f"memory grows: {np.median(slopes):+.1f} MB/min")


def processes(rows: np.ndarray) -> list[np.ndarray]:
    """The samples of each process of the service."""
    return [rows[rows[:, 1] == pid] for pid in dict.fromkeys(rows[:, 1])]


def settled(rows: np.ndarray) -> list[np.ndarray]:
    """The same without the first minutes of each, of those that lived at least twice as long."""
    lives = [of for of in processes(rows) if of[-1, 0] - of[0, 0] >= 2 * SETTLED_SECONDS]
    return [of[of[:, 0] >= of[0, 0] + SETTLED_SECONDS] for of in lives]


if __name__ == "__main__":
    main()
