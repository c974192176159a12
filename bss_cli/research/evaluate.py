"""`bss research evaluate`: policies against uniform sampling, on tasks that none of them was trained on."""

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bss_cli.research.computing import Address, Kind, Where, Workers, executor
from bss_cli.terminal import Screen, fail

if TYPE_CHECKING:
    from rich.table import Table

    from envs.research.comparison import Scores, Verdict
    from envs.research.statistics import Interval


def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY…", help='A name, name:{"parameter": value}, or a .safetensors file.', show_default=False
        ),
    ],
    out: Annotated[
        str,
        typer.Option(metavar="PATH|URL", help="For the results and the picture: a directory, or as s3://bucket/dir."),
    ] = "evaluation",
    data: Annotated[
        list[str] | None,
        typer.Option(help="Further data: a prepared .npz, path.npz:view,view, or a task family; may be given again."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Paired seeds of each task.")] = 10,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them; other seeds are other data.")] = 0,
    samples: Annotated[int, typer.Option(min=50, help="Training samples of a task, where its data has as many.")] = 600,
    spoiled: Annotated[
        bool, typer.Option("--spoiled", help="Validation labels are as wrong as training labels.")
    ] = False,
    workers: Workers = None,
    where: Where = Kind.PROCESSES,
    address: Address = None,
) -> None:
    """Compare policies on held-out tasks: real data, and harms that training never saw besides those that it did.

    Beside the policies run uniform sampling, alone and with the pull, an
    oracle that uses the clean samples alone, the anti-curriculum, a control
    that keeps what the heads find likeliest, the first policy with its scores
    shuffled, and a grid of fixed actions of which the best is chosen in
    hindsight. Accuracies are of the test set, at the checkpoint that is best
    on validation. Each run is kept as soon as it has come, so that the command
    goes on where it was interrupted; where runs are made changes none of
    their numbers.
    """
    from matplotlib.figure import Figure  # if it is missing, that is told before the runs and not behind them

    from envs.research.actors import parse
    from envs.research.comparison import BUILT_IN, as_json, check_held_out, contenders, held_out, judge, play
    from envs.research.executor import ExecutorError
    from envs.research.files import Results, Storage
    from envs.research.rollouts import Pool

    try:
        tasks = held_out([*BUILT_IN, *(data or [])], samples, spoiled=spoiled)
        actors = {_label(reference): parse(reference) for reference in policies}
        if len(actors) < len(policies):
            raise ValueError(f"policies must have names of their own, got {[*map(_label, policies)]}")
        entered = contenders(actors)
        check_held_out(actors, tasks)
        written, kept = Storage(out), Results(Storage(f"{out.rstrip('/')}/runs"))
        computing = executor(where, workers, address)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    screen = Screen()
    try:
        with computing as made, screen.status("") as status:
            paired = range(first_seed, first_seed + seeds)
            scores = play(tasks, entered, paired, Pool(made, status.update), kept)
    except ExecutorError as error:
        fail(f"{error}; the same command goes on")
    verdicts = judge(scores, seed=0)
    for table in (_summary(verdicts), _oracle_shares(verdicts), _by_task(scores, verdicts), _detection(verdicts)):
        screen.print(table)
    judged = {"policies": {name: actor.identity for name, actor in actors.items()}, **as_json(scores, verdicts)}
    written.write("evaluation.json", f"{json.dumps(judged, indent=1, allow_nan=False)}\n".encode())
    figure = Figure(figsize=(9, 1.5 + 0.5 * len(tasks)), dpi=120, layout="constrained")
    written.write("gains.png", _drawn(figure, scores, verdicts))
    screen.print(f"written to {out}: evaluation.json and gains.png", highlight=False)


def _label(reference: str) -> str:
    path = Path(reference)
    if path.suffix != ".safetensors":
        return reference
    return path.resolve().parent.name if path.stem == "policy" else path.stem


def _summary(verdicts: "list[Verdict]") -> "Table":
    from rich.table import Table

    table = Table(title="Against uniform, over all tasks and seeds (95 % intervals)")
    table.add_column("policy")
    table.add_column("gain in points, interquartile mean", justify="right")
    table.add_column("by summed heads", justify="right")
    table.add_column("probability of improvement", justify="right")
    for verdict in verdicts:
        table.add_row(
            verdict.name,
            *(_told(own, "+.2f") for own in (verdict.gain, verdict.summed_gain)),
            _told(verdict.improvement, ".2f"),
        )
    return table


def _oracle_shares(verdicts: "list[Verdict]") -> "Table":
    from rich.table import Table

    harms = list(verdicts[0].oracle_shares)
    table = Table(title="Share of the way from uniform to the oracle; – where the oracle is not clearly better")
    table.add_column("policy")
    for harm in harms:
        table.add_column(harm, justify="right")
    for verdict in verdicts:
        if verdict.name != "oracle":
            table.add_row(verdict.name, *(_told(verdict.oracle_shares[harm], ".0%") for harm in harms))
    return table


def _detection(verdicts: "list[Verdict]") -> "Table":
    from rich.table import Table

    table = Table(title="Wrong labels found at the end of a run: AUC, precision, recall, left out, calibration error")
    harms = list(verdicts[0].oracle_shares)
    table.add_column("policy")
    for harm in harms:
        table.add_column(harm, justify="right")
    for verdict in verdicts:
        if verdict.detection:
            found = [verdict.detection[harm] for harm in harms]
            table.add_row(verdict.name, *("  ".join(_number(value) for value in of.values()) for of in found))
    return table


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def _by_task(scores: "Scores", verdicts: "list[Verdict]") -> "Table":
    from rich.table import Table

    table = Table(title="Mean gain in points on each task; * where its 95 % interval does not hold 0")
    table.add_column("task")
    table.add_column("uniform", justify="right")
    for verdict in verdicts:
        table.add_column(verdict.name, justify="right")
    for t, task in enumerate(scores.tasks):
        gains = [verdict.task_gains[t] for verdict in verdicts]
        marks = ["*" if gain.low > 0 or gain.high < 0 else " " for gain in gains]
        cells = [f"{gain.value:+.1f}{mark}" for gain, mark in zip(gains, marks, strict=True)]
        table.add_row(task.name, f"{scores.of['uniform'][t].mean():.1f}", *cells)
    return table


def _told(interval: "Interval", form: str) -> str:
    if interval.value != interval.value:  # NaN
        return "–"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _drawn(figure: Any, scores: "Scores", verdicts: "list[Verdict]") -> bytes:
    """Gains with their intervals, as a PNG: one row a task, one colour a contender."""
    axes = figure.subplots()
    for k, verdict in enumerate(verdicts):
        places = [t + 0.7 * (k + 0.5) / len(verdicts) - 0.35 for t in range(len(scores.tasks))]
        values = [gain.value for gain in verdict.task_gains]
        errors = [
            [gain.value - gain.low for gain in verdict.task_gains],
            [gain.high - gain.value for gain in verdict.task_gains],
        ]
        axes.errorbar(values, places, xerr=errors, fmt="o", markersize=3, linewidth=1, label=verdict.name)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(scores.tasks)), [task.name for task in scores.tasks])
    axes.set_ylim(len(scores.tasks) - 0.5, -0.5)
    axes.set(xlabel="gain over uniform in points of test accuracy, with 95 % intervals")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
