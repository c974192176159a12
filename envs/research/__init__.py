"""The commands `bss research …`: policies are trained, judged, exported and compared offline."""

import typer

from envs.research.dataset import dataset
from envs.research.ope import ope

app = typer.Typer(no_args_is_help=True, help="Train, judge and export scheduling policies offline.")

# Their modules import what takes long only when a command runs, so that `bss --help` stays fast.
app.command()(dataset)
app.command()(ope)
