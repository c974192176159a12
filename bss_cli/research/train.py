"""`bss research train`: a policy learns on students, and can be interrupted at any time."""

import time
from pathlib import Path
from typing import Annotated

import typer

from bss_cli.terminal import fail


def train(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of the run.", show_default=False)],
    algorithm: Annotated[str, typer.Option(help="imitation, ppo, sac, search or search-narrow.")] = "imitation",
    iterations: Annotated[int, typer.Option(min=1, help="Iterations to have made in the end.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    source: Annotated[
        list[str] | None, typer.Option(help="Data to draw tasks from; may be given again. Default: synthetic:2")
    ] = None,
    begin_with: Annotated[Path | None, typer.Option(help="With ppo: an imitation's run to go on from.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; results don't depend on it.")] = 2,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run; what it is stays as it was begun.")
    ] = False,
) -> None:
    """Train a policy; every iteration ends with a checkpoint, an artefact and a line for TensorBoard.

    imitation: a network learns what a teacher does who knows what is wrong
    with a task. ppo, sac: stable-baselines3. search: a cross-entropy search
    for a linear policy; search-narrow: one with few features that sets two
    coefficients.
    """
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from envs.research.training.learners import STATE, LearnerConfig, open_learner, write_policy

    try:
        config = LearnerConfig.load(run) if resume else LearnerConfig.of(algorithm, seed, source or [], begin_with)
        if not resume:
            config.save(run)
    except (ValueError, OSError) as error:
        fail(str(error))
    torch.set_num_threads(1)  # networks this small gain nothing by more, and the workers have the other cores
    with open_learner(config, workers) as learner, SummaryWriter(run / "tensorboard") as board:
        if resume and (run / STATE).exists():
            learner.load(run / STATE)
            write_policy(run, config, learner)  # an interruption may have come between the two
        while learner.iteration < iterations:
            began = time.perf_counter()
            figures = learner.advance()
            learner.save(run / STATE)
            write_policy(run, config, learner)
            for name, value in figures.items():
                board.add_scalar(name, value, learner.intervals)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            took = time.perf_counter() - began
            typer.echo(f"{learner.iteration}/{iterations}  {learner.intervals} intervals  {took:.0f} s  {shown}")
