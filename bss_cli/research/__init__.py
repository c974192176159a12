"""The commands `bss research …`: policies are trained, judged, exported and compared offline; and `bss data …`.

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


class NamingExtras(TyperGroup):
    """Where a package is missing that a command imports, it says which extras have it."""

    commands_of = "bss research"
    extras = "service,trainer,research"

    def invoke(self, ctx: Any) -> Any:  # typer's context may be click's, or typer's own
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            extras = f"pip install 'bss-scheduler[{self.extras}]'"
            package = (missing.name or "").partition(".")[0]
            fail(f"{package} is not installed; what {self.commands_of} needs comes with {extras}")


app = typer.Typer(cls=NamingExtras, no_args_is_help=True, help="Train, judge and export scheduling policies offline.")

app.add_typer(train, name="train")
for command in (evaluate, export, dataset, ope):
    app.command()(command)
