"""What is read of a sample and of its run before its label and its pair are judged.

Most is of the sample's training dynamics; the rest is the same for all samples of a run. What it means does not depend
on the number of samples, classes or modalities, so that a judge that learnt in one world is of use in another.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np

from bss_service.core.arrays import Bool, Float32, Float64, Floats, Int64
from bss_service.core.samples.dynamics import STEPS, Dynamics
from bss_service.core.samples.table import SampleTable
from bss_service.core.validation.reward import Report

LIMIT: Final = 4.0  # to which every feature is clipped, either way
FLOOR: Final = 0.02  # added to shares whose ratio is taken
LEAST: Final = 1e-4  # of a probability whose logit is taken
MATRIX: Final = 2**16  # entries of a matrix over pairs of classes that always may be

FIELDS: Final = (
    # Of the sample. "The rival": the class other than the label that is likeliest by the summed heads.
    "last_probability",  # of the label by the summed heads, as logit / 3
    "probability",  # the same, moving average
    "strongest_probability",  # moving average, by the unimodal head that is surest of labels in this run
    "weakest_probability",
    "joint_probability",
    "lead",  # probability − that of the rival, by the summed heads
    "rival_probability",  # by the summed heads
    "rival_strongest",  # by the strongest unimodal head
    "rival_weakest",
    "mean_margin",  # over its visits, in two deviations of the run's margins
    "margin",  # moving average
    "margin_trend",  # last − moving average
    "hits",  # share of the visits with the label first
    "similarity",  # of the unimodal heads' predictions
    "rank",  # of the probability among all samples, in [0, 1]
    "class_rank",  # among those with this label
    "asymmetry",  # log of how much more this label's samples look like the rival than the other way round
    "class_size",  # log of how many samples have this label, as a multiple of the average, / 2
    "class_probability",  # mean over the samples with this label, at the last visit
    "class_excess",  # the same in validation, by the confusion, − class_probability; 0 without a confusion
    "excess",  # log of how much more they look like it than validation samples of this class do; 0 without a confusion
    "visits",  # log(1 + visits) / 2
    "head_gap",  # strongest − weakest probability
    "joint_lead",  # joint probability − the higher unimodal one
    "agree_against",  # all unimodal heads predict the same class, another than the label
    "agree_with",
    # Of the run.
    "knows_confusion",  # whether validation reports tell one
    "validation_accuracy",
    "validation_strongest",  # of the unimodal heads
    "validation_weakest",
    "training_accuracy",  # share of the samples whose label was first at the last visit
    "generalisation",  # validation − training accuracy
    "mean_generalisation",  # mean of all validation accuracies but the first − mean of hits
    "fall",  # best validation accuracy so far − the last
    "mean_probability",
    "spread",  # deviation of the probability
    "classes",  # log of the number of labels, / 2
    "share_against",  # of the samples on which the unimodal heads agree against the label
    "share_with",
    "against_of_disputed",  # share_against among those on which the heads do not agree on the label
    "correlation",  # of the strongest and the weakest head's logits of the label
)

MODALITY_FIELDS: Final = (
    # Of the sample, by the unimodal head of one modality.
    "probability",  # of the label, moving average, as logit / 3
    "rival_probability",
    "lead",  # probability − mean of those of the other unimodal heads
    "predicts_label",
    "predicts_rival",
    "differs",  # share of the other unimodal heads that predict another class
    # Of the run.
    "strength",  # mean probability of the head − mean of all unimodal heads'
    "heads",  # log of the number of unimodal heads
)

SCHEMA_HASH: Final = hashlib.sha256("\n".join(("1", *FIELDS, "", *MODALITY_FIELDS)).encode()).hexdigest()


class Confusion(Protocol):
    """What validation samples of each class are taken for: entries (k,) of a matrix, the others are 0."""

    @property
    def label(self) -> Int64:
        """True class of each entry."""

    @property
    def predicted(self) -> Int64:
        """Predicted class of each entry."""

    @property
    def mass(self) -> Floats:
        """How many samples, counted or as the sum of the probabilities given to the predicted class."""


@dataclass(frozen=True, slots=True)
class Features:
    """What is read of the samples that were visited; all in [−LIMIT, LIMIT]."""

    visited: Int64  # (k,) ascending
    of_sample: Float32  # (k, len(FIELDS))
    of_modality: Float32  # (k, U, len(MODALITY_FIELDS))


def features(table: SampleTable, reports: Sequence[Report], confusion: Confusion | None) -> Features:
    """Of a table with training dynamics. reports: of validations so far; confusion: that of the last, if it has one."""
    assert table.dynamics is not None
    visited = np.flatnonzero(table.dynamics.visits)
    unimodal = table.dynamics.predicted_class.shape[1]
    if not len(visited):
        of_modality = np.empty((0, unimodal, len(MODALITY_FIELDS)), np.float32)
        return Features(visited, np.empty((0, len(FIELDS)), np.float32), of_modality)
    read = _Reading(table, table.dynamics, visited)
    columns = {**_of_samples(read), **_of_classes(read, confusion), **_of_run(read, reports)}
    columns["knows_confusion"] = float(confusion is not None)
    of_modality = np.empty((len(visited), unimodal, len(MODALITY_FIELDS)), np.float32)
    for head in range(unimodal):
        of_modality[:, head] = _laid_out(_of_modality(read, head), MODALITY_FIELDS, len(visited))
    return Features(visited, _laid_out(columns, FIELDS, len(visited)), of_modality)


def _laid_out(columns: Mapping[str, Floats | float], names: Sequence[str], rows: int) -> Float32:
    """Columns by name side by side, (rows, len(names))."""
    values = np.empty((rows, len(names)), np.float32)
    for k, name in enumerate(names):
        values[:, k] = columns[name]
    return np.clip(values, -LIMIT, LIMIT, out=values)


@dataclass(frozen=True)
class _Reading:
    """The columns of visited samples, k of them, in single precision."""

    table: SampleTable
    dynamics: Dynamics
    visited: Int64

    def column(self, name: str) -> Float32:
        """A column of the training dynamics."""
        column: Float32 = getattr(self.dynamics, name)[self.visited].astype(np.float32)
        return column

    @cached_property
    def probability(self) -> Float32:
        return self.column("summed_probability")

    @cached_property
    def heads(self) -> Float32:
        """(k, U) of the unimodal heads; of the joint head where there are none."""
        heads = self.column("probability")
        return heads[:, :-1] if heads.shape[1] > 1 else heads

    @cached_property
    def strongest(self) -> int:
        return int(self.heads.mean(axis=0, dtype=np.float64).argmax())

    @cached_property
    def weakest(self) -> int:
        return int(self.heads.mean(axis=0, dtype=np.float64).argmin())

    @cached_property
    def label(self) -> Int64:
        return self.dynamics.label[self.visited].astype(np.int64)

    @cached_property
    def rival(self) -> Int64:
        return self.dynamics.other_class[self.visited].astype(np.int64)

    @cached_property
    def rival_probability(self) -> Float32:
        """(k, U + 1) of the rival by each unimodal head and by the summed heads."""
        return self.column("other_probability") / np.float32(STEPS)

    @cached_property
    def margin(self) -> Float32:
        return self.column("margin")

    @cached_property
    def hits(self) -> Float32:
        """Share of the visits with the label first."""
        return self.column("hits") / self.column("visits")

    @cached_property
    def predicted(self) -> Int64:
        """(k, U) by each unimodal head."""
        return self.dynamics.predicted_class[self.visited].astype(np.int64)

    @cached_property
    def agreed(self) -> tuple[Bool, Bool]:
        """On which samples the unimodal heads agree on another class than the label, and on the label."""
        predicted = self.predicted
        if predicted.shape[1] < 2:
            none = np.zeros(len(self.visited), np.bool_)
            return none, none
        agree = (predicted == predicted[:, :1]).all(axis=1)
        right = predicted[:, 0] == self.label
        return agree & ~right, agree & right


def _of_samples(read: _Reading) -> dict[str, Floats | float]:
    strong, weak = read.heads[:, read.strongest], read.heads[:, read.weakest]
    joint = read.column("probability")[:, -1]
    rival = read.rival_probability
    spread = max(1e-3, float(read.margin.std(dtype=np.float64))) * 2
    visits = read.column("visits")
    similarity = read.table.latest.get("similarity")
    against, with_it = read.agreed
    return {
        "last_probability": _logit(read.column("last_probability")),
        "probability": _logit(read.probability),
        "strongest_probability": _logit(strong),
        "weakest_probability": _logit(weak),
        "joint_probability": _logit(joint),
        "lead": read.probability - rival[:, -1],
        "rival_probability": rival[:, -1],
        "rival_strongest": rival[:, min(read.strongest, rival.shape[1] - 1)],
        "rival_weakest": rival[:, min(read.weakest, rival.shape[1] - 1)],
        "mean_margin": read.column("mean_margin") / spread,
        "margin": read.margin / spread,
        "margin_trend": (read.column("last_margin") - read.margin) / spread,
        "hits": read.hits,
        "similarity": 0.0 if similarity is None else np.nan_to_num(similarity[read.visited]),
        "rank": _ranks(read.probability),
        "visits": np.log1p(visits) / 2,
        "head_gap": strong - weak,
        "joint_lead": joint - read.heads.max(axis=1),
        "agree_against": against,
        "agree_with": with_it,
    }


def _of_modality(read: _Reading, head: int) -> dict[str, Floats | float]:
    """What one unimodal head says, beside the others."""
    own, predicted = read.heads[:, head], read.predicted
    others = [other for other in range(predicted.shape[1]) if other != head]
    means = read.heads.mean(axis=0, dtype=np.float64)
    return {
        "probability": _logit(own),
        "rival_probability": read.rival_probability[:, head],
        "lead": own - read.heads[:, others].mean(axis=1) if others else 0.0,
        "predicts_label": predicted[:, head] == read.label,
        "predicts_rival": predicted[:, head] == read.rival,
        "differs": (predicted[:, others] != predicted[:, [head]]).mean(axis=1) if others else 0.0,
        "strength": float(means[head] - means.mean()),
        "heads": float(np.log(len(means))),
    }


def _of_classes(read: _Reading, confusion: Confusion | None) -> dict[str, Floats | float]:
    """What a sample's label has to do with its rival, over all samples of both classes."""
    width = int(max(read.label.max(), read.rival.max())) + 1
    seen = _Sums(width, read.label, read.rival, read.rival_probability[:, -1])
    towards, back = seen.at(read.label, read.rival), seen.at(read.rival, read.label)
    sizes = np.bincount(read.label, minlength=width)
    number = np.count_nonzero(sizes)
    own = np.bincount(read.label, read.column("last_probability"), minlength=width) / np.maximum(1, sizes)
    excess: Floats | float = 0.0
    class_excess: Floats | float = 0.0
    if confusion is not None:
        excess = np.log((towards / sizes[read.label] + FLOOR) / (_confused(read, confusion) + FLOOR))
        class_excess = (_recognised(confusion, width) - own)[read.label]
    return {
        "class_size": (np.log(np.maximum(1, sizes) * (number / len(read.label))) / 2)[read.label],
        "class_probability": own[read.label],
        "class_excess": class_excess,
        "asymmetry": np.log((towards + 1) / (back + 1)),
        "excess": excess,
        "class_rank": _class_ranks(read.probability, read.label, sizes),
        "classes": float(np.log(number) / 2),
    }


