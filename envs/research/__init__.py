"""The commands `bss research …`: policies are trained, judged, exported and compared offline."""

import typer

app = typer.Typer(no_args_is_help=True, help="Train, judge and export scheduling policies offline.")
