"""Evidence where the signals that it is best read from are not all there: from the table's usual columns.

How likely a label is right is told by the loss, and better with the probabilities of heads and their similarity. Which
class it would be instead and which modality is wrong is not: nothing is said of them. A signal that is missing is a
feature of 0, and a flag beside it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bss_service.core.arrays import Float32, Float64, Floats, Int64
from bss_service.core.evidence.features import LEAST, LIMIT
from bss_service.core.evidence.posterior import ROWS, Evidence, Layers, check_layers, run, sigmoid, unknown
from bss_service.core.network import rounded
from bss_service.core.samples.table import SampleTable
from bss_service.core.validation.reward import Report

SMALL: Final = 0.01  # added to losses whose ratio is taken

# By the signal that it is read from; "heads": the probabilities of two unimodal heads or more.
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "loss": (
        # Of the sample.
        "loss",  # log of the latest, as a multiple of the median, / 2
        "loss_excess",  # − the mean, in two deviations
        "loss_rank",  # among all samples, in [0, 1]
        "average_loss",  # moving average of the min-max normalised, less its median
        "average_rank",
        "visits",  # log(1 + visits) / 2
        # Of the run.
        "spread",  # deviation of the loss as a multiple of the mean
        "upper_tail",  # log of its 90 % quantile as a multiple of the median, / 2
        "lower_tail",
        "knows_validation",
        "validation_accuracy",
        "fall",  # best validation accuracy so far − the last
    ),
    "probability": (
        "knows_probability",
        "joint_probability",  # the latest, of the label, as logit / 3
        "joint_rank",
        "mean_probability",
        "probability_spread",
        "confident",  # share of the samples with one above a half
        "generalisation",  # validation accuracy − that share
    ),
    "heads": (
        "knows_heads",
        "strongest_probability",  # by the unimodal head that is surest of labels in this run
        "weakest_probability",
        "head_gap",  # strongest − weakest
        "joint_lead",  # joint probability − the higher unimodal one
        "summed_rank",  # of the mean logit of all heads
        "validation_strongest",
        "validation_weakest",
        "correlation",  # of the strongest and the weakest head's logits
    ),
    "similarity": ("knows_similarity", "similarity", "similarity_rank", "mean_similarity"),
}
NAMES: Final = tuple(name for names in FIELDS.values() for name in names)


@dataclass(frozen=True, slots=True)
class PartialFeatures:
    """What is read of the samples whose loss is known; all in [−LIMIT, LIMIT]."""

    visited: Int64  # (k,) ascending
    of_sample: Float32  # (k, len(NAMES))


@dataclass(frozen=True, slots=True, eq=False)
class PartialJudge:
    """Reads evidence from features: layers from `NAMES` to one logit. Raises ValueError where they do not fit."""

    layers: Layers
    calibration_error: float = 0.05  # as of `Judge`

    def __post_init__(self) -> None:
        check_layers("layers", self.layers, len(NAMES), 1)

    def judge(self, samples: int, unimodal: int, features: PartialFeatures) -> Evidence:
        """The evidence of all n samples of a job of so many unimodal heads; no rival and no modality is suspected."""
        evidence = Evidence(unknown(samples), unknown(samples), unknown(samples, unimodal))
        evidence.rival[features.visited], evidence.wrong_modality[features.visited] = 0.0, 0.0
        for start in range(0, len(features.visited), ROWS):
            rows = slice(start, start + ROWS)
            evidence.right[features.visited[rows]] = rounded(sigmoid(run(self.layers, features.of_sample[rows])[:, 0]))
        return evidence


def partial_features(table: SampleTable, reports: Sequence[Report]) -> PartialFeatures:
    """Of a table whose samples have a loss. reports: of validations so far."""
    visited = np.flatnonzero(~np.isnan(table.latest["loss"]))
    values = np.zeros((len(visited), len(NAMES)), np.float32)
    if len(visited):
        columns = _columns(table, reports, visited)
        for k, name in enumerate(NAMES):
            values[:, k] = np.nan_to_num(columns.get(name, 0.0))
    return PartialFeatures(visited, np.clip(values, -LIMIT, LIMIT, out=values))


def without(of_sample: Float32, missing: Collection[str]) -> Float32:
    """Features (k, len(NAMES)) as they would be if signals of `FIELDS` were missing."""
    known = np.array([signal not in missing for signal, names in FIELDS.items() for _ in names])
    return np.where(known, of_sample, np.float32(0))


def _columns(table: SampleTable, reports: Sequence[Report], visited: Int64) -> dict[str, Floats | float]:
    columns = _of_loss(table, reports, visited)
    if "probability" in table.latest:
        columns |= _of_probability(table.latest["probability"][visited].astype(np.float64), reports)
    if "similarity" in table.latest:
        similarity = table.latest["similarity"][visited].astype(np.float64)
        known = {"knows_similarity": (~np.isnan(similarity)).astype(np.float64), "similarity": similarity}
        columns |= known | {"similarity_rank": _ranks(similarity), "mean_similarity": _mean(similarity)}
    return columns


def _of_loss(table: SampleTable, reports: Sequence[Report], visited: Int64) -> dict[str, Floats | float]:
    loss = table.latest["loss"][visited].astype(np.float64)
    average = table.average["loss"][visited].astype(np.float64)
    mean, deviation = float(loss.mean()), max(1e-6, float(loss.std()))
    lower, median, upper = (max(SMALL, float(q)) for q in np.quantile(loss, (0.1, 0.5, 0.9)))
    known = ~np.isnan(average)
    columns: dict[str, Floats | float] = {
        "loss": np.log((np.maximum(loss, 0) + SMALL) / median) / 2,
        "loss_excess": (loss - mean) / (2 * deviation),
        "loss_rank": _ranks(loss),
        "average_loss": average - (float(np.median(average[known])) if known.any() else 0.0),
        "average_rank": _ranks(average),
        "visits": np.log1p(table.times_measured[visited].astype(np.float64)) / 2,
        "spread": deviation / max(SMALL, abs(mean)),
        "upper_tail": float(np.log(upper / median)) / 2,
        "lower_tail": float(np.log(lower / median)) / 2,
    }
    if reports:
        last = reports[-1]
        columns |= {
            "knows_validation": 1.0,
            "validation_accuracy": last.accuracy,
            "fall": max(report.accuracy for report in reports) - last.accuracy,
        }
    return columns


def _of_probability(heads: Float64, reports: Sequence[Report]) -> dict[str, Floats | float]:
    """Of the probabilities (k, H), the joint head's last."""
    joint = heads[:, -1]
    confident = float((joint > 0.5).mean())
    columns: dict[str, Floats | float] = {
        "knows_probability": (~np.isnan(joint)).astype(np.float64),
        "joint_probability": _logit(joint),
        "joint_rank": _ranks(joint),
        "mean_probability": _mean(joint),
        "probability_spread": float(np.nan_to_num(np.nanstd(joint))) if (~np.isnan(joint)).any() else 0.0,
        "confident": confident,
        "generalisation": reports[-1].accuracy - confident if reports else 0.0,
    }
    unimodal = heads[:, :-1]
    means = [_mean(column) for column in unimodal.T]
    if len(means) < 2:
        return columns
    strong, weak = unimodal[:, int(np.argmax(means))], unimodal[:, int(np.argmin(means))]
    accuracies = [head.accuracy for head in reports[-1].modalities.values()] if reports else []
    logits = _logit(heads)
    return columns | {
        "knows_heads": (~np.isnan(unimodal).any(axis=1)).astype(np.float64),
        "strongest_probability": _logit(strong),
        "weakest_probability": _logit(weak),
        "head_gap": strong - weak,
        "joint_lead": joint - unimodal.max(axis=1),
        "summed_rank": _ranks(logits.mean(axis=1)),
        "validation_strongest": max(accuracies, default=0.0),
        "validation_weakest": min(accuracies, default=0.0),
        "correlation": _correlation(_logit(strong), _logit(weak)),
    }


def _mean(values: Float64) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _logit(probability: Float64) -> Float64:
    p = np.clip(probability, LEAST, 1 - LEAST)
    logit: Float64 = np.log(p / (1 - p)) / 3
    return logit


def _ranks(values: Float64) -> Float64:
    """Places in ascending order, in [0, 1]; of equal values the earlier first; of NaN NaN."""
    ranks = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    ranks[known[np.argsort(values[known], kind="stable")]] = np.arange(len(known)) / max(1, len(known) - 1)
    return ranks


def _correlation(one: Float64, other: Float64) -> float:
    known = ~np.isnan(one) & ~np.isnan(other)
    a, b = one[known] - _mean(one[known]), other[known] - _mean(other[known])
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
