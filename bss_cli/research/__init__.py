"""The commands `bss research …`: policies are trained, judged, exported and compared offline.

Their modules import what takes long only when a command runs, so that `bss --help` stays fast.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from bss_cli.research.dataset import dataset
from bss_cli.research.evaluate import evaluate
from bss_cli.research.export import export
from bss_cli.research.ope import ope
from bss_cli.research.train import app as train
from bss_cli.terminal import fail


class _Research(TyperGroup):
    """Where a package is missing that a command imports, it says which extras have it."""

    def invoke(self, ctx: Any) -> Any:  # typer's context may be click's, or typer's own
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            extras = "pip install 'bss-scheduler[service,trainer,research]'"
            package = (missing.name or "").partition(".")[0]
            fail(f"{package} is not installed; what bss research needs comes with {extras}")


app = typer.Typer(cls=_Research, no_args_is_help=True, help="Train, judge and export scheduling policies offline.")

app.add_typer(train, name="train")
for command in (evaluate, export, dataset, ope):
    app.command()(command)
