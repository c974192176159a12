"""The demo's table for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.plan import Condition
from demo.results import TOP, SwapProof
from demo.summary import Measure, Row, with_interval

_COLOUR = {"better": "green", "worse": "red", "can't tell": "dim"}
_COLUMNS = ("test", "gain", "last epoch", "gain", "found", "left out", "s")


def print_tables(console: Console, rows: Sequence[Row], seeds: int) -> None:
    """One table a data set and state of its labels, and what the columns mean."""
    for condition in dict.fromkeys(row.condition for row in rows):
        console.print(_table(condition, [row for row in rows if row.condition == condition]))
    console.print(
        f"[dim]Test: accuracy in % of the best validation epoch; last epoch: on validation. Mean ± 95 % interval "
        f"(Student t) over {seeds} seeds. Gain: over uniform, in points, paired by seed; green or red where its "
        f"interval excludes 0. Found: wrong labels among the {TOP} least likely right. Left out: % of the samples, in "
        "the last epoch. s: seconds of a run.[/]"
    )


def print_swap(console: Console, proof: SwapProof) -> None:
    """The swap as announced and as seen by the trainer, and whether they agree."""
    swap = proof.announced
    verdict = "[green]they agree[/]" if proof.agrees else "[red]THEY DISAGREE[/]"
    place = "in the middle of" if proof.in_the_middle else "at the start of"
    console.print(
        f"Swap while training: the service announced [bold]version {swap.policy_version} ({escape(swap.policy)}) from "
        f"step {swap.first_step}[/], {place} epoch {swap.epoch} (steps {swap.epoch_start} to {swap.epoch_end - 1}); "
        f"the trainer's batches changed version at [bold]step {proof.changed_at}[/]: {verdict}.",
        highlight=False,
    )


def _table(condition: Condition, rows: Sequence[Row]) -> Table:
    table = Table(
        title=condition.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1),
    )
    table.add_column("policy", no_wrap=True, min_width=8)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    return [
        f"[bold]{row.policy}[/]",
        *_measured(row.test),
        *_measured(row.last),
        "" if row.found is None else f"{row.found:.0f}",
        f"{100 * row.left_out:.0f}",
        f"{row.seconds:.0f}",
    ]


def _measured(measure: Measure) -> tuple[str, str]:
    gain = measure.gain
    shown = "" if gain is None else f"[{_COLOUR[gain.verdict]}]{with_interval(gain, sign=True)}[/]"
    return with_interval(measure.accuracy), shown