def _recognised(confusion: Confusion, width: int) -> Float64:
    """The mean probability of their class over the validation samples of each, (width,).

    With two samples more of each class, as well recognised as all are on average.
    """
    label, mass = confusion.label.astype(np.int64), confusion.mass.astype(np.float64)
    right = np.where(label == confusion.predicted, mass, 0.0)
    of_label, recognised = (np.bincount(label, values, minlength=width)[:width] for values in (mass, right))
    shares: Float64 = (recognised + 2 * right.sum() / max(1e-9, mass.sum())) / (of_label + 2)
    return shares


def _confused(read: _Reading, confusion: Confusion) -> Float64:
    """The share of the validation samples of each sample's label that are taken for its rival, (k,).

    With one sample more of each class, that looks like the average one: there may be few of it, or none.
    """
    label, predicted = confusion.label.astype(np.int64), confusion.predicted.astype(np.int64)
    width = int(max(label.max(initial=0), predicted.max(initial=0), read.label.max(), read.rival.max())) + 1
    mass = confusion.mass.astype(np.float64)
    of_label = np.bincount(label, mass, minlength=width)
    overall = np.bincount(predicted, mass, minlength=width) / max(1e-9, mass.sum())
    between = _Sums(width, label, predicted, mass).at(read.label, read.rival)
    share: Float64 = (between + overall[read.rival]) / (of_label[read.label] + 1)
    return share


