"""How much less evidence knows where signals are missing: wrong labels found, and what leaving them out gains.

python -m benchmarks.evidence.signals mfeat.npz:fou,kar tmd.npz:motion,ambient cora.npz avdigits.npz

Small students on held-out tasks, which no judge was trained on: emoji, watch and the prepared data named. AUC of
P(label right) after 8 and 25 epochs of plain shuffling, by the signals that are there. And test accuracy at the best
validation epoch of runs that leave out what is disbelieved, against plain shuffling on the same data from the same
weights.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from bss_service.core.evidence.features import features
from bss_service.policies.shipped import usual_judge, usual_partial_judge
from envs.research.comparison import BUILT_IN, HARMS, INTERVALS, HeldOut
from envs.research.detection import Detection, auc
from envs.research.training.judging import JudgedRun, begin, train_epoch
from envs.research.training.partial import MISSING, PartialRun, told
from envs.sources import FEATURES
from envs.students import Students
from envs.tasks import BATCH_SIZE, Lesson, lesson, origin

AT: Final = (8, INTERVALS)  # epochs
HARMED: Final = ("noisy 40 %", "flipped 30 %")
ALL: Final = "all of `EVIDENCE`"
SMALL: Final = "loss, by its rank alone"
WATCHED: Final = "watched"  # a run that is only looked at


@dataclass
class Found:
    """What was measured, by signals that are there."""

    aucs: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)  # by signals, harm, epoch
    left_out: dict[str, list[float]] = field(default_factory=dict)  # of clean samples of clean data, at the end
    gains: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # by signals, harm; in points
    errors: dict[str, list[Any]] = field(default_factory=dict)  # reliability


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", help="prepared file.npz[:modality,modality] of two modalities")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--harms", nargs="+", choices=list(HARMS), default=["clean", *HARMED])
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = Found()
    for source in [*BUILT_IN, *args.data]:
        for harm in args.harms:
            _measure(HeldOut(source, harm), args.seeds, found)
            print(f"# {source.rsplit('/', 1)[-1]}, {harm}", flush=True)
    for line in _report(found):
        print(line)


def _measure(task: HeldOut, seeds: int, found: Found) -> None:
    """All runs of a task side by side: for each seed one that is watched, and one for each set of signals."""
    lessons = [lesson(task.task(seed)) for seed in range(seeds)]
    contenders = [WATCHED, ALL, *(told(missing) for missing, _ in MISSING)]
    students = Students(
        seeds * len(contenders), 2, FEATURES, origin(task.source).classes, BATCH_SIZE, tested=True, evidence=True
    )
    runs: list[tuple[str, JudgedRun]] = []
    for seed, made in enumerate(lessons):
        for name in contenders:
            students.enrol(len(runs), made, np.random.default_rng(seed))
            runs.append((name, _run(name, made, np.random.default_rng([seed, 1]))))
    best = np.full(len(runs), -1.0)
    tests = np.zeros(len(runs))
    alone = [run for _, run in runs]
    begin(students, alone)
    for epoch in range(INTERVALS + 1):
        for name, run in runs:
            if epoch:
                run.look()
            if name == WATCHED and epoch in AT:
                _look(run, task.harm, epoch, found)
        if epoch == INTERVALS:
            break
        train_epoch(students, alone)
        for k, (run, tested) in enumerate(zip(alone, students.validate("test"), strict=True)):
            if run.reports[-1].accuracy > best[k]:
                best[k], tests[k] = run.reports[-1].accuracy, tested.accuracy
    accuracies = 100 * tests.reshape(seeds, len(contenders))
    for k, name in enumerate(contenders[1:], start=1):
        found.gains.setdefault((name, task.harm), []).extend((accuracies[:, k] - accuracies[:, 0]).tolist())
        if task.harm == "clean":
            shares = [float(run.left_out.mean()) for own, run in runs if own == name]
            found.left_out.setdefault(name, []).extend(shares)


def _run(name: str, made: Lesson, rng: np.random.Generator) -> JudgedRun:
    plain = partial(JudgedRun, made, BATCH_SIZE, rng, pull=0.0, confusion=True)
    if name == ALL:
        return plain(judge=usual_judge().judge)
    missing = next((missing for missing, _ in MISSING if told(missing) == name), None)
    judge = None if missing is None else usual_partial_judge()
    return PartialRun(made, BATCH_SIZE, rng, judge=judge, missing=missing or ())


def _look(run: JudgedRun, harm: str, epoch: int, found: Found) -> None:
    assert isinstance(run, PartialRun)
    wrong = run.lesson.wrong_label
    full = features(run.table, run.reports, run.reports[-1].confusion)
    judged: Mapping[str, Any] = {
        ALL: usual_judge().judge(len(wrong), full).right,
        **{told(missing): run.judged(usual_partial_judge(), missing) for missing, _ in MISSING},
    }
    for name, right in judged.items():
        found.errors.setdefault(name, []).append(Detection.of(right, wrong).reliability)
        if wrong.any():
            found.aucs.setdefault((name, harm, epoch), []).append(
                auc(right[~np.isnan(right)], ~wrong[~np.isnan(right)])
            )
    if wrong.any():
        found.aucs.setdefault((SMALL, harm, epoch), []).append(auc(-run.table.latest["loss"], ~wrong))


def _report(found: Found) -> list[str]:
    names = [ALL, *(told(missing) for missing, _ in MISSING), SMALL]
    harms = [harm for harm in HARMED if any(key[1] == harm for key in found.aucs)]
    head = [f"{harm}, epoch {epoch}" for harm in harms for epoch in AT]
    gains = [*harms, *(["clean"] if found.left_out else [])]
    head += [f"gain, {harm}" for harm in gains] + ["clean samples left out", "calibration error"]
    rows = ["| signals | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
    for name in names:
        cells = [f"{np.mean(found.aucs[name, harm, epoch]):.3f}" for harm in harms for epoch in AT]
        cells += [_with_error(found.gains.get((name, harm), [])) for harm in gains]
        cells.append(f"{np.mean(found.left_out[name]):.1%}" if name in found.left_out else "")
        sums = [[getattr(one, part) for one in found.errors.get(name, [])] for part in ("said", "happened", "number")]
        said, happened, number = (np.sum(part, axis=0) if part else np.zeros(1) for part in sums)
        cells.append(f"{np.abs(said - happened).sum() / number.sum():.3f}" if number.sum() else "")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def _with_error(values: list[float]) -> str:
    if not values:
        return ""
    return f"{np.mean(values):+.2f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
