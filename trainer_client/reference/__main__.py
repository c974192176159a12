"""Train the reference network on a data set, its samples chosen by a scheduler service.

python -m trainer_client.reference --data emoji --policy balance --url http://127.0.0.1:8765
"""

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bss_service.protocol.policies import PolicySpec
from trainer_client.client import DEFAULT_URL
from trainer_client.errors import SchedulerError
from trainer_client.reference.data import Data, Dataset, corrupt, load
from trainer_client.reference.encoders import ENCODERS
from trainer_client.reference.fusion import FUSIONS
from trainer_client.reference.recipes import RECIPES, Usual, read_media
from trainer_client.reference.rivals import rival_names
from trainer_client.reference.training import (
    UNIMODAL_WEIGHT,
    StepRecord,
    Trainer,
    TrainingConfig,
    TrainingResult,
    job_spec,
)
from trainer_client.sampler import ScheduledBatchSampler

DEFAULT_PREFETCH_FACTOR = 2  # of a DataLoader with workers


def arguments() -> argparse.ArgumentParser:
    """The command line; one line under each knob."""
    parser = argparse.ArgumentParser(prog="python -m trainer_client.reference", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="emoji", help="emoji, watch, a prepared file.npz[:modality,modality], or a public SET:FOLDER")
    add("--leave-out", action="store_true", help="of a public set: go on without samples whose files are missing")
    add("--policy", default="uniform", help="initial policy of the job")
    add("--param", action="append", default=[], metavar="K=V", help="a parameter of the policy; may be given again")
    add("--url", help=f"of the scheduler (default: BSS_URL in the environment, else {DEFAULT_URL})")
    add("--job", help="name of the job (default: made of the above); with --checkpoint an existing one is gone on with")
    add("--split", default="official", help="of a public set: another than that of its lists, as actors of crema-d")
    add("--epochs", type=int, help=f"epochs to train ({_default('epochs')})")
    add("--batch-size", type=int, help=f"global batch size ({_default('batch_size')})")
    add("--lr", dest="learning_rate", type=float, help=f"learning rate ({_default('learning_rate')})")
    add("--optimiser", choices=("adam", "sgd"), help=f"sgd has momentum 0.9 ({_default('optimiser')})")
    add("--weight-decay", type=float, help=f"of the optimiser ({_default('weight_decay')})")
    add("--decay-epochs", type=int, help="the rate is a tenth after every so many (default: the set's, or it stays)")
    add("--seed", type=int, default=0, help="of the initial weights, the order and the corruption")
    add("--interval", type=int, help="steps between acts of the policy (default: one epoch)")
    add("--workers", type=int, default=0, help="loader processes")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--fusion", choices=tuple(FUSIONS), default="concat", help="how the modalities become one prediction")
    add(
        "--encoder",
        action="append",
        default=[],
        metavar="M=NAME",
        help=f"of a modality: {', '.join(ENCODERS)}[:WEIGHTS]",
    )
    add(
        "--unimodal-weight",
        type=float,
        help=f"λ of the loss (1 − λ)·joint + λ·Σ unimodal, of a rival's too ({_default('unimodal_weight')})",
    )
    add(
        "--logits",
        choices=("joint", "sum", "unimodal"),
        help=f"which predict: the joint head's, the sum of all heads', or of the unimodal ones' ({_default('logits')})",
    )
    add("--rival", choices=rival_names(), help="another method, on the scheduler's batches")
    add("--rival-param", action="append", default=[], metavar="K=V", help="a hyper-parameter of it; may be given again")
    add("--pull", action="store_true", help="draw heads towards what they said before, where the policy asks for it")
    add("--measure-first", action="store_true", help="one measuring pass over the training set before the first step")
    add("--noisy-labels", type=float, default=0.0, help="share of training labels drawn at random")
    add("--flipped-labels", type=float, default=0.0, help="share of training labels that are the next class")
    add("--mispaired", type=float, default=0.0, help="share of training samples with another's second modality")
    add("--modality-noise", action="append", default=[], metavar="M=SD", help="noise on a modality; may be given again")
    add("--checkpoint", type=Path, help="file to resume from and to write")
    add(
        "--if-exists",
        choices=("fail", "new"),
        default="fail",
        help="when an earlier run has the job: new is job NAME-2, …",
    )
    add("--checkpoint-every", type=int, default=0, help="steps between checkpoints (default: each epoch)")
    add("--on-outage", choices=("wait", "local", "raise"), default="wait", help="when the scheduler is out of reach")
    add("--tensorboard", type=Path, help="folder for TensorBoard logs, if tensorboard is installed")
    add("--json", action="store_true", help="print the result as one line of JSON on standard output")
    return parser


