"""The judge of samples of which few signals are known: it learns as that of `evidence` does, with signals left out.

Which are left out of a run that it judges, and of a row that it learns from, is drawn: so that one judge reads what
there is, and its probabilities are right for that.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from bss_service.core.action import Action
from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.evidence.partial import NAMES, PartialFeatures, PartialJudge, partial_features, without
from envs.research.detection import auc
from envs.research.rollouts import Progress, unheard
from envs.research.training.evidence import (
    ACTING,
    BATCH,
    DECAY,
    PULLED,
    RATE,
    ROWS,
    Group,
    layers_of,
    network_of,
)
from envs.research.training.judging import BELIEF, EPOCHS, PULL, JudgedRun, begin, train_epoch
from envs.research.training.worlds import world
from envs.students import Students
from envs.tasks import Lesson

ROUNDS: Final = 2
GROUPS: Final = 60  # of students trained side by side, a round
FRESH: Final = 12
STEPS: Final = 12_000  # of the last round's fit; a third in the first
MISSING: Final = (  # and how often
    ((), 0.25),
    (("similarity",), 0.1),
    (("heads", "similarity"), 0.25),
    (("probability", "heads"), 0.15),
    (("probability", "heads", "similarity"), 0.25),
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Judgements to be learnt, k of them."""

    of_sample: Float32  # (k, len(NAMES)), nothing left out
    right: Bool  # (k,) the label is

    @classmethod
    def joined(cls, parts: "list[Rows]") -> "Rows":
        """All of them, one after the other."""
        none = cls(np.zeros((0, len(NAMES)), np.float32), np.zeros(0, np.bool_))
        fields = ([getattr(part, name) for part in (none, *parts)] for name in ("of_sample", "right"))
        return cls(*(np.concatenate(arrays) for arrays in fields))


class PartialRun(JudgedRun):
    """A run that is judged by some of its signals. Without a judge all samples are drawn alike."""

    def __init__(
        self,
        lesson: Lesson,
        batch_size: int,
        rng: np.random.Generator,
        *,
        judge: PartialJudge | None,
        pull: float = 0.0,
        missing: Collection[str] = (),
    ) -> None:
        """missing: signals that the judge does not see."""
        super().__init__(lesson, batch_size, rng, judge=None, pull=pull, confusion=False)
        self.partial_judge, self.missing = judge, missing
        self.read: PartialFeatures | None = None

    def look(self) -> None:
        self.read = partial_features(self.table, self.reports)
        if self.partial_judge is None:
            return
        self.right = np.nan_to_num(self.judged(self.partial_judge, self.missing).astype(np.float64), nan=1.0)
        self.leave_out(self.right < BELIEF)

    def judged(self, judge: PartialJudge, missing: Collection[str]) -> Float32:
        """P(the label is right) of all samples, (n,), as a judge sees it that misses some signals."""
        assert self.read is not None
        seen = replace(self.read, of_sample=without(self.read.of_sample, missing))
        return judge.judge(len(self.table), len(self.lesson.train.modalities), seen).right

    def draw(self) -> tuple[Int64, Float32 | None, float]:
        drawn = super().draw()
        self.table.refresh(Action().ema)  # as a job does once it has looked
        return drawn

    def partial_rows(self, number: int) -> Rows:
        """Of samples that were looked at, at most so many."""
        assert self.read is not None
        chosen = self.rng.permutation(len(self.read.visited))[:number]
        right = ~self.lesson.wrong_label[self.read.visited[chosen]]
        return Rows(self.read.of_sample[chosen], right)


