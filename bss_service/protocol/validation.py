"""Validation reports."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from bss_service.protocol.message import Loss, Message, OrNewer, Step, Unit


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


class ValidationAnswer(Message):
    """`repeated`: this very report is known; `late`: another of this step or a later one is, and this is not used."""

    outcome: Annotated[Literal["applied", "repeated", "late"], OrNewer]
    rewards: list[float | None] = []  # of the decisions whose plans ended with this report, in order
