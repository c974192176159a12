"""The program `bss` put together: its commands, one module for each noun."""

import typer

from bss_cli import tokens
from bss_cli.jobs import jobs, show
from bss_cli.policies import end_shadow, policies, swap, upload
from bss_cli.research import app as research
from bss_cli.serving import serve
from bss_cli.watching import watch

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serves samples to multi-modal training jobs, shows the jobs, and swaps their policies.",
    epilog="A service with a token is asked with BSS_TOKEN in the environment.",
)

for command in (serve, jobs, show, swap, end_shadow, policies, upload, watch):
    app.command()(command)
app.add_typer(tokens.app, name="token")
app.add_typer(research, name="research")
