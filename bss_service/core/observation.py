"""The observation: one bounded float32 vector, the same for every n, M and data set."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Float32, Floats
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.samples.scores import balance_score, minmax
from bss_service.core.samples.table import SampleTable
from bss_service.core.validation.reward import Report, modality_balance

QUANTILES: Final = (0.1, 0.5, 0.9)

# Order and meaning are fixed by the schema hash: a policy trained on one schema is refused on another.
FIELDS: Final = (
    "progress",  # step / horizon, or epochs / (epochs + 30) where the horizon is unknown
    "measured_share",  # samples measured at least once
    "staleness",  # mean age of the measurements, in epochs, as a / (a + 1)
    "has_validation",
    "validation_accuracy",
    "validation_loss",  # l / (1 + l)
    "validation_accuracy_strongest",  # of the unimodal heads
    "validation_accuracy_weakest",
    "validation_accuracy_gap",
    "validation_balance",  # B of core/validation/reward.py
    "plateau",  # reports since the best loss, as k / (k + 5)
    "gain_last",  # of the validation accuracy g, as tanh(10·g)
    "gain_before_last",
    "training_probability",  # mean true-label probability of the joint head
    "training_probability_strongest",
    "training_probability_weakest",
    "training_probability_q10",
    "training_probability_q50",
    "training_probability_q90",
    "training_confident",  # samples to whose label the joint head gives more than 0.5
    "training_conflict",  # samples on whose label two heads differ by more than 0.5
    "head_gap_highest",  # over heads: mean true-label probability in training − in validation
    "head_gap_lowest",
    "generalisation_gap",  # training probability of the joint head − validation accuracy
    "training_loss",  # l / (1 + l)
    "loss_gap",  # tanh(validation loss − training loss)
    "similarity_mean",  # of the latest measurements, as cosines
    "similarity_deviation",
    "similarity_q10",
    "similarity_q50",
    "similarity_q90",
    "loss_mean",  # of the latest measurements, min-max normalised
    "loss_deviation",
    "loss_q10",
    "loss_q50",
    "loss_q90",
    "score_mean",  # balance score of the latest measurements
    "score_deviation",
    "similarity_loss_correlation",
    "previous_kappa_similarity",  # action of the plan before, scaled to [−1, 1]; 0 before the first
    "previous_kappa_loss",
    "previous_share",
    "has_evidence",  # some sample has
    "right_labels",  # mean P(label right)
    "rival_labels",  # mean P(the likeliest other class is the true one)
    "certainty",  # mean |2·P(label right) − 1|
    "disbelieved_labels",  # samples with P(label right) < 0.5
    "right_pairs",  # mean P(pair right)
    "disbelieved_pairs",  # samples with P(pair right) < 0.5
    "previous_belief",  # of the plan before
)

SCHEMA_HASH: Final = hashlib.sha256("\n".join(("3", *FIELDS)).encode()).hexdigest()
BEFORE_EVIDENCE: Final = 42  # fields that an observation had, the first of today's
SCHEMAS: Final[Mapping[str, int]] = {  # that a policy may have been trained on: how many fields of today's
    SCHEMA_HASH: len(FIELDS),
    "b1f41f5a96b2ea7e8d0a2449b7f0228d574804f9a45757903d59f125b075b724": BEFORE_EVIDENCE,
}


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a policy sees before it acts."""

    vector: Float32  # (len(FIELDS),) in [−1, 1]; 0 where a value is not known yet
    step: int  # first step of the plan to be drawn
    epoch: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Observation):
            return NotImplemented
        return (self.step, self.epoch) == (other.step, other.epoch) and np.array_equal(self.vector, other.vector)

    def __getitem__(self, name: str) -> float:
        return float(self.vector[FIELDS.index(name)])


def observe(
    table: SampleTable,
    *,
    step: int,
    epoch: int,
    steps_per_epoch: float,
    horizon: int | None,
    reports: Sequence[Report],
    previous: Action | None,
    evidence: Evidence | None = None,
) -> Observation:
    """Build the observation for the plan that begins at `step`. horizon: total steps of the run, if known."""
    values = dict.fromkeys(FIELDS, 0.0)
    values["progress"] = min(1.0, step / horizon) if horizon else epoch / (epoch + 30)
    values |= _of_reports(reports) | _of_gains(reports) | _of_previous(previous) | _of_evidence(evidence)
    measured = _of_table(table, step, steps_per_epoch)
    values |= measured
    if reports and "training_loss" in measured:
        values["loss_gap"] = float(np.tanh(reports[-1].loss - np.nanmean(table.latest["loss"], dtype=np.float64)))
    if reports and "training_probability" in measured:
        values["generalisation_gap"] = values["training_probability"] - reports[-1].accuracy
        values |= _of_head_gaps(table, reports[-1])
    vector = np.array([values[name] for name in FIELDS], dtype=np.float32)
    return Observation(np.clip(vector, -1, 1), step, epoch)


def _of_reports(reports: Sequence[Report]) -> dict[str, float]:
    if not reports:
        return {}
    last = reports[-1]
    best = min(range(len(reports)), key=lambda k: reports[k].loss)
    values = {
        "has_validation": 1.0,
        "validation_accuracy": last.accuracy,
        "validation_loss": _squashed(max(0.0, last.loss)),
        "plateau": _squashed((len(reports) - 1 - best) / 5),
    }
    accuracies = [head.accuracy for head in last.modalities.values()]
    if accuracies:
        values["validation_accuracy_strongest"] = max(accuracies)
        values["validation_accuracy_weakest"] = min(accuracies)
        values["validation_accuracy_gap"] = max(accuracies) - min(accuracies)
        values["validation_balance"] = modality_balance(last)
    return values


