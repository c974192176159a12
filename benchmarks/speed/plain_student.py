"""A student of `envs.students` as one writes it by hand: modules, autograd, an optimiser, one network at a time."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bss_service.core import measurement
from bss_service.protocol.validation import ModalityReport, ValidationReport
from envs.students import HIDDEN, JOINT_WEIGHT, UNIMODAL_WEIGHT, Students
from envs.tasks import Lesson, Part


class Network(nn.Module):
    """Late fusion: an encoder and a head for each of M modalities, and a joint head, the sum of a part for each."""

    def __init__(self, features: Sequence[int], classes: int) -> None:
        super().__init__()
        first, second = HIDDEN
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(d, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()) for d in features
        )
        self.heads = nn.ModuleList(nn.Linear(second, classes) for _ in features)
        self.joint = nn.ModuleList(nn.Linear(second, classes) for _ in features)

    def forward(self, modalities: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """M inputs (k, d_j) -> logits (k, c) of the joint head and of the M unimodal ones."""
        hidden = [encoder(values) for encoder, values in zip(self.encoders, modalities, strict=True)]
        joint = torch.stack([part(h) for part, h in zip(self.joint, hidden, strict=True)]).sum(0)
        return joint, [head(h) for head, h in zip(self.heads, hidden, strict=True)]


class PlainStudent:
    """A network, its lesson and its optimiser."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self.network = Network([values.shape[1] for values in lesson.train.modalities], lesson.classes)
        self.optimiser = torch.optim.SGD(self.network.parameters(), lesson.learning_rate)
        self._train, self._validation, self._test = map(_tensors, (lesson.train, lesson.validation, lesson.test))

    @classmethod
    def of(cls, students: Students, place: int, lesson: Lesson) -> Self:
        """With the weights that the student at a place has now."""
        student = cls(lesson)
        with torch.no_grad():
            for m, (encoder, head, part) in enumerate(
                zip(student.network.encoders, student.network.heads, student.network.joint, strict=True)
            ):
                row = place * students.modalities + m
                for k, layer in enumerate((encoder[0], encoder[2])):  # type: ignore[index]
                    layer.weight.copy_(students._weights[k][row, : layer.in_features].T)
                    layer.bias.copy_(students._biases[k][row, 0])
                for k, layer in enumerate((head, part)):
                    rows = slice(k * students.classes, k * students.classes + lesson.classes)
                    layer.weight.copy_(students._weights[-1][row, rows])  # type: ignore[operator]
                    layer.bias.copy_(students._biases[-1][row, rows, 0])  # type: ignore[operator]
        return student

    def train(self, batches: np.ndarray) -> dict[str, np.ndarray]:
        """Train on batches (s, G) of indices; what was measured before each step."""
        modalities, labels = self._train
        seen = []
        for batch in torch.from_numpy(batches):
            joint, unimodal = self.network([values[batch] for values in modalities])
            target = labels[batch]
            loss = JOINT_WEIGHT * cross_entropy(joint, target)
            loss = loss + UNIMODAL_WEIGHT * sum(cross_entropy(logits, target) for logits in unimodal)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            seen.append(torch.stack([*unimodal, joint]).detach())
        with torch.no_grad():
            return _measured(torch.cat(seen, dim=1), labels[torch.from_numpy(batches.reshape(-1))], batches.shape)

    @torch.no_grad()
    def validate(self, split: str = "validation") -> ValidationReport:
        """The report (its step is 0) on a held-out split."""
        modalities, labels = self._validation if split == "validation" else self._test
        joint, unimodal = self.network(modalities)
        loss = JOINT_WEIGHT * cross_entropy(joint, labels)
        loss = loss + UNIMODAL_WEIGHT * sum(cross_entropy(logits, labels) for logits in unimodal)
        probabilities = [logits.softmax(1).gather(1, labels[:, None]).mean() for logits in unimodal]
        heads = zip(unimodal, probabilities, strict=True)
        return ValidationReport(
            step=0,
            loss=float(loss),
            accuracy=_accuracy(joint, labels),
            modalities={
                f"modality {m}": ModalityReport(accuracy=_accuracy(logits, labels), probability=float(p))
                for m, (logits, p) in enumerate(heads, start=1)
            },
        )


def _tensors(part: Part) -> tuple[list[Tensor], Tensor]:
    return [torch.from_numpy(values) for values in part.modalities], torch.from_numpy(part.labels)


def _measured(logits: Tensor, labels: Tensor, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """logits (M + 1, s·G, c) -> what `core.measurement` makes of them."""
    logs = measurement.log_softmax(logits, torch)
    loss = measurement.multimodal_loss(
        logs[-1], logs[:-1], labels, torch, joint_weight=JOINT_WEIGHT, unimodal_weight=UNIMODAL_WEIGHT
    )
    return {
        "similarity": measurement.similarity(logs[:-1].exp(), torch).view(shape).numpy(),
        "loss": loss.view(shape).numpy(),
        "probability": measurement.true_label(logs, labels, torch).exp().T.reshape(*shape, -1).numpy(),
    }


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())