def _default(field: str) -> str:
    return f"default: the set's, or {getattr(Usual(), field)}"


def main() -> int:
    """Run the command line; 0 after a whole run, 1 after a failure, 2 for wrong data, 3 when stopped by a signal."""
    args = _with_usual(arguments().parse_args())
    console = Console(stderr=args.json)
    try:
        whole, encoders = _loaded(args)
    except (ValueError, OSError) as error:
        return _failed(console, error, 2)
    except ImportError as error:
        return _failed(console, error, 1)
    try:
        dataset = _corrupted(whole, args)
        config = _config(args, encoders)  # before there is a job
        spec = job_spec(
            args.job or _default_name(args),
            dataset,
            batch_size=args.batch_size,
            epochs=args.epochs,
            seed=args.seed,
            policy=PolicySpec(name=args.policy, parameters=dict(map(_parameter, args.param))),
            interval=args.interval,
            lag=args.workers * DEFAULT_PREFETCH_FACTOR if args.interval else 0,
        )
        with ScheduledBatchSampler(spec, args.url, if_exists=args.if_exists, on_outage=args.on_outage) as sampler:
            trainer = Trainer(dataset, sampler, config)
            with _stopped_by_signals(trainer), _shown(console, trainer, args) as watch:
                result = trainer.train(watch)
    except (ValueError, ImportError, SchedulerError) as error:
        return _failed(console, error, 1)
    except KeyboardInterrupt:
        console.print("stopped before the run began")
        return 3
    if result.test is None:
        console.print(f"stopped at step {trainer.step}; run the same command again to go on")
        return 3
    _print_result(console, result, args.json)
    return 0


