"""Students: small late-fusion networks, trained side by side by batched matrix products.

Each row of every tensor is one network of one task. A product over the rows costs hardly more than that of one
network, since networks this small are bound by the cost of calling an operation.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bss_service.core import measurement
from bss_service.core.arrays import Float32, Float64, Int64
from bss_service.protocol.validation import Confusion, ModalityReport, ValidationReport
from envs.tasks import Lesson, Part

HIDDEN: Final = (64, 32)  # units of an encoder's two layers
JOINT_WEIGHT: Final = 0.5  # (1 − λ) and λ of the paper's ℓ_total
UNIMODAL_WEIGHT: Final = 0.5
THREADS: Final = "OPENBLAS_NUM_THREADS"  # read by NumPy as it is imported
REGISTER: Final = 16  # floats in the widest vector register
MEMORY_RATE: Final = 0.3  # of the moving average of what a head says of a sample
_threshold_backward: Final = torch.ops.aten.threshold_backward  # of relu: as far as something came through
IMPOSSIBLE: Final = -1e9  # bias of classes that a student's task does not have


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started within take one thread for NumPy's products.

    Those of students and their judges are too small to be shared out: threads that wait for one another take ten times
    the time, and that of the process beside.
    """
    before = os.environ.get(THREADS)
    os.environ[THREADS] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]


