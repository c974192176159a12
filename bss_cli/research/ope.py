"""`bss research ope`: what policies would have earned on the logged runs of another, and whether the log can tell."""

import json
import math
from typing import TYPE_CHECKING, Annotated

import typer

from bss_cli.terminal import fail, screen

if TYPE_CHECKING:
    from rich.table import Table

    from envs.research.offline.ope import PolicyReport
    from envs.research.statistics import Interval


def ope(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of a Minari data set, as bss/NAME-v0.")],
    policy: Annotated[list[str], typer.Option(metavar="ARTEFACT|NAME", help="A policy to be judged. Repeatable.")],
    discount: Annotated[float, typer.Option(min=0, max=1, help="γ, from one decision to the next.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of resampling and of the fitted Q function.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Judge policies on the logged runs of another one.

    The value is the sum of a run's rewards, so these must add up: those of
    jobs whose reward has the basis "improvement" do.

    Prints the value that each estimator gives, its 95 % interval and its
    effective sample size, and whether the log can tell at all.
    """
    from envs.research.offline.dataset import read
    from envs.research.offline.ope import judged

    try:
        episodes, left_out = read(dataset)
        reports = [judged(episodes, name, discount=discount, seed=seed) for name in policy]
    except (ValueError, OSError) as error:
        fail(str(error))
    if as_json:
        answer = {"runs": len(episodes), "runs_left_out": left_out, "policies": [r.as_dict() for r in reports]}
        typer.echo(json.dumps(answer))
        return
    for report in reports:
        screen().print(_table(report, len(episodes), left_out))
        screen().print(f"{report.verdict.answer}: {report.verdict.reason}")


def _table(report: "PolicyReport", runs: int, left_out: int) -> "Table":
    from rich import box
    from rich.table import Table

    title = f"{report.policy} on {runs} runs" + (f"; {left_out} with missing rewards left out" if left_out else "")
    table = Table("", "value", "95 % interval", "effective runs", title=title, title_justify="left", box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("the log itself", *_cells(report.behaviour), str(runs))
    for estimate in report.estimates:
        table.add_row(estimate.name, *_cells(estimate.supported), _text(estimate.effective_sample_size, ".1f"))
    return table


def _cells(interval: "Interval") -> tuple[str, str]:
    if math.isnan(interval.value):
        return "–", "–"
    return _text(interval.value), f"{_text(interval.low)} to {_text(interval.high)}"


def _text(value: float, form: str = ".3f") -> str:
    return "–" if math.isnan(value) else format(value, form)
