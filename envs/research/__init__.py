"""The commands `bss research …`: policies are trained, judged, exported and compared offline."""

import typer

from envs.research.dataset import dataset
from envs.research.evaluate import evaluate
from envs.research.export import export
from envs.research.ope import ope
from envs.research.train import train

app = typer.Typer(no_args_is_help=True, help="Train, judge and export scheduling policies offline.")

# Their modules import what takes long only when a command runs, so that `bss --help` stays fast.
for command in (train, evaluate, export, dataset, ope):
    app.command()(command)
