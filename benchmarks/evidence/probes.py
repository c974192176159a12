"""How well probes find wrong labels on a model that has a joint head alone, beside real unimodal heads.

python -m benchmarks.evidence.probes mfeat.npz:fou,kar tmd.npz:motion,ambient cora.npz avdigits.npz

Late-fusion networks in PyTorch (two encoders of 64 and 32 units, SGD, 25 epochs, 600 samples, 20 % of the labels drawn
anew) on emoji, watch and the prepared data named: one with unimodal heads, which trains them too, and one with a joint
head alone, whose evidence is read from its probes, or from the joint head without them: by the usual judge, or by the
partial one from loss and probability. AUC of P(label right) after the last epoch of plain shuffling, from the same
first weights and the same batches.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bss_service.core.action import Action
from bss_service.core.arrays import Float32, Int64
from bss_service.core.evidence.features import features
from bss_service.core.evidence.partial import partial_features
from bss_service.core.interval import learn_interval
from bss_service.core.samples.table import SampleTable
from bss_service.core.signals import EVIDENCE, Signals
from bss_service.policies.shipped import usual_judge, usual_partial_judge
from bss_service.protocol.validation import ModalityReport, ValidationReport
from envs.research.comparison import BUILT_IN
from envs.research.detection import auc
from envs.tasks import Lesson, Part, Task, lesson
from trainer_client import UnimodalProbes, ValidationMeter, measure

HEADS, PROBES, JOINT = "real heads", "probes", "joint head alone"
EPOCHS: Final = 25
BATCH: Final = 32
RATE: Final = 0.1
NOISY: Final = 0.2
VIEWS: Final = ("first", "second")


class Model(nn.Module):
    """Two encoders, a head each, and a joint head on both."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()) for width in widths
        )
        self.heads = nn.ModuleList(nn.Linear(32, classes) for _ in widths)
        self.joint = nn.Linear(64, classes)

    def forward(self, views: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        embedded = [encoder(view) for encoder, view in zip(self.encoders, views, strict=True)]
        return [head(of) for head, of in zip(self.heads, embedded, strict=True)], self.joint(torch.cat(embedded, 1))


class Run:
    """A run whose evidence is read one of three ways."""

    def __init__(self, made: Lesson, way: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.made, self.way, self.rng = made, way, np.random.default_rng(seed)
        self.model = Model([view.shape[1] for view in made.train.modalities], made.classes)
        self.probes = UnimodalProbes(dict(zip(VIEWS, self.model.encoders, strict=True)), made.classes)
        heads = 1 if way == JOINT else 3
        self.signals = Signals([s for s in EVIDENCE if heads > 1 or s.name != "similarity"], heads)
        self.table = SampleTable.empty(len(made.truth), self.signals)
        self.reports: list[ValidationReport] = []

    def found(self) -> tuple[float, float, float]:
        """AUC of the wrong labels after the last epoch, by the usual judge and the partial one; best accuracy."""
        optimiser = torch.optim.SGD(self.model.parameters(), RATE)
        self._validate()
        for epoch in range(EPOCHS):
            for indices in self._batches():
                self._step(indices, epoch, optimiser)
            self._validate()
            if epoch < EPOCHS - 1:
                self.table.refresh(Action().ema)  # as a job does once it has looked
        read = features(self.table, self.reports, self.reports[-1].confusion)
        some = partial_features(self.table, self.reports)
        judged = usual_judge().judge(len(self.table), read), usual_partial_judge().judge(len(self.table), 0, some)
        by_all, by_some = (self._auc(evidence.right) for evidence in judged)
        return by_all, by_some, max(report.accuracy for report in self.reports)

    def _auc(self, right: Float32) -> float:
        known = ~np.isnan(right)
        return auc(right[known], ~self.made.wrong_label[known])

    def _batches(self) -> Iterator[Int64]:
        order = self.rng.permutation(len(self.table))
        yield from order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)

    def _step(self, indices: Int64, epoch: int, optimiser: torch.optim.Optimizer) -> None:
        views, labels = _tensors(self.made.train, indices)
        unimodal, joint = self.model(views)
        loss = cross_entropy(joint, labels)
        if self.way == HEADS:
            loss = (loss + sum(cross_entropy(head, labels) for head in unimodal)) / 2
        if self.way == PROBES:
            values = self.probes.measure(joint, labels)
        else:
            values = measure(unimodal if self.way == HEADS else [], joint, labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        told = {name: value.numpy() for name, value in values.items() if name in self.signals}
        rows = self.signals.joined(told, indices.shape)
        learn_interval(self.table, indices, np.full(len(indices), epoch), rows)

    @torch.no_grad()
    def _validate(self) -> None:
        views, labels = _tensors(self.made.validation, np.arange(len(self.made.validation.labels)))
        unimodal, joint = self.model(views)
        heads = {HEADS: unimodal, PROBES: self.probes.logits(), JOINT: []}[self.way]
        meter = ValidationMeter(VIEWS if heads else ())
        meter.add(heads, joint, labels)
        told = meter.report()
        of_heads = told["modalities"].items()
        self.reports.append(
            ValidationReport(
                step=len(self.reports),
                loss=told["loss"],
                accuracy=told["accuracy"],
                modalities={name: ModalityReport(accuracy=a, probability=p) for name, (a, p) in of_heads},
                confusion=told["confusion"].matrix(),
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", help="prepared file.npz[:modality,modality] of two modalities")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = (HEADS, PROBES, JOINT)
    print("| data | " + " | ".join(ways) + " | same, partial | probes − real heads | accuracy with heads, without |")
    print("|---|" + "---|" * (len(ways) + 3))
    every = []
    for source in [*BUILT_IN, *args.data]:
        tasks = [Task(source, 600, RATE, EPOCHS, seed, noisy_labels=NOISY) for seed in range(args.seeds)]
        results = np.array([[Run(lesson(task), way, task.seed).found() for way in ways] for task in tasks])
        every.append(results)
        print(_row(source.rsplit("/", 1)[-1], results), flush=True)
    print(_row("all", np.concatenate(every)))


def _row(name: str, results: np.ndarray) -> str:
    """Of AUCs and accuracies (seeds, ways, 3): means, and standard errors of AUCs and of their paired difference."""
    aucs = [*results[:, :, 0].T, results[:, -1, 1]]
    cells = [_with_error(of) for of in aucs] + [_with_error(aucs[1] - aucs[0], "+")]
    return f"| {name} | {' | '.join(cells)} | {results[:, 0, 2].mean():.1%}, {results[:, 1, 2].mean():.1%} |"


def _with_error(values: np.ndarray, sign: str = "") -> str:
    return f"{values.mean():{sign}.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def _tensors(part: Part, indices: Int64) -> tuple[list[Tensor], Tensor]:
    return [torch.from_numpy(view[indices]) for view in part.modalities], torch.from_numpy(part.labels[indices])


if __name__ == "__main__":
    main()
