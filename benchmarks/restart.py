"""How long a service that was killed takes until it serves again, and whether it serves the same.

    python -m benchmarks.restart --write

A real service on a fresh SQLite file, a job of a million samples, feedback for every step; then `kill -9`, a start on
the same file, and one trainer that asks again for the batch that it got last. Measured from the start of the process.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.watch import store_bytes
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Feedback, StepsRequest
from bss_service.protocol.validation import ModalityReport, ValidationReport
from bss_service.testing import ServiceProcess
from trainer_client.client import SchedulerClient

G: Final = 256
COUNT: Final = 16  # steps a call
RESULTS: Final = Path(__file__).parent / "results" / "restart.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="n")
    parser.add_argument("--restarts", type=int, default=5, help="of each job")
    parser.add_argument("--brief", action="store_true", help="only the job that is killed right behind a plan")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
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


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} / {np.median(values):.2f} / {max(values):.2f} s"


if __name__ == "__main__":
    main()