class Students:
    """B networks with M ≥ 2 modalities: an encoder of two layers each, a head each, and a joint head on all of them.

    Plain SGD on ℓ = (1 − λ)·CE_joint + λ·Σ_j CE_j with λ = 0.5 and gradients written out. Tasks may differ in number
    of samples, features and classes: what one has less than another is padded and stays without influence.
    """

    def __init__(
        self,
        number: int,
        modalities: int,
        features: int,
        classes: int,
        batch_size: int,
        *,
        tested: bool = True,
        evidence: bool = False,
    ) -> None:
        """number: B; features and classes: the most that any task has; batch_size: G of every task.

        tested: whether test samples are kept, so that `validate("test")` works. evidence: whether the signals of
        `core.signals.EVIDENCE` are measured, not the paper's alone.
        """
        self.evidence = evidence
        self.number, self.modalities, self.batch_size = number, modalities, batch_size
        self.features, self.classes = features, classes
        rows = number * modalities
        first, second = HIDDEN
        self._weights = [
            torch.zeros(rows, features, first),
            torch.zeros(rows, first, second),
            # A unimodal head, then the part of the joint head. Classes before samples: a softmax over the last axis,
            # as short as it is here, takes torch twenty times as long.
            torch.zeros(rows, 2 * classes, second),
        ]
        self._biases = [torch.zeros(rows, 1, first), torch.zeros(rows, 1, second), torch.zeros(rows, 2 * classes, 1)]
        self._rates = torch.zeros(number)
        self._memory: Tensor | None = None  # (B, n, (M + 1)·c) moving averages of softmaxes; 0 of what was not seen
        self._lessons: list[Lesson | None] = [None] * number
        self._training = _Shelf(number, modalities, features)
        self._held_out = {name: _Shelf(number, modalities, features) for name in ("validation", "test")[: 1 + tested]}

    def enrol(self, place: int, lesson: Lesson, rng: np.random.Generator) -> None:
        """Put a new network, its weights drawn from `rng`, before a task."""
        self._lessons[place] = lesson
        if self._memory is not None:
            self._memory[place] = 0
        self._rates[place] = lesson.learning_rate
        self._training.put(place, lesson.train)
        for name, shelf in self._held_out.items():
            shelf.put(place, getattr(lesson, name))
        for m in range(self.modalities):
            self._initialise(place * self.modalities + m, lesson.train.modalities[m].shape[1], lesson.classes, rng)

    def train(
        self,
        batches: Sequence[Int64],
        weights: Sequence[Float32 | None] | None = None,
        pull: Sequence[float] | None = None,
    ) -> list[dict[str, Float32]]:
        """Train student b on the batches (s_b, G) of indices.

        weights: (s_b, G) of each row's loss, with mean 1 over a batch, or (s_b, G, M + 1) of each head's; a row of
        weight 0 is looked at and not trained on. None: ones. pull: λ ≥ 0 of each student's early-learning
        regularisation (Liu et al. 2020, section 4). Each head then learns y + λ·p⊙(t − ⟨p, t⟩)/(1 − ⟨p, t⟩), where p is
        its softmax and t the moving average of those from earlier calls with a pull, and nothing on the first visit.

        What each measured on the way, before each step: the built-in signals, (s_b, G) or (s_b, G, M + 1).
        """
        steps = np.array([len(of_one) for of_one in batches])
        order = np.argsort(-steps, kind="stable")  # so that those that still train are the first, and no others compute
        own = torch.from_numpy(order)
        training = (steps > np.arange(steps.max())[:, None]).sum(1).tolist()  # (s,) students
        indices = np.zeros((len(training), self.number, self.batch_size), np.int64)
        for b, of_one in enumerate(batches):
            indices[: len(of_one), b] = of_one
        rows = torch.from_numpy(self._training.rows(indices)[:, order])  # (s, B, M·G)
        labels = torch.from_numpy(self._training.labels(indices)[:, order])  # (s, B, G)
        indices = indices[:, order]
        targets = torch.zeros(len(training), self.number, self.classes, self.batch_size)
        targets.scatter_(2, labels[:, :, None], 1.0)
        of_head = torch.full((self.modalities + 1, 1, 1, 1), UNIMODAL_WEIGHT / self.batch_size)
        of_head[-1] = JOINT_WEIGHT / self.batch_size
        scale = of_head * self._rates[own][:, None, None]  # (M + 1, B, 1, 1)
        of_row = None if weights is None else self._of_rows(weights, steps.tolist())[:, :, own]
        pulls = None if pull is None or not any(pull) else torch.tensor(pull, dtype=torch.float32)[own]
        seen = torch.zeros(self.modalities + 1, len(training), self.number, self.classes, self.batch_size)
        with self._sorted(own):
            for step, live in enumerate(training):
                rates = scale[:, :live] if of_row is None else scale[:, :live] * of_row[step, :, :live]
                logits, flat = seen[:, step, :live], rows[step, :live].reshape(-1)
                if pulls is None:
                    self._step(flat, targets[step, :live], rates, logits)
                    continue
                memory, places = self._remembered(indices[step, :live], order[:live])
                self._step(flat, targets[step, :live], rates, logits, memory, pulls[:live])
                self._remember(places, memory, logits, pulls[:live] > 0)
        measured = self._measured(torch.log_softmax(seen, dim=3), labels, steps[order].tolist())
        return [measured[place] for place in np.argsort(order).tolist()]

    @contextmanager
    def _sorted(self, order: Tensor) -> Iterator[None]:
        """Have the students' parameters in another order for a while."""
        rows = (order[:, None] * self.modalities + torch.arange(self.modalities)).reshape(-1)
        self._weights, self._biases = ([part[rows] for part in parts] for parts in (self._weights, self._biases))
        try:
            yield
        finally:
            back = rows.argsort()
            self._weights, self._biases = ([part[back] for part in parts] for parts in (self._weights, self._biases))

    def validate(self, split: str = "validation", place: int | None = None) -> list[ValidationReport]:
        """The reports (their step is 0) of all students, or of one, on the held-out samples of a split.

        Their numbers are not checked: those of a student that diverged are not finite.
        """
        shelf = self._held_out[split]
        places = slice(0, self.number) if place is None else slice(place, place + 1)
        rows = slice(places.start * self.modalities, places.stop * self.modalities)
        logits = self._predicted(shelf.data[places].view(-1, shelf.size, self.features), rows)
        log_probabilities = torch.log_softmax(logits, dim=2)
        own = _of_labels(log_probabilities, torch.from_numpy(shelf.label[places]))  # (M + 1, B, N)
        # No other class is as likely: a network that gives all the same knows nothing. Not by argmax, which takes torch
        # ten times as long over an axis that is not the last.
        correct = (log_probabilities >= own[:, :, None]).sum(2) == 1
        counts = shelf.count[places]
        losses, probabilities, accuracies = (_means(values, counts) for values in (_loss(own), own.exp(), correct))
        told = self.evidence and split == "validation"
        confusions = self._confusions(logits.sum(0), shelf, places) if told else [None] * len(counts)
        return [
            ValidationReport.model_construct(
                step=0,
                loss=float(losses[b]),
                accuracy=float(accuracies[-1, b]),
                modalities={
                    f"modality {m + 1}": ModalityReport.model_construct(
                        accuracy=float(accuracies[m, b]), probability=float(probabilities[m, b])
                    )
                    for m in range(self.modalities)
                },
                confusion=confusions[b],
            )
            for b in range(len(counts))
        ]

    def summed_accuracies(self, split: str) -> Float64:
        """Accuracy of each student by the sum of all heads' logits on the samples of a split, (B,)."""
        shelf = self._held_out[split]
        everyone = slice(0, self.number * self.modalities)
        summed = self._predicted(shelf.data.view(-1, shelf.size, self.features), everyone).sum(0)
        own = _of_labels(summed[None], torch.from_numpy(shelf.label))[0]  # (B, N)
        return _means((summed >= own[:, None]).sum(1) == 1, shelf.count)

    def _confusions(self, summed: Tensor, shelf: "_Shelf", places: slice) -> list[Confusion]:
        """What each student's held-out samples are taken for, by summed logits (B, c, N)."""
        probabilities = torch.softmax(summed, dim=1).transpose(1, 2).numpy()
        confusions = []
        for labels, count, of_one in zip(shelf.label[places], shelf.count[places], probabilities, strict=True):
            mass = np.zeros((self.classes, self.classes), np.float32)
            np.add.at(mass, labels[:count], of_one[:count])
            label, predicted = np.nonzero(mass)
            confusions.append(Confusion.model_construct(label=label, predicted=predicted, mass=mass[label, predicted]))
        return confusions

    def _initialise(self, row: int, features: int, classes: int, rng: np.random.Generator) -> None:
        """He's initialisation of the encoder, half of it for the heads."""
        for weight, size in zip(self._weights[:-1], (features, HIDDEN[0]), strict=True):
            weight[row] = 0
            weight[row, :size] = _normal((size, weight.shape[2]), np.sqrt(2 / size), rng)
        self._weights[-1][row] = _normal(self._weights[-1].shape[1:], np.sqrt(0.5 / HIDDEN[-1]), rng)
        for bias in self._biases:
            bias[row] = 0
        self._biases[-1][row].view(2, self.classes)[:, classes:] = IMPOSSIBLE

    def _predicted(self, data: Tensor, rows: slice) -> Tensor:
        """Held-out samples (B·M, k, F) of some rows -> logits (M + 1, B, c, k)."""
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            data = torch.baddbmm(bias[rows], data, weight[rows]).relu_()
        logits = torch.empty(self.modalities + 1, len(data) // self.modalities, self.classes, data.shape[1])
        return self._logits(data, rows, logits)

    def _logits(self, hidden: Tensor, rows: slice, logits: Tensor) -> Tensor:
        """Embeddings (B·M, k, H) of some rows -> logits (M + 1, B, c, k), written where they are wanted."""
        out = torch.baddbmm(self._biases[-1][rows], self._weights[-1][rows], hidden.transpose(1, 2))
        out = out.view(-1, self.modalities, 2, self.classes, out.shape[2])
        logits[:-1] = out[:, :, 0].transpose(0, 1)
        torch.sum(out[:, :, 1], dim=1, out=logits[-1])
        return logits

    def _of_rows(self, weights: Sequence[Float32 | None], steps: Sequence[int]) -> Tensor:
        """Loss weights laid out for a step's gradients, (s, M + 1 or 1, B, 1, G)."""
        by_head = any(of_one is not None and of_one.ndim == 3 for of_one in weights)
        of_row = torch.ones(max(steps), self.modalities + 1 if by_head else 1, self.number, 1, self.batch_size)
        for b, (of_one, number) in enumerate(zip(weights, steps, strict=True)):
            if of_one is not None:
                heads = of_one[:, None] if of_one.ndim == 2 else of_one.transpose(0, 2, 1)
                of_row[:number, :, b, 0] = torch.from_numpy(heads)
        return of_row

    def _remembered(self, indices: Int64, students: Int64) -> tuple[Tensor, Tensor]:
        """What the heads of some students said of their samples (k, G) before, (M + 1, k, c, G), and where it stands.

        That is the rows (k·G,) of the memory laid flat.
        """
        width = (self.modalities + 1) * self.classes
        if self._memory is None:
            self._memory = torch.zeros(self.number, self._training.size, width)
        if self._memory.shape[1] < self._training.size:  # a larger lesson came
            self._memory = torch.nn.functional.pad(self._memory, (0, 0, 0, self._training.size - self._memory.shape[1]))
        places = torch.from_numpy((students[:, None] * self._memory.shape[1] + indices).reshape(-1))
        kept = self._memory.view(-1, width).index_select(0, places)
        kept = kept.view(len(students), self.batch_size, self.modalities + 1, self.classes)
        return kept.permute(2, 0, 3, 1), places

    def _remember(self, places: Tensor, memory: Tensor, logits: Tensor, active: Tensor) -> None:
        """Fold what the heads say now into the memory of active students (k,); of a sample seen first, it is that."""
        assert self._memory is not None
        rate = torch.where(memory.sum(dim=2, keepdim=True) == 0, 1.0, MEMORY_RATE) * active[:, None, None]
        fresh = torch.lerp(memory, torch.softmax(logits, dim=2), rate)
        flat = fresh.permute(1, 3, 0, 2).reshape(len(places), -1)
        self._memory.view(-1, flat.shape[1]).index_copy_(0, places, flat)

    def _step(
        self,
        rows: Tensor,
        targets: Tensor,
        scale: Tensor,
        logits: Tensor,
        memory: Tensor | None = None,
        pulls: Tensor | None = None,
    ) -> None:
        """One step of SGD of the first k students; their logits (M + 1, k, c, G) before it are written down."""
        students = logits.shape[1]
        live = slice(students * self.modalities)
        weights, biases = ([part[live] for part in parts] for parts in (self._weights, self._biases))
        layers = [
            self._training.data.view(-1, self.features).index_select(0, rows).view(-1, self.batch_size, self.features)
        ]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            layers.append(torch.baddbmm(bias, layers[-1], weight).relu_())
        probabilities = torch.softmax(self._logits(layers[-1], live, logits), dim=2)
        if memory is not None and pulls is not None:
            targets = targets + measurement.pull_slope(probabilities, memory, 2, torch) * pulls[:, None, None]
        slope = probabilities.sub_(targets).mul_(scale)  # ∂ℓ/∂logits times the learning rate
        gradient = torch.empty(students, self.modalities, 2, self.classes, self.batch_size)
        gradient[:, :, 0] = slope[:-1].transpose(0, 1)
        gradient[:, :, 1] = slope[-1][:, None]
        gradient = gradient.view(-1, 2 * self.classes, self.batch_size)
        back = _threshold_backward(torch.bmm(gradient.transpose(1, 2), weights[-1]), layers[-1], 0)
        weights[-1].baddbmm_(gradient, layers[-1], alpha=-1)
        biases[-1].sub_(gradient.sum(2, keepdim=True))
        for k in (1, 0):
            gradient, weight = back, weights[k]
            if k:
                back = _threshold_backward(torch.bmm(gradient, weight.transpose(1, 2)), layers[k], 0)
            weight.baddbmm_(layers[k].transpose(1, 2), gradient, alpha=-1)
            biases[k].sub_(gradient.sum(1, keepdim=True))

    def _measured(self, log_probabilities: Tensor, labels: Tensor, steps: Sequence[int]) -> list[dict[str, Float32]]:
        own = _of_labels(log_probabilities, labels)  # (M + 1, s, B, G)
        # Not exp: of numbers as low as those of impossible classes it takes torch ten times as long.
        unimodal = (
            torch.softmax(log_probabilities[:-1], dim=3).transpose(3, 4).reshape(self.modalities, -1, self.classes)
        )
        similarity = measurement.similarity(unimodal, torch).view(labels.shape)
        measured = {"similarity": similarity, "loss": _loss(own), "probability": own.exp().permute(1, 2, 3, 0)}
        if self.evidence:
            flat = log_probabilities.transpose(3, 4).reshape(self.modalities + 1, -1, self.classes)
            for name, values in measurement.label_and_rival(flat, labels.reshape(-1), torch).items():
                measured[name] = values.float().view(*labels.shape, *values.shape[1:])
            measured["label"] = labels.float()
        return [{name: values[:s, b].numpy().copy() for name, values in measured.items()} for b, s in enumerate(steps)]


def _of_labels(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """(M + 1, …, c, k) at the labels (…, k) -> (M + 1, …, k)."""
    index = labels.expand(len(log_probabilities), *labels.shape)
    return log_probabilities.gather(-2, index[..., None, :])[..., 0, :]


def _loss(own: Tensor) -> Tensor:
    """`core.measurement.multimodal_loss` of log-probabilities (M + 1, …) of the labels."""
    return -(JOINT_WEIGHT * own[-1] + UNIMODAL_WEIGHT * own[:-1].sum(0))


def _means(values: Tensor, counts: Int64) -> Float64:
    """Over the samples that are no padding, (…, B, N) -> (…, B). One by one: a sum's last bits vary with padding."""
    array = values.numpy()
    return np.stack([array[..., b, :count].mean(-1, dtype=np.float64) for b, count in enumerate(counts)], axis=-1)


def _normal(shape: Sequence[int], deviation: float, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), np.float32) * np.float32(deviation))


