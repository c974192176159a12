"""Validation reports."""

from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from bss_service.core.arrays import Float32, Int64
from bss_service.core.signals import LABEL
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
