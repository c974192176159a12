"""Training runs whose samples are judged on the way, and what a judge is to learn from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.evidence.features import FIELDS, MODALITY_FIELDS, Features, features
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.interval import learn_interval
from bss_service.core.samples.table import SampleTable
from bss_service.core.sampling import loss_weights
from bss_service.core.signals import EVIDENCE, Signals
from bss_service.protocol.validation import ValidationReport
from envs.students import Students
from envs.tasks import Lesson

BELIEF: Final = 0.5  # a sample whose label is less likely right than this is left out
START: Final = 4  # epochs that are uniform
RAMP: Final = 3  # epochs over which leaving out sets in
PROBES: Final = 0.12  # share of the rows that are of samples left out, with weight 0
PULL: Final = 1.5
GATE: Final = 0.1  # mean doubt from which on there is a pull
EPOCHS: Final = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)  # before which rows are collected

Judging = Callable[[int, Features], Evidence]  # Judge.judge


@dataclass(frozen=True, slots=True)
class Rows:
    """Judgements to be learnt, k of them."""

    of_sample: Float32  # (k, len(FIELDS))
    outcome: Int64  # (k,) 0: the label is right, 1: the rival is, 2: neither
    of_modality: Float32  # (k, len(MODALITY_FIELDS)), of one of the modalities
    wrong_modality: Bool  # (k,) of that modality
    epoch: Int64  # (k,)

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """All of them, one after the other."""
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(
                np.zeros((0, len(FIELDS)), np.float32),
                none,
                np.zeros((0, len(MODALITY_FIELDS)), np.float32),
                none.astype(np.bool_),
                none,
            )
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("of_sample", "outcome", "of_modality", "wrong_modality", "epoch")
            )
        )


class JudgedRun:
    """One student's table, reports and draws. Without a judge all samples are drawn alike."""

    def __init__(
        self,
        lesson: Lesson,
        batch_size: int,
        rng: np.random.Generator,
        *,
        judge: Judging | None,
        pull: float,
        confusion: bool,
    ) -> None:
        """pull: λ where there is doubt; confusion: whether validation reports tell one."""
        self.lesson, self.batch_size, self.rng = lesson, batch_size, rng
        self.judge, self.pull, self.confusion = judge, pull, confusion
        self.signals = Signals(EVIDENCE, len(lesson.train.modalities) + 1)
        self.table = SampleTable.empty(len(lesson.truth), self.signals)
        self.reports: list[ValidationReport] = []
        self.right = np.ones(len(lesson.truth))  # P(the label is right), of all samples
        self.left_out = np.zeros(len(lesson.truth), np.bool_)
        self.epoch = 0
        self.seen: Features | None = None

    def look(self) -> None:
        """Read and judge the samples before the next epoch, and choose who is left out of it."""
        confusion = self.reports[-1].confusion if self.confusion else None
        self.seen = features(self.table, self.reports, confusion)
        if self.judge is None:
            return
        self.right = np.nan_to_num(self.judge(len(self.table), self.seen).right.astype(np.float64), nan=1.0)
        self.leave_out(self.right < BELIEF)

    def leave_out(self, disbelieved: Bool) -> None:
        """Leave out what is disbelieved, (n,): a part of it while leaving out sets in, and never everything."""
        share = min(1.0, (self.epoch - START + 1) / RAMP) if self.epoch >= START else 0.0
        left_out = disbelieved & (self.rng.random(len(disbelieved)) < share)
        self.left_out = left_out & ~left_out.all()

    def draw(self) -> tuple[Int64, Float32 | None, float]:
        """Indices (s, G) of the next epoch, their loss weights, None for ones, and the pull λ."""
        shape = (len(self.table) // self.batch_size, self.batch_size)
        rows = shape[0] * shape[1]
        doubt = float(1 - self.right.mean())
        pull = self.pull if self.epoch >= START and doubt > GATE else 0.0
        probes = int(PROBES * rows) if self.left_out.any() else 0
        kept = _passes(np.flatnonzero(~self.left_out), rows - probes, self.rng)
        if not probes:
            return kept.reshape(shape), None, pull
        order = self.rng.permutation(rows)
        indices = np.concatenate([kept, _passes(np.flatnonzero(self.left_out), probes, self.rng)])[order]
        return indices.reshape(shape), loss_weights(order.reshape(shape) >= rows - probes), pull

    def learn(self, indices: Int64, measured: dict[str, Float32], report: ValidationReport) -> None:
        """Take in an epoch."""
        values = self.signals.joined(measured, indices.shape).reshape(-1, self.signals.width)
        learn_interval(self.table, indices.reshape(-1), np.full(indices.size, self.epoch), values)
        self.reports.append(report)
        self.epoch += 1

    def rows(self, number: int) -> Rows:
        """Of samples that were looked at, at most so many, each beside one of its modalities."""
        assert self.seen is not None
        assert self.table.dynamics is not None
        visited = self.seen.visited
        chosen = self.rng.permutation(len(visited))[:number]
        samples = visited[chosen]
        truth, rival = self.lesson.truth[samples], self.table.dynamics.other_class[samples].astype(np.int64)
        right = truth == self.lesson.train.labels[samples]
        modality = self.rng.integers(self.seen.of_modality.shape[1], size=len(chosen))
        return Rows(
            self.seen.of_sample[chosen],
            np.where(right, 0, np.where(truth == rival, 1, 2)),
            self.seen.of_modality[chosen, modality],
            self.lesson.wrong_modality[samples, modality],
            np.full(len(chosen), self.epoch),
        )


def _passes(candidates: Int64, rows: int, rng: np.random.Generator) -> Int64:
    """So many rows of passes through the candidates, each in an order of its own."""
    passes = -(-rows // len(candidates))
    return np.concatenate([rng.permutation(candidates) for _ in range(passes)])[:rows]


def train_judged(students: Students, runs: Sequence[JudgedRun], epochs: int, *, rows: int) -> Rows:
    """Train enrolled students for so many epochs. Returns `rows` judgements a run before each epoch of `EPOCHS`."""
    collected = []
    begin(students, runs)
    for epoch in range(epochs):
        looks = epoch in EPOCHS and rows > 0
        for run in runs:
            if epoch and (looks or run.judge is not None):
                run.look()
                if looks:
                    collected.append(run.rows(rows))
        train_epoch(students, runs)
    return Rows.joined(collected)


def begin(students: Students, runs: Sequence[JudgedRun]) -> None:
    """Report what enrolled students are worth untrained."""
    for run, report in zip(runs, students.validate(), strict=True):
        run.reports.append(report)


def train_epoch(students: Students, runs: Sequence[JudgedRun]) -> None:
    """Draw, train and report an epoch of each run."""
    drawn = [run.draw() for run in runs]
    measured = students.train([d[0] for d in drawn], [d[1] for d in drawn], [d[2] for d in drawn])
    for run, (indices, _, _), of_one, report in zip(runs, drawn, measured, students.validate(), strict=True):
        run.learn(indices, of_one, report)
