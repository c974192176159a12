"""Students of other kinds: other optimisers, other widths, convolutions with batch normalisation and augmentation.

By autograd, side by side as those of `envs.students` are: a product, or a convolution in groups, over all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, batch_norm, conv1d, relu

from bss_service.core import measurement
from envs.students import IMPOSSIBLE, Students
from envs.tasks import Lesson

CHANNELS: Final = (8, 16)
KERNELS: Final = (5, 3)
SHIFT: Final = 4  # places at most
POOLED: Final = 4  # lengths that are left of a signal
EPSILON: Final = 1e-8


@dataclass(frozen=True, slots=True)
class Kind:
    """How students are built and trained."""

    optimiser: Literal["sgd", "momentum", "adam"]
    hidden: tuple[int, ...] = (64, 32)  # units of the dense layers of an encoder
    convolutions: bool = False  # in place of dense layers; views are signals then, shifted at random in training


class Networks(Students):
    """Students of one kind that all take the same number of steps."""

    def __init__(self, kind: Kind, number: int, modalities: int, features: int, classes: int, batch_size: int) -> None:
        super().__init__(number, modalities, features, classes, batch_size, tested=False, evidence=True)
        self.kind = kind
        rows = number * modalities
        widths = (features, *kind.hidden)
        self._shapes = [(before, after) for before, after in pairwise(widths)]
        if kind.convolutions:
            self._shapes = [(KERNELS[0], CHANNELS[0]), (CHANNELS[0] * KERNELS[1], CHANNELS[1])]
        last = CHANNELS[-1] * POOLED if kind.convolutions else widths[-1]
        layers = [*self._shapes, (last, 2 * classes)]
        self._weights = [torch.zeros(rows, *shape) for shape in layers]
        self._biases = [torch.zeros(rows, 1, outputs) for _, outputs in layers]
        self._running = [(torch.zeros(rows * c), torch.ones(rows * c)) for c in (CHANNELS if kind.convolutions else ())]
        self._first = [torch.zeros_like(p) for p in self._parameters()]
        self._second = [torch.zeros_like(p) for p in self._parameters()] if kind.optimiser == "adam" else []
        self._steps = 0
        self._shifts = np.random.default_rng(0)

    def enrol(self, place: int, lesson: Lesson, rng: np.random.Generator) -> None:
        super().enrol(place, lesson, rng)
        # The last to enrol seeds them for all: they are enrolled together.
        self._shifts = np.random.default_rng(int(rng.integers(2**63)))

    def _parameters(self) -> list[Tensor]:
        return [*self._weights, *self._biases]

    def _initialise(self, row: int, features: int, classes: int, rng: np.random.Generator) -> None:
        for k, weight in enumerate(self._weights):
            inputs = features if k == 0 and not self.kind.convolutions else weight.shape[1]
            gain = 0.5 if k == len(self._weights) - 1 else 2.0
            weight[row] = 0
            drawn = rng.standard_normal((inputs, weight.shape[2]), np.float32) * np.float32(np.sqrt(gain / inputs))
            weight[row, :inputs] = torch.from_numpy(drawn)
        for bias in self._biases:
            bias[row] = 0
        self._biases[-1][row].view(2, self.classes)[:, classes:] = IMPOSSIBLE

    def _predicted(self, data: Tensor, rows: slice) -> Tensor:
        with torch.no_grad():
            return self._heads(self._encoded(data, rows, training=False), rows)

    def _encoded(self, data: Tensor, rows: slice, *, training: bool) -> Tensor:
        """Samples (B·M, k, F) -> embeddings (B·M, k, last)."""
        if self.kind.convolutions:
            return self._convolved(data, rows, training=training)
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            data = relu(torch.baddbmm(bias[rows], data, weight[rows]))
        return data

    def _convolved(self, data: Tensor, rows: slice, *, training: bool) -> Tensor:
        networks, size, _ = data.shape
        maps = data.transpose(0, 1)  # (k, B·M channels, F): each network its group
        for k, (channels, kernel) in enumerate(zip(CHANNELS, KERNELS, strict=True)):
            weight = self._weights[k][rows].transpose(1, 2).reshape(networks * channels, -1, kernel)
            maps = conv1d(maps, weight, padding=kernel // 2, groups=networks)
            mean, variance = (values[rows.start * channels : rows.stop * channels] for values in self._running[k])
            maps = batch_norm(maps, mean, variance, bias=self._biases[k][rows].reshape(-1), training=training)
            maps = avg_pool1d(relu(maps), 4)
        return maps.view(size, networks, -1).transpose(0, 1)

    def _heads(self, hidden: Tensor, rows: slice) -> Tensor:
        """Embeddings -> logits (M + 1, B, c, k)."""
        out = torch.baddbmm(self._biases[-1][rows], hidden, self._weights[-1][rows])
        out = out.view(-1, self.modalities, out.shape[1], 2, self.classes).permute(3, 1, 0, 4, 2)
        return torch.cat([out[0], out[1].sum(0, keepdim=True)])

    def _step(
        self,
        rows: Tensor,
        targets: Tensor,
        scale: Tensor,
        logits: Tensor,
        memory: Tensor | None = None,
        pulls: Tensor | None = None,
    ) -> None:
        data = self._training.data.view(-1, self.features).index_select(0, rows)
        data = data.view(-1, self.batch_size, self.features)
        if self.kind.convolutions:
            data = self._shifted(data)
        parameters = self._parameters()
        for parameter in parameters:
            parameter.requires_grad_(True)
        everything = slice(0, self.number * self.modalities)
        out = self._heads(self._encoded(data, everything, training=True), everything)
        logits.copy_(out.detach())
        probabilities = torch.softmax(out.detach(), dim=2)
        if memory is not None and pulls is not None:
            targets = targets + measurement.pull_slope(probabilities, memory, 2, torch) * pulls[:, None, None]
        slope = (probabilities - targets) * scale / self._rates[:, None, None]
        gradients = torch.autograd.grad(out, parameters, slope)
        for parameter in parameters:
            parameter.requires_grad_(False)
        self._descend(parameters, gradients)

    def _shifted(self, data: Tensor) -> Tensor:
        """Signals (B·M, G, F), each moved round by a few places."""
        shift = torch.from_numpy(self._shifts.integers(-SHIFT, SHIFT + 1, size=data.shape[:2]))
        return data.gather(2, (torch.arange(self.features) + shift[:, :, None]) % self.features)

    def _descend(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        self._steps += 1
        rates = self._rates.repeat_interleave(self.modalities)[:, None, None]
        for k, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if self.kind.optimiser == "sgd":
                parameter -= rates * gradient
            elif self.kind.optimiser == "momentum":
                self._first[k].mul_(0.9).add_(gradient)
                parameter -= rates * self._first[k]
            else:  # Adam (Kingma and Ba 2015, algorithm 1)
                self._first[k].lerp_(gradient, 0.1)
                self._second[k].lerp_(gradient * gradient, 0.001)
                mean = self._first[k] / (1 - 0.9**self._steps)
                deviation = (self._second[k] / (1 - 0.999**self._steps)).sqrt_()
                parameter -= rates * mean / (deviation + EPSILON)
