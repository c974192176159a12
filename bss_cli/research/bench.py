"""`bss bench run`: training methods on equal terms, over tasks and paired seeds."""

from pathlib import Path
from typing import Annotated

import typer

from bss_cli.research import NamingExtras
from bss_cli.research.computing import Address, Kind, Where, Workers, executor
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
        typer.Argument(
            metavar="SUITE", help="A .toml or .json file, or a shipped one: small, all, paper.", show_default=False
        ),
    ],
    out: Annotated[
        str | None, typer.Option(help="Folder, or URL, for the runs and the report. Default: suites/NAME.")
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Folder that the suite's .npz files lie in, and the folders of its public sets.")
    ] = Path(),
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of its tasks only this one; may be given again.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of its methods only this one, and the baseline; may be given again."),
    ] = None,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Go on without samples of public sets whose files are missing.")
    ] = False,
    workers: Workers = None,
    where: Where = Kind.PROCESSES,
    address: Address = None,
) -> None:
    """Run a suite: tune each method alike, train on paired seeds, choose by validation, test once, and report.

    Each run is kept in the folder, so that the command goes on where it was
    interrupted. report.md begins with the result; runs.jsonl has every run.
    Public sets lie in folders of their names below --data; those that don't
    are named and left out, and one that is not whole is refused.
    """
    from envs.research.executor import ExecutorError
    from envs.research.files import Results, Storage
    from envs.research.suite import public
    from envs.research.suite.costs import stated
    from envs.research.suite.report import REPORT, write_report
    from envs.research.suite.running import play
    from envs.research.suite.spec import read_suite

    name = Path(suite).stem
    folder = (out or f"suites/{name}").rstrip("/")
    try:
        whole = read_suite(suite, data).only(task or (), method or ())
        read, missing = public.found(whole, data, leave_out=leave_out)
        written, kept = Storage(folder), Results(Storage(f"{folder}/runs"))
        computing = executor(where, workers, address, gpus=any(each.public for each in read.tasks.values()))
    except (ValueError, OSError, ImportError) as error:
        fail(str(error), MISUSED)
    progress = Progress()
    for line in (*stated(read), *(f"not below {data}, so left out: {each}" for each in missing)):
        typer.echo(line, err=True)
    try:
        public.check(read, Results(Storage(f"{folder}/checks")), progress.say)
    except (ValueError, OSError, ImportError) as error:
        progress.clear()
        fail(str(error))
    try:
        with computing as made:
            played = play(read, kept, made, progress.say)
    except (ValueError, OSError, ImportError, ExecutorError) as error:
        progress.clear()
        fail(f"{error}; the same command goes on")
    progress.clear()
    say(write_report(played, written, name, [*public.notes(read, missing)]))
    say(f"{folder}/{REPORT}")
