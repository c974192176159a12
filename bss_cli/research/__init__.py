"""The commands `bss research …`: policies are trained, judged, exported and compared offline.

Their modules import what takes long only when a command runs, so that `bss --help` stays fast.
"""

import typer

from bss_cli.research.dataset import dataset
from bss_cli.research.evaluate import evaluate
from bss_cli.research.export import export
from bss_cli.research.ope import ope
from bss_cli.research.train import train

app = typer.Typer(no_args_is_help=True, help="Train, judge and export scheduling policies offline.")

for command in (train, evaluate, export, dataset, ope):
    app.command()(command)
