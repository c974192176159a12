"""`bss research train`: a policy learns on students, and can be interrupted at any time."""

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bss_cli.research.computing import USUAL_WORKERS, Address, Kind, Where, Workers, executor
from bss_cli.research.progress import Progress
from bss_cli.terminal import fail


class _Train(TyperGroup):
    """Trains a policy where nothing else is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's context may be click's, or typer's own
        if args and args[0] not in ("--help", *self.commands):
            args = ["policy", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Train, no_args_is_help=True, help="Train a policy, or what judges samples.")


@app.command()
def policy(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of the run.", show_default=False)],
    algorithm: Annotated[
        str, typer.Option(help="imitation, ppo, sac, search, trials, or a kind of these.")
    ] = "imitation",
    iterations: Annotated[int, typer.Option(min=1, help="Iterations to have made in the end.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    source: Annotated[
        list[str] | None, typer.Option(help="Data, or a task family; may be given again. Default: synthetic:2")
    ] = None,
    begin_with: Annotated[Path | None, typer.Option(help="With ppo: an imitation's run to go on from.")] = None,
    workers: Workers = None,
    where: Where = Kind.PROCESSES,
    address: Address = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run; what it is stays as it was begun.")
    ] = False,
) -> None:
    """Train a policy; every iteration ends with a checkpoint, an artefact and a line for TensorBoard.

    imitation: a network learns what a teacher does who knows what is wrong
    with a task. ppo, sac: stable-baselines3. search: a cross-entropy search
    for a linear policy; search-narrow: one with few features that sets two
    coefficients. ppo-evidence, search-evidence: the same on top of what
    `evidence` does. trials: runs with settings of that drawn at random, and
    the settings that their gains speak for.
    """
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from envs.research.executor import Executor, ExecutorError
    from envs.research.training.learners import GRADIENT, STATE, LearnerConfig, open_learner, write_policy

    computing: AbstractContextManager[Executor | None] = executor(where, workers, address)
    try:
        config = LearnerConfig.load(run) if resume else LearnerConfig.of(algorithm, seed, source or [], begin_with)
        if config.algorithm in GRADIENT:
            if where is Kind.RAY:
                raise ValueError(
                    f"--executor ray makes whole runs, and {config.algorithm} learns from every step of students that "
                    "it has in processes of this machine"
                )
            computing = nullcontext()
        if not resume:
            config.save(run)
    except (ValueError, OSError) as error:
        fail(str(error))
    torch.set_num_threads(1)  # networks this small gain nothing by more, and the workers have the other cores
    progress = Progress()

    def say(text: str) -> None:
        progress.say(f"{learner.iteration + 1}/{iterations}  {text}")

    try:
        with (
            computing as made,
            open_learner(config, workers or USUAL_WORKERS, say, made) as learner,
            SummaryWriter(run / "tensorboard") as board,
        ):
            if resume and (run / STATE).exists():
                learner.load(run / STATE)
                write_policy(run, config, learner)  # an interruption may have come between the two
            while learner.iteration < iterations:
                began = time.perf_counter()
                figures = learner.advance()
                progress.clear()
                learner.save(run / STATE)
                write_policy(run, config, learner)
                for name, value in figures.items():
                    board.add_scalar(name, value, learner.intervals)
                shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
                took = time.perf_counter() - began
                typer.echo(f"{learner.iteration}/{iterations}  {learner.intervals} intervals  {took:.0f} s  {shown}")
    except ExecutorError as error:
        fail(f"{error}; --resume goes on")


@app.command()
def evidence(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write (.safetensors).", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    scale: Annotated[float, typer.Option(min=0.0, help="Of the number of runs; at 1 it takes 10 minutes.")] = 1.0,
    partial: Annotated[
        bool, typer.Option("--partial", help="The one for jobs that lack signals of evidence, in 5 minutes.")
    ] = False,
) -> None:
    """Train the judge that reads how far the label and the pair of each sample are to be trusted.

    It learns in simulated runs, where the harm is known; no real data.
    """
    import torch

    from envs.research.export import of_judge, of_partial_judge
    from envs.research.training.evidence import train_judge
    from envs.research.training.partial import train_partial_judge

    torch.set_num_threads(1)
    progress = Progress()

    def result(line: str) -> None:
        progress.clear()
        typer.echo(line)

    command = f"bss research train evidence {out.name} --seed {seed} --scale {scale:g}"
    if partial:
        judged, known = train_partial_judge(seed, scale=scale, results=result, progress=progress.say)
        data = of_partial_judge(judged, training={"command": f"{command} --partial", **known})
    else:
        judge, known = train_judge(seed, scale=scale, results=result, progress=progress.say)
        data = of_judge(judge, training={"command": command, **known})
    try:
        out.write_bytes(data)
    except OSError as error:
        fail(str(error))
