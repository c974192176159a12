"""The commands `bss data …`: which data sets can be read, and whether a folder with one is complete."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from bss_cli.research import NamingExtras
from bss_cli.terminal import FAILED, MISUSED, AsJson, fail, say, screen
from bss_service.protocol.text import printable_json
from trainer_client.reference.datasets import SETS, Index, read_set
from trainer_client.reference.datasets.reading import deviations, sentences


class _Data(NamingExtras):
    commands_of = "bss data"
    extras = "service,trainer,data"


app = typer.Typer(
    cls=_Data, no_args_is_help=True, help="Public data sets: which there are, and whether yours is whole."
)


@app.command("list")
def show() -> None:
    """List the data sets, with the samples that were published of each."""
    table = Table()
    table.add_column("set", no_wrap=True)
    for heading in ("what", "train", "validation", "test"):
        table.add_column(heading)
    for name, source in SETS.items():
        first = source.published[0]
        table.add_row(
            name,
            source.title.partition(": ")[2],
            *(f"{count:,}" if count else "–" for count in (first.train, first.validation, first.test)),
        )
    screen().print(table)


@app.command()
def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder.", show_default=False)],
    set_name: Annotated[str, typer.Option("--set", metavar="NAME", help="Which of them: bss data list.")],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Which of the set's splits.")] = "official",
    quick: Annotated[bool, typer.Option("--quick", help="Look for files, but don't read them to their end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether a folder is complete, and if not, which files are missing, broken or listed twice.

    Every file is read to its end. Exit code 0: complete; 1: not, or other counts than were published.
    """
    if set_name not in SETS:
        fail(f"--set must be one of {', '.join(SETS)}, got {set_name!r}", MISUSED)
    try:
        index = read_set(root, set_name, split=split, leave_out=True)
    except (OSError, ValueError) as error:
        fail(str(error))
    if not quick:
        index = _verified(index)
    others = deviations(index, SETS[set_name])
    if as_json:
        typer.echo(printable_json(json.dumps(_told(index, others))))
    else:
        for sentence in sentences(index, SETS[set_name]):
            say(sentence)
    if others or not index.report.whole:
        raise typer.Exit(FAILED)


def _verified(index: Index) -> Index:
    from trainer_client.reference.datasets.check import verify

    with Progress(console=screen(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=len(index.samples))
        return verify(index, lambda done: progress.update(task, completed=done))


def _told(index: Index, others: list[str]) -> dict[str, Any]:
    return {
        "set": index.name,
        "layout": index.layout,
        "classes": len(index.classes),
        "samples": index.counts(),
        "modalities": index.modalities,
        **asdict(index.report),
        "counts": others,
        "complete": index.report.whole and not others,
    }
