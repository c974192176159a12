"""A confusion matrix of the validation samples, gathered batch by batch on the device that holds the logits."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from bss_service.core import measurement as formulas
from bss_service.protocol.validation import MAX_CONFUSIONS, Confusion
from trainer_client.logits.forms import check_labels, check_logits

DENSE: Final = 256  # classes up to which probabilities are summed; of more, samples are counted


class ConfusionMeter:
    """What validation samples of each class are taken for, by the sum of all heads' logits; for `sampler.validation`.

    Of up to 256 classes it sums the probabilities, in a matrix on the logits' device; of more it counts the samples
    that are taken for each class. It never waits for a device before `matrix`.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # (c, c)
        self._pairs: list[Tensor] = []  # (2, g) each: labels and predictions

    @torch.no_grad()
    def add(
        self, unimodal_logits: Sequence[Tensor], joint_logits: Tensor, labels: Tensor, *, ignore_index: int = -100
    ) -> None:
        """Take in a batch; arguments as for `measure`. Samples without a usable label count for nothing."""
        check_logits(unimodal_logits, joint_logits)
        check_labels(labels, joint_logits)
        classes, device = joint_logits.shape[1], joint_logits.device
        usable, is_ignored, is_outside = formulas.usable_labels(labels.long(), classes, ignore_index, torch)
        usable, unusable = usable.to(device), (is_ignored | is_outside).to(device)
        summed = torch.stack([*unimodal_logits, joint_logits]).float().sum(0)
        if classes > DENSE:
            self._pairs.append(torch.stack([usable.masked_fill(unusable, -1), summed.argmax(1)]))
            return
        if self._sums is None:
            self._sums = torch.zeros(classes, classes, device=device)
        probabilities = formulas.log_softmax(summed, torch).exp().masked_fill(unusable[:, None], 0.0)
        self._sums.index_add_(0, usable, probabilities)

    def matrix(self) -> Confusion:
        """All that was added; of more than 2^18 entries the largest."""
        label, predicted, mass = self._entries()
        largest = np.sort(np.argsort(-mass, kind="stable")[:MAX_CONFUSIONS])
        return Confusion(label=label[largest], predicted=predicted[largest], mass=mass[largest])

    def _entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._sums is not None:
            sums = self._sums.cpu().numpy()
            label, predicted = np.nonzero(sums > 0)
            return label, predicted, sums[label, predicted]
        pairs = torch.cat(self._pairs, dim=1).cpu().numpy() if self._pairs else np.empty((2, 0), np.int64)
        known, counts = np.unique(pairs[:, pairs[0] >= 0], axis=1, return_counts=True)
        return known[0], known[1], counts.astype(np.float32)
