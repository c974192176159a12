"""The program `bss` put together: its commands, one module for each noun."""

from importlib.metadata import version
from typing import Annotated

import typer

from bss_cli import tokens
from bss_cli.comparing import compare, control
from bss_cli.following.tracking import track
from bss_cli.following.watching import watch
from bss_cli.jobs import decisions, delete, export, import_, jobs, samples, show, suspects
from bss_cli.policies import end_shadow, policies, swap, upload
from bss_cli.research import app as research
from bss_cli.research.bench import app as bench
from bss_cli.research.data import app as data
from bss_cli.serving import backup, serve

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="A service with a token is asked with BSS_TOKEN in the environment.",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bss {version('bss-scheduler')}")
        raise typer.Exit


@app.callback()
def _bss(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serves samples to multi-modal training jobs, shows the jobs, and swaps their policies."""


OF_JOBS = (jobs, show, compare, control, decisions, samples, suspects, watch, track, export, delete)
for command in (serve, backup, *OF_JOBS, swap, end_shadow, policies, upload):
    app.command()(command)
app.command("import")(import_)
app.add_typer(tokens.app, name="token")
app.add_typer(research, name="research")
app.add_typer(data, name="data")
app.add_typer(bench, name="bench")