def _with_usual(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, with what is usual for the data where nothing was said."""
    recipe = RECIPES.get(args.data.partition(":")[0])
    usual = asdict(recipe.usual if recipe else Usual())
    return argparse.Namespace(**{**vars(args), **{k: v for k, v in usual.items() if getattr(args, k) is None}})


def _failed(console: Console, error: Exception, status: int) -> int:
    """Print an error as one line, whatever it holds."""
    console.print(f"[red]{type(error).__name__}:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    return status


def _default_name(args: argparse.Namespace) -> str:
    """A name that holds what sets a run apart, as far as names can."""
    name, colon, _ = args.data.partition(":")
    parts = [name if colon and name in RECIPES else Path(args.data).name, args.policy]
    parts += [args.rival] if args.rival else []
    parts += [f"noisy{args.noisy_labels:g}"] if args.noisy_labels else []
    parts += [f"flipped{args.flipped_labels:g}"] if args.flipped_labels else []
    parts += [f"mispaired{args.mispaired:g}"] if args.mispaired else []
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join([*parts, *args.modality_noise, str(args.seed)]))[:100]


def _loaded(args: argparse.Namespace) -> tuple[Data, dict[str, str]]:
    """The data, and its encoders by modality."""
    encoders = {name: str(value) for name, value in map(_parameter, args.encoder)}
    name, colon, folder = args.data.partition(":")
    if colon and name in RECIPES:
        return read_media(name, Path(folder), encoders, split=args.split, leave_out=args.leave_out)
    if args.split != "official" or args.leave_out:
        raise ValueError(f"--split and --leave-out belong to a public SET:FOLDER, got --data {args.data}")
    return load(args.data), encoders


def _corrupted(dataset: Data, args: argparse.Namespace) -> Data:
    if not isinstance(dataset, Dataset):
        if args.noisy_labels or args.flipped_labels or args.mispaired or args.modality_noise:
            raise ValueError(f"{dataset.name} is decoded as it is needed: only data in memory can be harmed")
        return dataset
    noise = {name: float(value) for name, value in map(_parameter, args.modality_noise)}
    corruption = corrupt(
        dataset,
        noisy_labels=args.noisy_labels,
        flipped_labels=args.flipped_labels,
        mispaired=args.mispaired,
        modality_noise=noise,
        seed=args.seed,
    )
    return corruption.dataset


def _config(args: argparse.Namespace, encoders: Mapping[str, str]) -> TrainingConfig:
    rival = {} if args.unimodal_weight == UNIMODAL_WEIGHT else {"unimodal_weight": args.unimodal_weight}
    return TrainingConfig(
        epochs=args.epochs,
        learning_rate=args.learning_rate,
        optimiser=args.optimiser,
        weight_decay=args.weight_decay,
        decay_epochs=args.decay_epochs,
        seed=args.seed,
        workers=args.workers,
        device=args.device,
        fusion=args.fusion,
        encoders=encoders,
        unimodal_weight=args.unimodal_weight,
        logits=args.logits,
        rival=args.rival,
        rival_parameters={**rival, **dict(map(_parameter, args.rival_param))},
        pull=args.pull,
        measure_first=args.measure_first,
        checkpoint=args.checkpoint,
        checkpoint_every=args.checkpoint_every,
        on_outage=args.on_outage,
    )


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a parameter has the form name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


@contextmanager
def _stopped_by_signals(trainer: Trainer) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the run after its step, or its wait for a batch, with a checkpoint.

    A second one ends it at once.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, frame: object) -> None:
        trainer.stop()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown(console: Console, trainer: Trainer, args: argparse.Namespace) -> Iterator[Callable[[StepRecord], None]]:
    """A progress bar, a line for each epoch and each change of policy, and TensorBoard if it was asked for."""
    calendar = trainer.sampler.spec.calendar()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    writer = _tensorboard(args.tensorboard)
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("steps", total=calendar.epoch_start(args.epochs))
        version = 0
        reported = 0

        def watch(record: StepRecord) -> None:
            nonlocal version, reported
            if record.batch.policy_version != version:
                version = record.batch.policy_version
                progress.console.print(f"step {record.batch.step}: policy version {version}", highlight=False)
            for epoch in trainer.result.epochs[reported:]:
                progress.console.print(_epoch_line(epoch.epoch, trainer), highlight=False)
            reported = len(trainer.result.epochs)
            if writer is not None:
                writer(record)
            progress.update(bar, completed=record.batch.step + 1)

        yield watch
        for epoch in trainer.result.epochs[reported:]:
            progress.console.print(_epoch_line(epoch.epoch, trainer), highlight=False)


def _epoch_line(epoch: int, trainer: Trainer) -> str:
    report = next(r for r in trainer.result.epochs if r.epoch == epoch).validation
    heads = "  ".join(f"{name} {accuracy:.3f}" for name, (accuracy, _) in report.modalities.items())
    return f"epoch {epoch:3d}  validation loss {report.loss:.3f}  accuracy {report.accuracy:.3f}  {heads}"


def _tensorboard(folder: Path | None) -> Callable[[StepRecord], None] | None:
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
    writer = SummaryWriter(str(folder))

    def write(record: StepRecord) -> None:
        step = record.batch.step
        writer.add_scalar("loss/train", record.loss, step)
        writer.add_scalar("scheduler/policy_version", record.batch.policy_version, step)
        writer.add_scalar("scheduler/score_age_steps", record.batch.age, step)

    return write


def _print_result(console: Console, result: TrainingResult, as_json: bool) -> None:
    assert result.test is not None
    if as_json:
        line = {
            "test_accuracy": result.test.accuracy,
            "test_modalities": {name: accuracy for name, (accuracy, _) in result.test.modalities.items()},
            "best_epoch": result.best_epoch,
            "seconds": round(result.seconds, 3),
            "extra_forward_samples": result.extra_forward_samples,
            "worst_wait_seconds": round(result.worst_wait_seconds, 6),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        return
    heads = "  ".join(f"{name} {accuracy:.3f}" for name, (accuracy, _) in result.test.modalities.items())
    console.print(f"test accuracy {result.test.accuracy:.3f} at validation epoch {result.best_epoch}  {heads}")
    console.print(
        f"{result.seconds:.1f} s, {result.extra_forward_samples} extra samples through the model, "
        f"longest wait for a batch {1000 * result.worst_wait_seconds:.1f} ms",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())
