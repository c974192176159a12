"""How long a service that was killed takes until it serves again, and whether it serves the same.

    python -m benchmarks.restart --write
    python -m benchmarks.restart --growth 20000 100000 1000000

A real service on a fresh SQLite file, a job of a million samples, feedback for every step; then `kill -9`, a start on
the same file, and one trainer that asks again for the batch that it got last. Measured from the start of the process.

With --growth, what a small job costs after so many steps, in short intervals and with `keep_epochs`: CPU time within
this process, so that what else the machine does counts little, and ratios to the first row.
"""

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil

from benchmarks.watch import store_bytes
from bss_service.host import Host
from bss_service.job.snapshot import Snapshot, frozen, snapshot_of, unpacked
from bss_service.journal.store import Store
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Feedback, FeedbackRequest, StepsRequest
from bss_service.protocol.validation import ModalityReport, ValidationReport
from bss_service.telemetry.metrics import Metrics
from bss_service.testing import ServiceProcess
from trainer_client.client import SchedulerClient

G: Final = 256
COUNT: Final = 16  # steps a call
RESULTS: Final = Path(__file__).parent / "results" / "restart.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="n")
    parser.add_argument("--restarts", type=int, default=5, help="of each job")
    parser.add_argument("--growth", type=int, nargs="+", metavar="STEPS", help="costs after so many steps, instead")
    parser.add_argument("--brief", action="store_true", help="only the job that is killed right behind a plan")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    if args.growth:
        asyncio.run(growth(sorted(args.growth)))
        return
    epoch = args.samples // G
    trained = (epoch + COUNT,) if args.brief else (300, epoch + COUNT, epoch + 1000)
    rows = [measure(args.samples, steps, args.restarts) for steps in trained]
    text = table(args.samples, rows)
    print(text)
    if args.write:
        RESULTS.write_text(text)


def start(service: ServiceProcess) -> float:
    """Start a service that was killed; seconds until /readyz answers."""
    began = time.perf_counter()
    service.start()
    while httpx.get(f"{service.url}/readyz").status_code != 200:
        time.sleep(0.005)
    return time.perf_counter() - began


