"""A judge of samples learns in simulation, where the harm is known: rounds of runs that it judges itself.

Each round adds rows of runs under the judge of the round before to those that it learns from (Ross et al. 2011): what
it leaves out changes what it sees next.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from bss_service.core.evidence.features import FIELDS, MODALITY_FIELDS, Features
from bss_service.core.evidence.posterior import OUTCOMES, Judge, Layers
from envs.research.detection import Detection, Reliability
from envs.research.rollouts import Progress, unheard
from envs.research.training.judging import PULL, JudgedRun, Rows, train_judged
from envs.research.training.networks import Kind, Networks
from envs.research.training.worlds import Size, world
from envs.sources import FEATURES
from envs.students import HIDDEN, Students

ROUNDS: Final = 3
GROUPS: Final = 100  # of students trained side by side, a round
FRESH: Final = 24  # groups on which the judge is tried in the end
SAMPLES: Final = 16_000  # of all students of a group together
MOST: Final = 24  # students in a group
ROWS: Final = 50  # learnt of a run before each of a few epochs
ACTING: Final = 0.75  # share of the runs that are under the judge of the round before
PULLED: Final = 0.6  # share of those whose trainer pulls
CONFUSED: Final = 0.9  # share of the runs whose validation reports tell a confusion
WIDTH: Final = 32  # units of a judge's two layers
STEPS: Final = 24_000  # of the last round's fit; a quarter in the others
BATCH: Final = 2048
RATE: Final = 3e-3
DECAY: Final = 1e-5

# Learning rates by optimiser, lowest and highest.
RATES: Final = {"sgd": (0.05, 0.2), "momentum": (0.005, 0.04), "adam": (5e-4, 4e-3)}
KINDS: Final = (
    (0.6, Kind("sgd", HIDDEN)),
    (0.05, Kind("sgd", (32,))),
    (0.06, Kind("momentum", HIDDEN)),
    (0.05, Kind("momentum", (128, 64))),
    (0.06, Kind("adam", HIDDEN)),
    (0.05, Kind("adam", (128, 64))),
    (0.05, Kind("adam", (16,))),
    (0.04, Kind("adam", convolutions=True)),
    (0.04, Kind("momentum", convolutions=True)),
)


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that are trained side by side."""

    size: Size
    kind: Kind
    number: int
    batch_size: int
    epochs: int
    rate: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Group":
        """Small runs for the most part, some of them large, short, or of other kinds of students."""
        kind = KINDS[int(rng.choice(len(KINDS), p=[share for share, _ in KINDS]))][1]
        samples = round(np.exp(rng.uniform(np.log(300), np.log(1500 if rng.random() < 0.85 else 5000))))
        epochs = rng.integers(3, 11) if rng.random() < 0.12 else rng.integers(12, 31 if samples <= 1500 else 16)
        low, high = np.log(RATES[kind.optimiser])
        return cls(
            size=Size(
                samples,
                modalities=int(rng.choice([2, 3, 4], p=[0.75, 0.15, 0.1])),
                classes=int(rng.choice([10, 25, 50], p=[0.86, 0.09, 0.05])),
                signals=kind.convolutions or rng.random() < 0.04,
            ),
            kind=kind,
            number=max(2, min(MOST, SAMPLES // samples) // (2 if kind.convolutions else 1)),
            batch_size=int(rng.choice([16, 32, 64], p=[0.1, 0.75, 0.15])),
            epochs=int(epochs),
            rate=float(np.exp(rng.uniform(low, high))),
        )

    def students(self, classes: int) -> Students:
        """Those of the group, to be enrolled."""
        shape = (self.number, self.size.modalities, FEATURES, classes, self.batch_size)
        if self.kind == Kind("sgd", HIDDEN):
            return Students(*shape, tested=False, evidence=True)
        return Networks(self.kind, *shape)


def train_judge(
    seed: int, *, scale: float = 1.0, results: Progress = unheard, progress: Progress = unheard
) -> tuple[Judge, dict[str, Any]]:
    """A judge, and what is known of it: losses, rows, and its calibration on fresh runs that it judges itself.

    scale: of the number of runs and steps. Ten minutes of one core at 1. results: is told what came of each round;
    progress: how far it is in one.
    """
    rows: list[Rows] = []
    judge: Judge | None = None
    known: dict[str, float] = {}
    for number in range(ROUNDS):
        groups = max(1, round(scale * GROUPS))
        for group in range(groups):
            rows.append(simulate([seed, number, group], judge))
            progress(f"round {number + 1}/{ROUNDS}  {group + 1} of {groups} groups of runs")
        steps = round(scale * STEPS) // (1 if number == ROUNDS - 1 else 4)
        judge, losses = fit(Rows.joined(rows), max(50, steps), seed + number)
        known = {"rows": sum(len(part.outcome) for part in rows), **losses}
        results(f"round {number + 1}/{ROUNDS}  " + "  ".join(f"{name} {value:.4g}" for name, value in known.items()))
    assert judge is not None
    fresh = Rows.joined([simulate([seed, ROUNDS, k], judge, acting=1.0) for k in range(max(1, round(scale * FRESH)))])
    training = {"seed": seed, "scale": scale, **known, **judged_on(judge, fresh)}
    results("fresh runs  " + "  ".join(f"{name} {training[name]:.4g}" for name in judged_on(judge, fresh)))
    return judge, training


def simulate(seed: list[int], judge: Judge | None, *, acting: float = ACTING) -> Rows:
    """The rows of a group of runs. Without a judge all samples are drawn alike."""
    rng = np.random.default_rng(seed)
    group = Group.draw(rng)
    lessons = [replace(world(group.size, rng), learning_rate=group.rate) for _ in range(group.number)]
    students = group.students(max(lesson.classes for lesson in lessons))
    runs = []
    for place, lesson in enumerate(lessons):
        students.enrol(place, lesson, rng)
        judging = judge.judge if judge is not None and rng.random() < acting else None
        pull = PULL if judging is not None and rng.random() < PULLED else 0.0
        confusion = rng.random() < CONFUSED
        runs.append(JudgedRun(lesson, group.batch_size, rng, judge=judging, pull=pull, confusion=confusion))
    return train_judged(students, runs, group.epochs, rows=ROWS)


# Learning.


def fit(rows: Rows, steps: int, seed: int) -> tuple[Judge, dict[str, float]]:
    """A judge of these rows, and its losses on them at the end of the fit."""
    rng = np.random.default_rng(seed)
    of_sample, of_modality = torch.from_numpy(rows.of_sample), torch.from_numpy(rows.of_modality)
    outcome, wrong = torch.from_numpy(rows.outcome), torch.from_numpy(rows.wrong_modality.astype(np.float32))
    label = network_of(len(FIELDS), OUTCOMES, rng)
    modality = network_of(len(FIELDS) + len(MODALITY_FIELDS), 1, rng)
    parameters = [*label.parameters(), *modality.parameters()]
    optimiser = torch.optim.Adam(parameters, RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = np.zeros((steps, 2))
    for step in range(steps):
        chosen = torch.from_numpy(rng.integers(len(outcome), size=BATCH))
        seen = of_sample[chosen]
        of_label = cross_entropy(label(seen), outcome[chosen])
        both = torch.cat([seen, of_modality[chosen]], dim=1)
        of_pair = binary_cross_entropy_with_logits(modality(both)[:, 0], wrong[chosen])
        optimiser.zero_grad()
        (of_label + of_pair).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses[step] = of_label.item(), of_pair.item()
    late = losses[-max(1, steps // 20) :].mean(axis=0)
    return Judge(layers_of(label), layers_of(modality)), {"label_loss": float(late[0]), "modality_loss": float(late[1])}


def judged_on(judge: Judge, rows: Rows) -> dict[str, float]:
    """How well calibrated a judge is on rows, and how precise and complete where it believes a label wrong."""
    number = len(rows.outcome)
    seen = Features(np.arange(number), rows.of_sample, rows.of_modality[:, None])
    evidence = judge.judge(number, seen)
    found = Detection.of(evidence.right, rows.outcome != 0)
    of_modality = Reliability.of(evidence.wrong_modality[:, 0], rows.wrong_modality)
    known = {
        "calibration_error": found.reliability.error,
        "modality_calibration_error": of_modality.error,
        "precision": found.precision,
        "recall": found.recall,
    }
    return {name: value for name, value in known.items() if not np.isnan(value)}


def network_of(inputs: int, outputs: int, rng: np.random.Generator) -> nn.Sequential:
    """A judge's network, its weights drawn from `rng`."""
    network = nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, outputs)
    )
    with torch.no_grad():
        for layer in _linear(network):
            drawn = rng.standard_normal(tuple(layer.weight.shape), np.float32) / np.sqrt(layer.in_features)
            layer.weight.copy_(torch.from_numpy(drawn.astype(np.float32)))
            layer.bias.zero_()
    return network


def _linear(network: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def layers_of(network: nn.Sequential) -> Layers:
    """Its weights and biases."""
    return [(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in _linear(network)]
