"""What evidence does for real networks: the reference trainer over HTTP, against plain shuffling and the oracle.

python -m benchmarks.evidence.served avdigits.npz --seeds 5 --optimisers adam sgd --write

Every run is one of the service as a user runs it: CNN encoders with batch normalisation on images and signals, test
accuracy at the best validation epoch, and of the last epoch's network its validation accuracy. Runs that are made are
kept, so that the command goes on where it was interrupted.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import torch

from bss_service.policies.shipped import shipped_judge
from bss_service.protocol.policies import PolicySpec
from bss_service.testing import ServiceProcess
from envs.research.actors import likeliest
from envs.research.detection import Detection
from envs.research.statistics import Interval, task_gains
from envs.students import one_thread_each
from trainer_client.client import SchedulerClient
from trainer_client.reference.data import Dataset
from trainer_client.reference.data.corrupt import corrupt
from trainer_client.reference.data.sources import load
from trainer_client.reference.training import Trainer, TrainingConfig, job_spec
from trainer_client.sampler import ScheduledBatchSampler

RESULT: Final = Path(__file__).parents[1] / "results" / "evidence.md"
HARMS: Final[dict[str, dict[str, float]]] = {
    "clean": {},
    "noisy 20 %": {"noisy_labels": 0.2},
    "noisy 40 %": {"noisy_labels": 0.4},
    "flipped 30 %": {"flipped_labels": 0.3},
    "mispaired 40 %": {"mispaired": 0.4},
}
# The policy of each contender and its parameters. The oracle shuffles the clean samples alone. Trainers of those
# "with pull" pull.
CONTENDERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "uniform": ("uniform", {}),
    "oracle": ("uniform", {}),
    "evidence": ("evidence", {"pull": 0}),
    "evidence with pull": ("evidence", {}),
    "uniform with pull": ("fixed", {"coverage": "epoch", "pull": 1.5}),
    "learned": ("learned", {}),
    "label likeliest": ("evidence", {"pull": 0, "judge": "likeliest"}),
    "balance": ("balance", {}),
}
RATES: Final = {"adam": 1e-3, "sgd": 0.02}


@dataclass(frozen=True)
class Run:
    """One training run."""

    data: str
    samples: int
    harm: str
    contender: str
    optimiser: str
    epochs: int
    seed: int

    @property
    def file(self) -> str:
        """What it is kept as: other code, another judge or another run is another file."""
        known = [shipped_judge().sha256, CONTENDERS[self.contender], {**asdict(self), "data": Path(self.data).name}]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:24] + ".json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="emoji, watch, or a prepared file.npz[:modality,modality]")
    parser.add_argument("--samples", type=int, default=10**9, help="training samples at most")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--optimisers", nargs="+", choices=list(RATES), default=["adam"], help="sgd has momentum")
    parser.add_argument("--harms", nargs="+", choices=list(HARMS), default=["clean", "noisy 40 %", "flipped 30 %"])
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=["uniform", "oracle", "evidence"])
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--kept", type=Path, default=Path("evaluation/served"), help="folder of the runs that are made")
    parser.add_argument("--write", action="store_true", help=f"add the result to {RESULT.name}")
    args = parser.parse_args()
    args.kept.mkdir(parents=True, exist_ok=True)
    cells = product(args.optimisers, args.harms, args.contenders, range(args.seeds))
    runs = [Run(args.data, args.samples, h, c, o, args.epochs, seed) for o, h, c, seed in cells]
    waiting = [run for run in runs if not (args.kept / run.file).exists()]
    with one_thread_each():
        processes = multiprocessing.get_context("spawn").Pool(args.workers)
    with ServiceProcess() as service, processes as pool:
        with SchedulerClient(service.url) as client:
            client.upload_judge(likeliest().data)
        for run, made in pool.imap_unordered(_made, [(run, service.url) for run in waiting]):
            (args.kept / run.file).write_text(json.dumps(made))
            print(f"{run.optimiser}, {run.harm}, {run.contender}, seed {run.seed}: {made['test']:.1f}", flush=True)
    lines = list(report(runs, args.kept))
    print("\n".join(lines))
    if args.write:
        with RESULT.open("a") as result:
            result.write("\n".join([*lines, ""]))


def _made(work: tuple[Run, str]) -> tuple[Run, dict[str, Any]]:
    run, url = work
    torch.set_num_threads(1)
    return run, made(run, url)


def made(run: Run, url: str) -> dict[str, Any]:
    """What a run comes to: accuracies in percent, and how wrong labels were told."""
    clean = _part(load(run.data), run.samples, run.seed)
    corruption = corrupt(clean, seed=run.seed, **HARMS[run.harm])  # type: ignore[arg-type]  # shares
    dataset, training = corruption.dataset, clean.indices("train")
    wrong = dataset.labels != clean.labels
    is_clean = (~wrong & ~corruption.is_mispaired)[training]
    if run.contender == "oracle":
        dataset = dataset.with_training(np.resize(training[is_clean], len(training)))
    policy, parameters = CONTENDERS[run.contender]
    if parameters.get("judge") == "likeliest":
        parameters = {**parameters, "judge": likeliest().sha256}
    spec = job_spec(
        f"run-{uuid4().hex}",
        dataset,
        batch_size=64,
        epochs=run.epochs,
        seed=run.seed,
        policy=PolicySpec(name=policy, parameters=parameters),
    )
    config = TrainingConfig(
        epochs=run.epochs,
        learning_rate=RATES[run.optimiser],
        optimiser=run.optimiser,  # type: ignore[arg-type]
        seed=run.seed,
        pull="with pull" in run.contender,
    )
    with SchedulerClient(url) as client:
        with ScheduledBatchSampler(spec, client) as sampler:
            result = Trainer(dataset, sampler, config).train()
        listed = client.samples(spec.name, "label", len(training)) if len(training) <= 10_000 else None
        left_out = client.decisions(spec.name, run.epochs - 1, 1).decisions[0].left_out / len(training)
        client.delete_job(spec.name)
    assert result.test is not None
    accuracies = {"test": 100 * result.test.accuracy, "last": 100 * result.epochs[-1].validation.accuracy}
    if listed is None or run.contender == "oracle":
        return {**accuracies, "left_out": left_out}
    right = np.full(len(training), np.nan, np.float32)
    for row in listed.samples:
        if row.evidence is not None:
            right[row.index] = row.evidence.right
    found = Detection.of(right, wrong[training])
    return {**accuracies, "left_out": left_out, "auc": found.auc, "precision": found.precision, "recall": found.recall}


def _part(dataset: Dataset, samples: int, seed: int) -> Dataset:
    """With so many training samples at most."""
    training = np.random.default_rng([seed, 1]).permutation(dataset.indices("train"))
    return dataset.with_training(np.sort(training[:samples]))


def report(runs: Sequence[Run], kept: Path) -> Iterator[str]:
    """A table for each optimiser: points over uniform with 95 % intervals, and the share of the way to the oracle."""
    made_of = {run: json.loads((kept / run.file).read_text()) for run in runs}
    first = runs[0]
    seeds = sorted({run.seed for run in runs})
    yield f"## {Path(first.data).name}, {first.epochs} epochs"
    yield ""
    yield f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; {len(seeds)} paired seeds."
    yield "Gain: of test accuracy at the best validation epoch, in points over uniform, with its 95 % interval"
    yield "(Student). Share: of the way to the oracle. Last epoch: validation accuracy. At the end: AUC, precision and"
    yield "recall of wrong labels, and share of samples left out."
    yield ""
    yield "| optimiser | harm | contender | gain | share | last epoch | AUC | precision | recall | left out |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for optimiser, harm in dict.fromkeys((run.optimiser, run.harm) for run in runs):
        of = {
            name: [made_of[replace(first, optimiser=optimiser, harm=harm, contender=name, seed=seed)] for seed in seeds]
            for name in dict.fromkeys(run.contender for run in runs)
        }
        uniform = np.array([[made["test"] for made in of["uniform"]]])
        for name, made in of.items():
            own = np.array([[each["test"] for each in made]])
            gain = task_gains(own, uniform)[0]
            told = f"{uniform.mean():.1f} %" if name == "uniform" else _told(gain)
            distance = np.mean([each["test"] for each in of["oracle"]]) - uniform.mean() if "oracle" in of else 0.0
            share = f"{gain.value / distance:.0%}" if distance > 1 and name not in ("uniform", "oracle") else "–"
            last = np.mean([each["last"] for each in made])
            found = " | ".join(_mean(made, name) for name in ("auc", "precision", "recall", "left_out"))
            yield f"| {optimiser} | {harm} | {name} | {told} | {share} | {last:.1f} | {found} |"


def _told(gain: Interval) -> str:
    return f"{gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


def _mean(made: Sequence[dict[str, Any]], name: str) -> str:
    known = [each[name] for each in made if name in each and each[name] == each[name]]
    return f"{np.mean(known):.2f}" if known else "–"


if __name__ == "__main__":
    main()
