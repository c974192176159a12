"""Train on wrong labels with four policies over real HTTP, swap one while it trains, and write down what came of it.

python -m demo
"""

import argparse
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from bss_cli.terminal import Screen
from bss_service.testing import ServiceProcess, ServiceStartError
from demo.crew import Crew, Finished, RunFailedError, working
from demo.headline import beside_it, headline
from demo.page.report import write_report
from demo.plan import EPOCHS, POLICIES, SAMPLES, Run, compared_runs, swapped_run
from demo.progress import board
from demo.results import Announcement, DataFacts, Facts, Results, RunResult, write_results
from demo.summary import rows
from demo.swap import SwapError, prove, swap_mid_epoch
from demo.table import print_swap, print_tables
from trainer_client.errors import SchedulerError
from trainer_client.reference.data import Dataset, load

SEEDS: Final = 5
SWAP_EPOCHS: Final = 8
SWAP_TO: Final = "balance"


def arguments() -> argparse.ArgumentParser:
    """The command line; one line under each knob."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--seeds",
        type=int,
        default=SEEDS,
        help=f"runs of each policy on each state of the data (default: {SEEDS})",
    )
    epochs = ", ".join(f"{number} on {data}" for data, number in EPOCHS.items())
    add("--epochs", type=int, help=f"epochs of each compared run (default: {epochs})")
    add("--swap-epochs", type=int, default=SWAP_EPOCHS, help=f"epochs of the swapped run (default: {SWAP_EPOCHS})")
    add("--policies", nargs="+", default=list(POLICIES), metavar="POLICY", help="what to compare (default: all four)")
    add("--output", type=Path, help="folder for what is written (default: runs/demo-DATE-TIME)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when all went well and the swap was seamless, 1 if not, 130 when it was interrupted."""
    args = arguments().parse_args(argv)
    console = Screen()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, with everything stopped
    try:
        folder = _new_folder(args.output)
        results = _run(console, folder, args)
    except (ServiceStartError, RunFailedError, SwapError, SchedulerError, OSError, ValueError, ImportError) as error:
        console.print(f"[red]{type(error).__name__}:[/] {escape(str(error))}", markup=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the service and the trainers are stopped")
        return 130
    _publish(console, folder, results)
    return 0 if results.swap.agrees else 1


def _run(console: Console, folder: Path, args: argparse.Namespace) -> Results:
    """Service up, all runs, service down."""
    started = time.monotonic()
    load_before = os.getloadavg()[0]
    with console.status("loading the data sets (made on first use)"):
        datasets = {data: load(data) for data in SAMPLES}
    swapped = swapped_run(args.swap_epochs)
    runs = [swapped, *compared_runs(args.policies, args.seeds, args.epochs)]
    with ServiceProcess(folder, flags=["--log-format", "json"]) as service:
        console.print(f"service at {service.url}, its log and database in {folder}", highlight=False)
        with working(service.url, runs) as crew, ThreadPoolExecutor(1) as operators:
            operator = operators.submit(
                swap_mid_epoch, service.url, swapped.job, SWAP_TO, swapped.epochs // 2, crew.stop.is_set
            )
            done = _follow(console, crew, runs, operator)
    announced = operator.result()
    result = next(r for r in done if r.run == swapped)
    return Results(
        facts=_facts(datasets, time.monotonic() - started, load_before),
        runs=[r for r in done if r.run != swapped],
        swap=prove(announced, result),
        swapped=result,
    )


def _follow(console: Console, crew: Crew, runs: list[Run], operator: "Future[Announcement]") -> list[RunResult]:
    """Show what happens until all runs are done; their results in the order of the plan."""
    done: dict[str, RunResult] = {}
    swap_shown = False
    try:
        with board(console, runs) as shown:
            for event in crew.events():
                shown.show(event)
                if isinstance(event, Finished):
                    done[event.result.run.job] = event.result
                if operator.done() and not swap_shown:
                    swap_shown = True
                    swap = operator.result()
                    shown.say(
                        f"       swapped to {escape(swap.policy)} from outside: version {swap.policy_version} "
                        f"from step {swap.first_step} on"
                    )
    except BaseException:
        crew.stop.set()  # or the operator would look on for a job that nobody trains
        raise
    return [done[run.job] for run in runs]


def _publish(console: Console, folder: Path, results: Results) -> None:
    """Print the table, write the report and the raw results."""
    table = rows(results)
    console.print(f"\n[bold]{headline(table)}[/] {beside_it(table)}\n", highlight=False)
    print_tables(console, table, len(results.seeds))
    print_swap(console, results.swap)
    write_results(folder / "results.json", results, table)
    with console.status("drawing the report"):
        write_report(folder / "report.html", results, table, load)
    console.print(f"\n{results.facts.seconds:.0f} s. Report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def _new_folder(wanted: Path | None) -> Path:
    folder = wanted or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    return folder


def _facts(datasets: Mapping[str, Dataset], seconds: float, load_before: float) -> Facts:
    packages = ("bss-scheduler", "torch", "numpy", "fastapi", "uvicorn", "sqlalchemy", "matplotlib")
    return Facts(
        command=shlex.join(["python", "-m", "demo", *sys.argv[1:]]),
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        seconds=seconds,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=load_before,
        machine=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
        data={name: _data_facts(name, dataset) for name, dataset in datasets.items()},
    )


def _data_facts(name: str, dataset: Dataset) -> DataFacts:
    training = len(dataset.indices("train"))
    return DataFacts(
        training=min(training, SAMPLES[name] or training),
        validation=len(dataset.indices("validation")),
        test=len(dataset.indices("test")),
        classes=len(dataset.classes),
        licence=dataset.licence,
    )


if __name__ == "__main__":
    sys.exit(main())
