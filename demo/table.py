"""The demo's table for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from demo.plan import Condition
from demo.results import JOINT, SwapProof
from demo.summary import Row, with_interval

_COLOUR = {"better": "green", "worse": "red", "can't tell": "dim", None: "dim"}


def print_tables(console: Console, rows: Sequence[Row], seeds: int) -> None:
    """One table a state of the data, and what the columns mean."""
    for condition in dict.fromkeys(row.condition for row in rows):
        console.print(_table(condition, [row for row in rows if row.condition == condition]))
    console.print(
        f"[dim]Accuracy in % on the test set at the best validation epoch: mean ± 95 % interval (Student t) over "
        f"{seeds} seeds. Gain: fused, over uniform, in points, paired by seed. s: seconds of a run. Extra: samples "
        "passed through the model for the scheduler's sake alone. Wait: the longest for one batch.[/]"
    )


def print_swap(console: Console, proof: SwapProof) -> None:
    """The swap as announced and as seen by the trainer, and whether they agree."""
    swap = proof.announced
    verdict = "[green]they agree[/]" if proof.agrees else "[red]THEY DISAGREE[/]"
    place = "in the middle of" if proof.in_the_middle else "at the start of"
    console.print(
        f"Swap while training: the service announced [bold]version {swap.policy_version} ({swap.policy}) from step "
        f"{swap.first_step}[/], {place} epoch {swap.epoch} (steps {swap.epoch_start} to {swap.epoch_end - 1}); the "
        f"trainer's batches changed version at [bold]step {proof.changed_at}[/]: {verdict}.",
        highlight=False,
    )


def _table(condition: Condition, rows: Sequence[Row]) -> Table:
    table = Table(
        title=f"emoji, {condition.title}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1),
    )
    heads = [head for head in rows[0].accuracy if head != JOINT]
    table.add_column("policy", no_wrap=True)
    for name in ("fused", *heads, "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name in ("s", "extra", "wait"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, heads))
    return table


def _cells(row: Row, heads: Sequence[str]) -> list[str]:
    colour = _COLOUR[row.verdict]
    return [
        f"[bold]{row.policy}[/]",
        with_interval(row.accuracy[JOINT]),
        *(f"{row.accuracy[head].mean:.1f}" for head in heads),
        "" if row.gain is None else f"[{colour}]{with_interval(row.gain, sign=True)}[/]",
        f"[{colour}]{row.verdict or 'baseline'}[/]",
        f"{row.seconds:.0f}",
        str(row.extra_forward_samples),
        f"{1000 * row.worst_wait_seconds:.0f} ms",
    ]