def _of_run(read: _Reading, reports: Sequence[Report]) -> dict[str, Floats | float]:
    against, with_it = (float(flags.mean()) for flags in read.agreed)
    training = float((read.column("last_margin") > 0).mean())
    values: dict[str, Floats | float] = dict.fromkeys(FIELDS[FIELDS.index("validation_accuracy") :], 0.0)
    if reports:
        last = reports[-1]
        accuracies = [head.accuracy for head in last.modalities.values()] or [last.accuracy]
        values["validation_accuracy"] = last.accuracy
        values["validation_strongest"], values["validation_weakest"] = max(accuracies), min(accuracies)
        values["generalisation"] = last.accuracy - training
        values["fall"] = max(report.accuracy for report in reports) - last.accuracy
        later = [report.accuracy for report in reports[1:]] or [last.accuracy]
        values["mean_generalisation"] = sum(later) / len(later) - float(read.hits.mean())
    return values | {
        "training_accuracy": training,
        "mean_probability": float(read.probability.mean(dtype=np.float64)),
        "spread": float(read.probability.std(dtype=np.float64)),
        "share_against": against,
        "share_with": with_it,
        "against_of_disputed": against / max(1e-3, 1 - with_it),
        "correlation": _correlation(read),
    }


def _correlation(read: _Reading) -> float:
    if read.strongest == read.weakest:
        return 0.0
    a, b = (_logit(read.heads[:, head]).astype(np.float64) for head in (read.strongest, read.weakest))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


