"""`bss bench run`: training methods on equal terms, over tasks and paired seeds."""

from pathlib import Path
from typing import Annotated

import typer

from bss_cli.research import NamingExtras
from bss_cli.research.progress import Progress
from bss_cli.terminal import MISUSED, fail, say


class _Bench(NamingExtras):
    commands_of = "bss bench"
    extras = "service,trainer,research"


app = typer.Typer(cls=_Bench, no_args_is_help=True, help="Training methods on equal terms: rivals and policies.")


@app.callback()
def _bench() -> None:
    """Keeps `run` a command with a name."""


@app.command()
def run(
    suite: Annotated[
        str,
        typer.Argument(metavar="SUITE", help="A .toml or .json file, or a shipped name: small.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the runs and the report. Default: suites/NAME.", show_default=False)
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder that the suite's .npz files lie in.")] = Path(),
    workers: Annotated[int, typer.Option(min=1, help="Processes; results don't depend on it.")] = 2,
) -> None:
    """Run a suite: tune each method alike, train on paired seeds, choose by validation, test once, and report.

    Each run is kept in the folder, so that the command goes on where it was
    interrupted. report.md begins with the result; runs.jsonl has every run.
    """
    from envs.research.executor import ExecutorError, processes
    from envs.research.suite.report import REPORT, write_report
    from envs.research.suite.running import play
    from envs.research.suite.spec import read_suite

    name = Path(suite).stem
    folder = out or Path("suites") / name
    try:
        read = read_suite(suite, data)
    except (ValueError, OSError) as error:
        fail(str(error), MISUSED)
    progress = Progress()
    try:
        with processes(workers) as executor:
            played = play(read, folder / "runs", executor, progress.say)
    except (ValueError, OSError, ExecutorError) as error:
        progress.clear()
        fail(str(error))
    progress.clear()
    say(write_report(played, folder, name))
    say(f"{folder / REPORT}")
