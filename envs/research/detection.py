"""How well evidence tells the wrong labels, where it is known which those are."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from scipy.stats import rankdata

from bss_service.core.arrays import Bool, Float32, Floats

BELIEF: Final = 0.5  # P(label right) below which a label is said to be wrong
BINS: Final = 15  # of reliability curves


@dataclass(frozen=True, slots=True)
class Reliability:
    """Probabilities, and what happened, by bins of the probability: (BINS,) each."""

    said: Float32  # sum of the probabilities in each bin
    happened: Float32  # how often it did
    number: Float32  # how many there are

    @classmethod
    def of(cls, probability: Float32, happened: Bool) -> Self:
        """probability: (n,) in [0, 1]; happened: (n,) whether it did."""
        bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
        counts = (np.bincount(bins, weights, minlength=BINS) for weights in (probability, happened, None))
        return cls(*(count.astype(np.float32) for count in counts))

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al. 2017, equation 3): how far shares are from probabilities."""
        return float(np.abs(self.said.astype(np.float64) - self.happened).sum() / max(1.0, self.number.sum()))


@dataclass(frozen=True, slots=True)
class Detection:
    """What evidence was worth, held against the labels that are wrong."""

    auc: float  # of P(label right), NaN where no label is wrong
    precision: float  # of the disbelieved, NaN where there is none
    recall: float  # NaN where no label is wrong
    reliability: Reliability  # of P(label right)

    @classmethod
    def of(cls, right: Float32, wrong: Bool) -> Self:
        """right: (n,) P(label right), NaN of samples that were not seen, which don't count; wrong: (n,) the truth."""
        known = ~np.isnan(right)
        right, wrong = right[known], wrong[known]
        disbelieved = right < BELIEF
        return cls(
            auc(right, ~wrong),
            float(wrong[disbelieved].mean()) if disbelieved.any() else float("nan"),
            float(disbelieved[wrong].mean()) if wrong.any() else float("nan"),
            Reliability.of(right, ~wrong),
        )


def auc(score: Floats, is_positive: Bool) -> float:
    """Probability that a positive scores higher than a negative, ties counting half; NaN without either."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
