"""What the page costs: a job of a million samples and 100,000 decisions, opened in Chromium and watched in training.

    python -m tools.page_cost        (--write writes benchmarks/results/page.md)

Prints the weight of the page's files, how long the job's first view takes to show its first plot and to show all, how
long each of its calls takes at first and again, and the hot call with nobody watching, with a page open, and with three
times what a page asks for; in turns.
"""

import argparse
import gzip
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import httpx
import numpy as np

from benchmarks.watch import machine
from bss_service.http.browser.page import page_files
from bss_service.job.events import PlanDrawn, StepsServed
from bss_service.job.job import Job, new_incarnation
from bss_service.job.snapshot import take_snapshot
from bss_service.journal.store import Store
from bss_service.journal.transaction import Transaction, parts_of
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import Feedback, StepsRequest
from bss_service.protocol.validation import ModalityReport, ValidationReport
from bss_service.testing import ServiceProcess
from tests.support.pages import started_browser, visit
from trainer_client.client import SchedulerClient

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "page.md"
SAMPLES = 1_000_000
DECISIONS = 100_000
REPORTS = 10_000
G = 64  # so that all of it lies within one epoch
ROUNDS = 200  # hot calls in each turn
TURNS = 3
WATCHERS = {  # seconds from look to look
    3600.0: "nobody watches",
    3.0: "a job's view is open, which looks every three seconds",
    1.0: "three views are open",
}
CALLS = (
    *("", "/series?of=validation", "/series?of=decisions", "/series?of=pace", "/density", "/histograms"),
    *("/decisions?start=0&count=20", "/samples?order=loss&limit=25"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    lines = []
    for line in report():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        lines.append(line)
    if args.write:
        RESULT.write_text("\n".join(lines) + "\n")


def report() -> Iterator[str]:
    """The lines of the result."""
    weight = sum(len(gzip.compress(file.body)) for file in page_files().values())
    plain = sum(len(file.body) for file in page_files().values())
    yield "# The page"
    yield ""
    yield f"`python -m tools.page_cost --write`: {SAMPLES:,} samples, {DECISIONS:,} decisions, {REPORTS:,} reports;"
    yield f"{machine()}."
    yield ""
    yield f"All files of the page: {weight / 1000:.0f} KB compressed, {plain / 1000:.0f} KB as they are served."
    yield ""
    with TemporaryDirectory() as folder:
        store(Path(folder) / "bss.sqlite")
        yield from of_service(Path(folder))


def store(path: Path) -> None:
    """A store with the job in it, which has more decisions than a snapshot over HTTP may have."""
    job = old_job()
    made = Store(f"sqlite:///{path}")
    transaction = Transaction("large", created=job.spec, incarnation=job.incarnation, plans=list(job.plans))
    transaction.snapshot = list(parts_of(0, take_snapshot(job).to_frame()))
    made.commit(transaction).result()
    made.close()


def of_service(folder: Path) -> Iterator[str]:
    """What calls, the page and the hot call take on it."""
    with ServiceProcess(folder) as service:
        with httpx.Client(base_url=f"{service.url}/v1/jobs/", timeout=600) as http:
            yield f"After a start the first request of a job loads it: {timed(http, '')[0] / 1000:.1f} s for this one."
            yield ""
            yield "| call | first, ms | again, ms | bytes |"
            yield "|---|---|---|---|"
            for call in CALLS:
                first, size = timed(http, call)
                again = np.median([timed(http, call)[0] for _ in range(5)])
                yield f"| `GET …{call}` | {first:.0f} | {again:.1f} | {size:,} |"
        yield ""
        with started_browser() as browser, visit(browser, service.url) as seen:
            seen.open()
            seen.page.get_by_role("link", name="large").wait_for()
            for opened in ("first", "second"):
                started = time.monotonic()
                if opened == "first":
                    seen.page.get_by_role("link", name="large").click()
                else:
                    seen.page.reload()
                seen.page.locator(".uplot").first.wait_for()
                plot = time.monotonic() - started
                seen.page.get_by_text("As the plan before step").wait_for()
                whole = time.monotonic() - started
                how = "from the list of jobs" if opened == "first" else "by a reload"
                yield f"Opened {how}: first plot after {plot:.2f} s, all after {whole:.2f} s."
            yield ""
        yield from hot_calls(service.url)


def timed(http: httpx.Client, call: str) -> tuple[float, int]:
    """Milliseconds that a call takes, and the bytes of its answer."""
    started = time.perf_counter()
    answer = http.get(f"large{call}").raise_for_status()
    return 1000 * (time.perf_counter() - started), len(answer.content)


def old_job() -> Job:
    """A job that has run for long, made of one decision and one report told over and over."""
    job = Job(JobSpec(name="large", samples=SAMPLES, modalities=["audio", "video"], batch_size=G))
    job.incarnation = new_incarnation()
    PlanDrawn().apply(job)
    StepsServed(REPORTS + 1).apply(job)
    rng = np.random.default_rng(0)
    everything = np.arange(SAMPLES)
    values = rng.uniform(0, 1, size=(SAMPLES, job.signals.width)).astype(np.float32)
    job.table.measure(everything, np.zeros(SAMPLES, dtype=np.int64), values)
    job.table.times_measured[:] = rng.poisson(20, SAMPLES)
    (decision,) = job.history.decisions
    rewards = rng.normal(0, 0.3, DECISIONS).clip(-1, 1)
    job.history.decisions = [
        decision.model_copy(update={"first_step": 0, "end_step": 0, "reward": float(reward), "rewarded_at": 0})
        for reward in rewards[1:]
    ] + [decision]
    for step in range(REPORTS):
        accuracy = 0.9 * (1 - np.exp(-step / 2000)) + rng.normal(0, 0.005)
        head = ModalityReport(accuracy=float(np.clip(accuracy, 0, 1)), probability=0.5)
        told = ValidationReport(step=step, loss=1.0, accuracy=head.accuracy, modalities={"audio": head, "video": head})
        job.history.reports.append(told)
    return job


def hot_calls(url: str) -> Iterator[str]:
    """Hot calls on the same job in turns: alone, and watched."""
    seconds: dict[float, list[float]] = {every: [] for every in WATCHERS}
    step = REPORTS + 1
    with SchedulerClient(url) as client:
        for every in list(WATCHERS) * TURNS:
            stop = Event()
            watcher = Thread(target=watch, args=(url, stop, every))
            watcher.start()
            for k in range(ROUNDS):
                batches = client.steps("large", StepsRequest(start=step, count=1)).batches
                x = np.linspace(0, 1, G, dtype=np.float32)[None]
                fed = Feedback(step=np.array([step]), similarity=x, loss=1 - x, probability=np.stack([x] * 3, axis=2))
                started = time.perf_counter()
                client.steps("large", StepsRequest(start=step + 1, count=1, feedback=fed))
                seconds[every].append(time.perf_counter() - started)
                step += len(batches.indices)
                if k == 0:  # so that there is something new to see
                    client.validation("large", told_at(step))
            stop.set()
            watcher.join()
    yield "| hot call | p50 ms | p90 ms | p99 ms |"
    yield "|---|---|---|---|"
    for every, name in WATCHERS.items():
        p50, p90, p99 = 1000 * np.quantile(seconds[every], [0.5, 0.9, 0.99])
        yield f"| {name} | {p50:.1f} | {p90:.1f} | {p99:.1f} |"


def told_at(step: int) -> ValidationReport:
    head = ModalityReport(accuracy=0.5, probability=0.5)
    return ValidationReport(step=step, loss=1.0, accuracy=0.5, modalities={"audio": head, "video": head})


def watch(url: str, stop: Event, every: float) -> None:
    """Ask for what the view of a job asks for, so often."""
    tags: dict[str, str] = {}
    with httpx.Client(base_url=f"{url}/v1/jobs/", timeout=60) as http:
        while not stop.wait(every):
            for call in CALLS[:-1]:
                answer = http.get(f"large{call}", headers={"if-none-match": tags[call]} if call in tags else {})
                if "etag" in answer.headers:
                    tags[call] = answer.headers["etag"]


if __name__ == "__main__":
    main()