class _Sums:
    """Sums by pair of classes, of which there are `width`: in a matrix where that is no larger than the samples."""

    def __init__(self, width: int, first: Int64, second: Int64, values: Floats) -> None:
        self._width = width
        keys, weights = first * width + second, values.astype(np.float64)
        if width * width <= MATRIX + 4 * len(keys):
            self._keys: Int64 | None = None
            self._sums = np.bincount(keys, weights, minlength=width * width)
        else:
            self._keys, where = np.unique(keys, return_inverse=True)
            self._sums = np.bincount(where, weights, minlength=len(self._keys))

    def at(self, first: Int64, second: Int64) -> Float64:
        """The sums of pairs (k,); 0 of one that did not come."""
        keys = first * self._width + second
        if self._keys is None:
            sums: Float64 = self._sums[keys]
            return sums
        if not len(self._keys):
            return np.zeros(len(keys))
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._sums[places], 0.0)


def _logit(probability: Float32) -> Float32:
    p = np.clip(probability, LEAST, 1 - LEAST)
    logit: Float32 = np.log(p / (1 - p)) / np.float32(3)
    return logit


def _ranks(values: Float32) -> Float64:
    """Places in ascending order, in [0, 1]; of equal values the earlier first."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks / max(1, len(values) - 1)


def _class_ranks(values: Float32, label: Int64, sizes: Int64) -> Float64:
    """Places among the samples of the same label, in [0, 1]."""
    order = np.lexsort((values, label))
    starts = np.cumsum(sizes) - sizes
    places = np.empty(len(values))
    places[order] = np.arange(len(values)) - starts[label[order]]
    return places / np.maximum(1, sizes[label] - 1)