class _Shelf:
    """The samples of one split for every student, padded to the largest.

    And to whole vector registers: what is left over is computed in another way, whose last bits differ, and what is
    left over of one student's samples would depend on how many the others have.
    """

    def __init__(self, number: int, modalities: int, features: int) -> None:
        self.number, self.modalities, self.features = number, modalities, features
        self.size = REGISTER
        self.count = np.ones(number, np.int64)
        self.data = torch.zeros(number, modalities, self.size, features)
        self.label: NDArray[np.int64] = np.zeros((number, self.size), np.int64)

    def put(self, place: int, part: Part) -> None:
        if len(part.labels) > self.size:
            self._grow(-(-len(part.labels) // REGISTER) * REGISTER)
        self.count[place] = len(part.labels)
        self.data[place].zero_()
        for m, values in enumerate(part.modalities):
            self.data[place, m, : values.shape[0], : values.shape[1]] = torch.from_numpy(values)
        self.label[place] = 0
        self.label[place, : len(part.labels)] = part.labels

    def rows(self, indices: Int64) -> Int64:
        """indices (s, B, G) -> rows (s, B, M·G) of the data laid flat."""
        steps, number, size = indices.shape
        start = np.arange(number * self.modalities).reshape(number, self.modalities, 1) * self.size
        rows: Int64 = (start[None] + indices[:, :, None, :]).reshape(steps, number, self.modalities * size)
        return rows

    def labels(self, indices: Int64) -> Int64:
        """indices (s, B, G) -> labels (s, B, G)."""
        return self.label[np.arange(self.number)[:, None], indices]

    def _grow(self, size: int) -> None:
        data = torch.zeros(self.number, self.modalities, size, self.features)
        data[:, :, : self.size] = self.data
        label = np.zeros((self.number, size), np.int64)
        label[:, : self.size] = self.label
        self.data, self.label, self.size = data, label, size