def _of_head_gaps(table: SampleTable, report: Report) -> dict[str, float]:
    gaps = table.mean_probabilities()[:-1] - np.array([head.probability for head in report.modalities.values()])
    return {"head_gap_highest": float(gaps.max()), "head_gap_lowest": float(gaps.min())} if len(gaps) else {}


def _of_gains(reports: Sequence[Report]) -> dict[str, float]:
    accuracies = [r.accuracy for r in reports[-3:]]
    gains = [0.0, 0.0, *(float(np.tanh(10 * (b - a))) for a, b in pairwise(accuracies))]
    return {"gain_last": gains[-1], "gain_before_last": gains[-2]}


def _of_previous(previous: Action | None) -> dict[str, float]:
    if previous is None:
        return {}
    similarity, loss, _, _, share, *_ = previous.to_vector()
    return {
        "previous_kappa_similarity": float(similarity),
        "previous_kappa_loss": float(loss),
        "previous_share": float(share),
        "previous_belief": previous.belief,
    }


def _of_evidence(evidence: Evidence | None) -> dict[str, float]:
    if evidence is None:
        return {}
    known = ~np.isnan(evidence.right)
    if not known.any():
        return {}
    right, rival, pair = evidence.right[known], evidence.rival[known], evidence.pair[known]
    return {
        "has_evidence": 1.0,
        "right_labels": float(right.mean(dtype=np.float64)),
        "rival_labels": float(rival.mean(dtype=np.float64)),
        "certainty": float(np.abs(2 * right - 1).mean(dtype=np.float64)),
        "disbelieved_labels": float((right < 0.5).mean()),
        "right_pairs": float(pair.mean(dtype=np.float64)),
        "disbelieved_pairs": float((pair < 0.5).mean()),
    }


def _of_table(table: SampleTable, step: int, steps_per_epoch: float) -> dict[str, float]:
    if not table.samples_measured:
        return {}
    measured = table.measured
    age = (step - table.last_step[measured].astype(np.float64)) / steps_per_epoch
    values = {"measured_share": float(measured.mean()), "staleness": _squashed(max(0.0, float(age.mean())))}
    if "probability" in table.latest:
        values |= _of_probabilities(table)
    similarity, loss = table.latest.get("similarity"), table.latest.get("loss")
    if loss is not None:
        values |= _of_loss(loss[~np.isnan(loss)])
    if similarity is not None:
        values |= _of_similarity(similarity[~np.isnan(similarity)])
    if similarity is not None and loss is not None:
        both = ~np.isnan(similarity) & ~np.isnan(loss)
        values |= _of_scores(similarity[both], loss[both])
    return values


def _of_probabilities(table: SampleTable) -> dict[str, float]:
    heads = table.mean_probabilities()
    if np.isnan(heads).any():
        return {}
    probabilities = table.latest["probability"]
    joint = probabilities[:, -1]
    values = {"training_probability": float(heads[-1])}
    values |= _quantiles("training_probability", joint[~np.isnan(joint)])
    values["training_confident"] = float((joint[~np.isnan(joint)] > 0.5).mean())
    if len(heads) > 1:
        unimodal = probabilities[~np.isnan(probabilities).any(axis=1), :-1]
        values["training_probability_strongest"] = float(heads[:-1].max())
        values["training_probability_weakest"] = float(heads[:-1].min())
        if len(unimodal):
            values["training_conflict"] = float((unimodal.max(axis=1) - unimodal.min(axis=1) > 0.5).mean())
    return values


def _of_loss(loss: Float32) -> dict[str, float]:
    if not len(loss):
        return {}
    scaled = minmax(loss)
    training_loss = _squashed(max(0.0, float(loss.mean(dtype=np.float64))))
    return {"training_loss": training_loss} | _moments("loss", scaled) | _quantiles("loss", scaled)


def _of_similarity(similarity: Float32) -> dict[str, float]:
    if not len(similarity):
        return {}
    clipped = np.clip(similarity, -1, 1)
    return _moments("similarity", clipped) | _quantiles("similarity", clipped)


def _of_scores(similarity: Float32, loss: Float32) -> dict[str, float]:
    """Of samples whose similarity and loss are both known."""
    if not len(loss):
        return {}
    clipped, scaled = np.clip(similarity, -1, 1), minmax(loss)
    correlation = _correlation(clipped, scaled)
    return _moments("score", balance_score(clipped, scaled)) | {"similarity_loss_correlation": correlation}


def _moments(name: str, values: Floats) -> dict[str, float]:
    return {
        f"{name}_mean": float(values.mean(dtype=np.float64)),
        f"{name}_deviation": float(values.std(dtype=np.float64)),
    }


def _quantiles(name: str, values: Floats) -> dict[str, float]:
    """Linear between the values in order, as numpy.quantile, which takes ten times as long for so few of them."""
    ordered = np.sort(values)
    quantiles = {}
    for q in QUANTILES:
        below, part = divmod(q * (len(ordered) - 1), 1)
        low, high = float(ordered[int(below)]), float(ordered[min(int(below) + 1, len(ordered) - 1)])
        quantiles[f"{name}_q{round(100 * q)}"] = low + part * (high - low)
    return quantiles


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _squashed(value: float) -> float:
    """[0, ∞) -> [0, 1)."""
    return value / (1 + value)


def unsquashed(values: Floats) -> Floats:
    """The inverse of how an observation holds losses and ages, [0, 1] -> [0, ∞]."""
    with np.errstate(divide="ignore"):
        return values / (1 - values)
