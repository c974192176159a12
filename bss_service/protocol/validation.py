"""Validation reports, and what those of several jobs say of their policies."""

from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from bss_service.core.arrays import Float32, Int64
from bss_service.core.signals import LABEL
from bss_service.core.validation.comparison import Verdict
from bss_service.protocol.arrays import ArrayType
from bss_service.protocol.message import Loss, Message, OrNewer, Step, Unit

MAX_CONFUSIONS: Final = 2**18  # entries of a confusion matrix


class Confusion(Message):
    """Entries of a confusion matrix by the summed heads, of true class × predicted class; those not told are 0.

    mass: how many validation samples, or the sum of the probabilities that they give to the predicted class.
    """

    model_config = ConfigDict(frozen=True)

    label: Annotated[Int64, ArrayType(np.int64, "k", LABEL.low, LABEL.high)]
    predicted: Annotated[Int64, ArrayType(np.int64, "k", LABEL.low, LABEL.high)]
    mass: Annotated[Float32, ArrayType(np.float32, "k", 0)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not len(self.label) == len(self.predicted) == len(self.mass) <= MAX_CONFUSIONS:
            lengths = len(self.label), len(self.predicted), len(self.mass)
            raise ValueError(
                f"label, predicted and mass must have the same length, at most {MAX_CONFUSIONS}, got {lengths}"
            )
        return self


class ModalityReport(Message):
    """One unimodal head on the validation set."""

    model_config = ConfigDict(frozen=True)

    accuracy: Unit
    probability: Unit  # mean, of the true label


class ValidationReport(Message):
    """The model on the validation set after `step` steps; `modalities` has an entry for each unimodal head."""

    model_config = ConfigDict(frozen=True)

    step: Step
    loss: Loss
    accuracy: Unit  # of the joint head
    modalities: dict[str, ModalityReport] = {}
    samples: Annotated[int, Field(ge=1, lt=2**40)] | None = None  # that it rests on, if that is told
    confusion: Confusion | None = None  # of use to jobs that declare the signals of evidence

    def plain(self) -> Self:
        """Without the confusion matrix: what is compared, shown, and kept for ever."""
        return self if self.confusion is None else self.model_copy(update={"confusion": None})


class ValidationAnswer(Message):
    """`repeated`: this very report is known; `late`: another of this step or a later one is, and this is not used."""

    outcome: Annotated[Literal["applied", "repeated", "late"], OrNewer]
    rewards: list[float | None] = []  # of the decisions whose plans ended with this report, in order


class ValidationLog(Message):
    """The reports that a job took in, in order of step, from step `start` on; without confusion matrices."""

    start: int
    reports: list[ValidationReport]


class Difference(Message):
    """Accuracy of a policy less that of the baseline, in [−1, 1], the mean over pairs; a point is 0.01.

    low, high: the ends of Student's interval; null where there is none, as of a single pair.
    """

    mean: float
    low: float | None = None
    high: float | None = None


class PolicyComparison(Message):
    """One policy against the baseline, over pairs of jobs that have the same seed."""

    policy: str
    verdict: Annotated[Verdict, OrNewer]  # by the interval of `best` alone
    best: Difference  # of the best validation so far: the model that one would keep
    last: Difference  # of the last validation that all jobs have
    seeds: list[int]  # of the pairs
    jobs: list[str]  # in that order
    baseline_jobs: list[str]
    spread: float | None  # standard deviation of the difference of one pair, estimated; null: it can't be
    spread_from: Annotated[Literal["pairs", "late validations", "validation samples"] | None, OrNewer]
    more_seeds: (
        int | None
    )  # that a difference of this size takes to be found with 80 % power; null: none, or no telling
    curve: list[Difference]  # at each of `steps`, each interval for itself


class Comparison(Message):
    """Whether policies help, beginning with the result in a sentence."""

    sentence: str
    baseline: str
    level: float  # of each policy's interval: 95 % for all of them together
    steps: list[int]  # at which all of the jobs validated, at most 1,000 of them; the last is that of `last`
    policies: list[PolicyComparison]
    unpaired: list[str]  # jobs that are left out: no other has their seed
