"""`bss research dataset`: decision logs as a Minari data set."""

from pathlib import Path
from typing import Annotated

import typer

from bss_cli.service import Url, connect
from bss_cli.terminal import fail


def dataset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data set's id becomes bss/NAME-v0.")],
    job: Annotated[list[str] | None, typer.Option(help="A job of the service. Repeatable.")] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A job's decisions as JSON, named by the file. Repeatable.", exists=True),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="An artefact whose runs in it are logged.")] = None,
    environment: Annotated[str, typer.Option(help="Id of the environment.")] = "BalanceScheduling-v0",
    episodes: Annotated[int, typer.Option(min=1, help="Runs in the environment.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the first of them.")] = 0,
    url: Url = None,
    description: Annotated[str, typer.Option(help="What the runs are.")] = "",
    author: Annotated[str, typer.Option(help="Who made them.")] = "unknown",
) -> None:
    """Make a Minari data set of the decisions of jobs, or of a policy's runs in an environment.

    Decisions without a reward are left out; where one lies between others,
    the run is split there.

    A service with a token is asked with BSS_TOKEN in the environment.
    """
    import minari  # noqa: F401 - if it is missing, that is told before the runs and not behind them

    from envs.research.offline.dataset import decisions, played, read_rows, rewards, write
    from envs.research.offline.runs import runs_of_log

    logs = {}
    try:
        if job:
            with connect(url) as client:
                logs = {each: decisions(client, each) for each in job}
                description = f"{description} {rewards(client, job)}".strip()
        for path in log or ():
            if path.stem in logs:
                raise ValueError(f"log must have a name of its own, got {path.stem!r} twice")
            logs[path.stem] = read_rows(path)
        runs = [run for each, rows in logs.items() for run in runs_of_log(each, rows)]
        if policy:
            runs += played(environment, policy, range(seed, seed + episodes))
        written = write(f"bss/{name}-v0", runs, description=description, author=author)
    except ValueError as error:
        fail(str(error))
    logged = [run for run in runs if run.name in logs]
    left_out = sum(map(len, logs.values())) - sum(len(run.rewards) for run in logged)
    kept, sources = sum(len(run.rewards) for run in runs), len({run.name for run in runs})
    typer.echo(f"{written}: {len(runs)} episodes of {sources} runs, {kept} decisions; {left_out} left out")
