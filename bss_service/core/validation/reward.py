"""From validation reports to the reward of an interval: gains, their normalisation, and the balance term."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

Metric = Literal["loss", "accuracy"]
Basis = Literal["surprise", "improvement"]


class Head(Protocol):
    """One unimodal head on the validation set."""

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""

    @property
    def probability(self) -> float:
        """Mean, of the true label, in [0, 1]."""


class Report(Protocol):
    """What is read of a validation report: the model on its validation set after `step` steps."""

    @property
    def step(self) -> int: ...

    @property
    def loss(self) -> float: ...

    @property
    def accuracy(self) -> float:
        """Of the joint head, in [0, 1]."""

    @property
    def modalities(self) -> Mapping[str, Head]:
        """The unimodal heads in the job's order."""


def value(report: Report, metric: Metric) -> float:
    """V: what a gain is a gain of, higher being better."""
    return -report.loss if metric == "loss" else report.accuracy


def modality_balance(report: Report) -> float:
    """B = 1 − (max_j ā_j − min_j ā_j) / Σ_j ā_j in [0, 1]; 1 where every head is equally sure.

    ā_j: mean true-label probability of unimodal head j on the validation set. All 0, or no head, counts as balanced.
    """
    probabilities = [head.probability for head in report.modalities.values()]
    total = sum(probabilities)
    return 1.0 if total == 0 else 1 - (max(probabilities) - min(probabilities)) / total


def normalised_gain(gain: float, history: Sequence[float], window: int = 20) -> float:
    """r = 2(g − q20)/(q80 − q20) − 1, clipped to [−1, 1] (Graves et al. 2017, section 3).

    history: earlier values, oldest first; the quantiles are those of the last `window`, this one included. 0 where
    they don't tell values apart.
    """
    low, high = np.quantile([*history[-(window - 1) :], gain], [0.2, 0.8])
    if high <= low:
        return 0.0
    return float(np.clip(2 * (gain - low) / (high - low) - 1, -1, 1))


def unexpected_gain(gain: float, history: Sequence[float]) -> float:
    """By how much a gain exceeds what this phase of training lets one expect.

    Gains shrink as training goes on, so that nearly every one is small among those before it, whatever the policy did.
    The next gain is expected to be ρ times the last one, ρ in [0, 1] fitted to the history by least squares; 0 for the
    first gain, of which nothing can be expected.
    """
    if not history:
        return 0.0
    before, after = np.array(history[:-1]), np.array(history[1:])
    energy = float(before @ before)
    rate = float(np.clip(before @ after / energy, 0, 1)) if energy > 0 else 1.0
    return gain - rate * history[-1]


def improvement(latest: float, earlier: Sequence[float]) -> float:
    """By how much the latest value exceeds the best before, ≥ 0; 0 for the first.

    Over a run these add up to its best value less its first: what choosing the best checkpoint makes of it.
    """
    return max(0.0, latest - max(earlier)) if earlier else 0.0


def shaping(before: Report, after: Report, discount: float) -> float:
    """γ·B_t − B_{t−1}: potential-based, so that it leaves the optimal policy unchanged (Ng et al. 1999)."""
    return discount * modality_balance(after) - modality_balance(before)