def seconds_of_imports() -> float:
    """What a service can't start without: the nearest that a restart can come to."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import fastapi, uvicorn, sqlalchemy, numpy, pydantic"], check=True)
    return time.perf_counter() - began


def measure(samples: int, steps: int, restarts: int) -> dict[str, Any]:
    """Train, then kill and start again a few times."""
    spec = JobSpec(
        name="run", samples=samples, modalities=["a", "b"], batch_size=G, policy=PolicySpec(name="balance"), patience=5
    )
    ready, served, imports = [], [], []
    with ServiceProcess() as service:
        with SchedulerClient(service.url) as client:
            client.create_job(spec)
            last, batch, slowest = train(client, spec, steps)
        for _ in range(restarts):
            service.kill()
            imports.append(seconds_of_imports())
            began = time.perf_counter()
            ready.append(start(service))
            with SchedulerClient(service.url) as client:
                again = client.steps("run", StepsRequest(start=last)).batches.indices[0]
            served.append(time.perf_counter() - began)
            assert (again == batch).all(), "another batch than before"
        service.kill()
        size = store_bytes(service)
    return {"steps": last + 1, "ready": ready, "served": served, "imports": imports, "size": size, "slowest": slowest}


def train(client: SchedulerClient, spec: JobSpec, steps: int) -> tuple[int, np.ndarray, list[float]]:
    """The last step, its batch, and the milliseconds of each call that planned nothing."""
    x = np.random.default_rng(0).random((COUNT, G), dtype=np.float32)
    calendar = spec.calendar()
    step, feedback, times = 0, None, []
    while True:
        started = time.perf_counter()
        batches = client.steps("run", StepsRequest(start=step, count=COUNT, feedback=feedback)).batches
        done = len(batches.indices)
        if step != calendar.interval_bounds(step)[0]:
            times.append(1000 * (time.perf_counter() - started))
        values = {"similarity": x[:done], "loss": x[:done], "probability": np.stack([x[:done]] * 3, axis=2)}
        feedback = Feedback(step=np.arange(step, step + done), **values)
        step += done
        if step >= steps:
            return step - 1, batches.indices[-1], times
        if step == calendar.interval_bounds(step)[0]:
            heads = {name: ModalityReport(accuracy=0.5, probability=0.5) for name in ("a", "b")}
            client.validation("run", ValidationReport(step=step, loss=1.0, accuracy=0.5, modalities=heads))


def table(samples: int, rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "# Restart after `kill -9`",
        "",
        "`python -m benchmarks.restart --write`: seconds from the start of the process on, beside those of a Python",
        "that imports FastAPI, uvicorn, SQLAlchemy, NumPy and pydantic alone, and the ratio of the medians; least,",
        "median and most of some restarts. Each time the batch that was handed out last was asked for again, and was",
        f"the same. n = {samples:,}, batch {G}, two modalities, policy `balance`, feedback for every step;",
        f"{os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
        "| steps trained | / imports | /readyz answers | that batch is there | imports alone | files "
        "| a call of 16 steps, p50 / p99 / most |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        p50, p99, most = np.quantile(row["slowest"], [0.5, 0.99, 1])
        lines.append(
            f"| {row['steps']:,} | {np.median(row['served']) / np.median(row['imports']):.2f} "
            f"| {spread(row['ready'])} | {spread(row['served'])} "
            f"| {spread(row['imports'])} | {row['size'] / 2**20:.0f} MiB "
            f"| {p50:.1f} / {p99:.1f} / {most:.1f} ms |"
        )
    return "\n".join(lines) + "\n"


SMALL: Final = JobSpec(
    name="run", samples=1600, modalities=["a", "b"], batch_size=16, interval=50, policy="balance", keep_epochs=3
)
REPORTED: Final = 1000  # steps between two validations
LATEST: Final = 20  # intervals that a figure is the mean of


async def growth(steps: Sequence[int]) -> None:
    """Train on and on, and print what an interval, a snapshot and a restart cost after so many steps."""
    print("| steps | an interval | a snapshot | loading it | its size | memory | store | a restart with its replay |")
    print("|---|---|---|---|---|---|---|---|")
    first: list[float] = []
    feedback: Feedback | None = None
    with tempfile.TemporaryDirectory() as folder:
        file, step = Path(folder) / "bss.sqlite", 0
        store, host = await reopened(file)
        await host.create(SMALL)
        for stop in steps:
            spent = 0.0
            while step < stop:
                began = time.process_time()
                if step == stop - LATEST * SMALL.interval:
                    spent = began
                feedback = await interval(host, step, feedback)
                step += SMALL.interval
            figures = [1000 * (time.process_time() - spent) / LATEST]
            async with host._jobs.open(SMALL.name) as live:
                began = time.process_time()
                frame = snapshot_of(frozen(live.job)).to_frame()
                figures.append(1000 * (time.process_time() - began))
            began = time.process_time()
            unpacked(Snapshot.from_frame(frame), {})
            figures += [1000 * (time.process_time() - began), len(frame) / 2**10]
            await host.close()
            store.close()
            began = time.process_time()
            store, host = await reopened(file)
            await host.state(SMALL.name)
            restart = 1000 * (time.process_time() - began)
            figures += [psutil.Process().memory_info().rss / 2**20, file.stat().st_size / 2**20]
            first = first or figures
            units = ("ms", "ms", "ms", "KiB", "MiB", "MiB")
            cells = [f"{f:.1f} {unit} ({f / one:.2f} ×)" for f, one, unit in zip(figures, first, units, strict=True)]
            print(f"| {step:,} | {' | '.join(cells)} | {restart:.0f} ms |", flush=True)
        await host.close()
        store.close()


async def reopened(file: Path) -> tuple[Store, Host]:
    """A service over a file, as after a restart."""
    store = Store(f"sqlite:///{file}")
    return store, Host(store, Metrics(), 10**6)


async def interval(host: Host, step: int, feedback: Feedback | None) -> Feedback:
    """The feedback of the interval that begins at a step, once that of the one before is told; a report at times."""
    if step % REPORTED == 0:
        heads = {name: ModalityReport(accuracy=0.5, probability=0.5) for name in SMALL.modalities}
        if feedback is not None:
            await host.feedback(SMALL.name, FeedbackRequest(feedback=feedback))
            feedback = None
        await host.validate(
            SMALL.name, ValidationReport(step=step, loss=1 / (1 + step), accuracy=0.5, modalities=heads)
        )
    request = StepsRequest(start=step, count=SMALL.interval, feedback=feedback)
    rows = (await host.steps(SMALL.name, request)).batches.indices
    x = (rows % 97 / 97).astype(np.float32)
    return Feedback(step=np.arange(step, step + len(rows)), similarity=x, loss=x, probability=np.stack([x] * 3, axis=2))


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} / {np.median(values):.2f} / {max(values):.2f} s"


if __name__ == "__main__":
    main()