def train_partial_judge(
    seed: int, *, scale: float = 1.0, results: Progress = unheard, progress: Progress = unheard
) -> tuple[PartialJudge, dict[str, Any]]:
    """A judge, and what is known of it, as of `train_judge`; AUC by signals that are missing, on fresh runs."""
    rows: list[Rows] = []
    judge: PartialJudge | None = None
    loss = float("nan")
    for number in range(ROUNDS):
        groups = max(1, round(scale * GROUPS))
        for group in range(groups):
            rows.append(simulate([seed, number, group], judge))
            progress(f"round {number + 1}/{ROUNDS}  {group + 1} of {groups} groups of runs")
        steps = max(50, round(scale * STEPS) // (1 if number == ROUNDS - 1 else 3))
        judge, loss = fit(Rows.joined(rows), steps, seed + number)
        results(f"round {number + 1}/{ROUNDS}  rows {sum(len(part.right) for part in rows)}  loss {loss:.4g}")
    assert judge is not None
    fresh = Rows.joined([simulate([seed, ROUNDS, k], judge) for k in range(max(1, round(scale * FRESH)))])
    known = {told(missing): auc_of(judge, fresh, missing) for missing, _ in MISSING}
    results("fresh runs  " + "  ".join(f"{name} {value:.3f}" for name, value in known.items()))
    count = sum(len(part.right) for part in rows)
    return judge, {"seed": seed, "scale": scale, "rows": count, "loss": loss, "auc": known}


def simulate(seed: list[int], judge: PartialJudge | None) -> Rows:
    """The rows of a group of runs. Without a judge all samples are drawn alike."""
    rng = np.random.default_rng(seed)
    group = Group.draw(rng)
    lessons = [replace(world(group.size, rng), learning_rate=group.rate) for _ in range(group.number)]
    students = group.students(max(made.classes for made in lessons))
    runs = []
    for place, made in enumerate(lessons):
        students.enrol(place, made, rng)
        judging = judge if rng.random() < ACTING else None
        pull = PULL if judging is not None and rng.random() < PULLED else 0.0
        missing = MISSING[int(rng.choice(len(MISSING), p=[share for _, share in MISSING]))][0]
        runs.append(PartialRun(made, group.batch_size, rng, judge=judging, pull=pull, missing=missing))
    return train_partly_judged(students, runs, group.epochs, rows=ROWS)


def train_partly_judged(students: Students, runs: list[PartialRun], epochs: int, *, rows: int) -> Rows:
    """Train enrolled students for so many epochs. Returns `rows` judgements a run before each epoch of `EPOCHS`."""
    collected = []
    begin(students, runs)
    for epoch in range(epochs):
        for run in runs if epoch else ():
            run.look()
            if rows and epoch in EPOCHS:
                collected.append(run.partial_rows(rows))
        train_epoch(students, runs)
    return Rows.joined(collected)


def fit(rows: Rows, steps: int, seed: int) -> tuple[PartialJudge, float]:
    """A judge of these rows, and its loss on them at the end of the fit."""
    rng = np.random.default_rng(seed)
    seen = [torch.from_numpy(without(rows.of_sample, missing)) for missing, _ in MISSING]
    right = torch.from_numpy(rows.right.astype(np.float32))
    network = network_of(len(NAMES), 1, rng)
    optimiser = torch.optim.Adam(network.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    sizes = rng.multinomial(BATCH, [share for _, share in MISSING], size=steps)
    losses = np.zeros(steps)
    for step in range(steps):
        chosen = [torch.from_numpy(rng.integers(len(right), size=size)) for size in sizes[step]]
        inputs = torch.cat([of_set[rows_of] for of_set, rows_of in zip(seen, chosen, strict=True)])
        loss = binary_cross_entropy_with_logits(network(inputs)[:, 0], right[torch.cat(chosen)])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses[step] = loss.item()
    return PartialJudge(layers_of(network)), float(losses[-max(1, steps // 20) :].mean())


def told(missing: Collection[str]) -> str:
    """The signals that are there."""
    names = {"loss": "loss", "probability": "joint probability", "heads": "unimodal ones", "similarity": "similarity"}
    return ", ".join(name for signal, name in names.items() if signal not in missing)


def auc_of(judge: PartialJudge, rows: Rows, missing: Collection[str]) -> float:
    """How well wrong labels are told from right ones, over all rows together."""
    number = len(rows.right)
    features = PartialFeatures(np.arange(number), without(rows.of_sample, missing))
    return auc(judge.judge(number, 0, features).right, rows.right)
