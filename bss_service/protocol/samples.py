"""What is known of samples."""

import csv
import io
from collections.abc import Sequence
from typing import Final, Literal

from bss_service.protocol.message import Message
from bss_service.protocol.text import cell

Order = Literal["label", "pair", "loss", "draws"]
MAX_LISTED: Final = 10_000  # samples in one answer


class DrawRow(Message):
    """One time that a sample was drawn."""

    step: int
    probability: float
    policy_version: int


class SampleEvidence(Message):
    """How far a sample's label and pair are to be trusted, and what the heads say of it."""

    right: float  # P(the label is right)
    rival: float  # P(the likeliest other class is the true one)
    pair: float  # P(every modality belongs to the sample)
    wrong_modality: dict[str, float]  # P(what the modality shows belongs to another sample, or is nothing)
    label: int  # the class that it is labelled with
    likeliest: int  # the likeliest other class, by all heads
    predicted: dict[str, int]  # the class that each unimodal head predicts


class SampleState(Message):
    """Why a sample is drawn as it is: what the latest interval was drawn from; null: not known by then."""

    index: int
    signals: dict[str, float | dict[str, float | None] | None]  # latest values; by head where each of them has one
    balance_score: float | None  # ŝ, moving average
    first_score: float | None
    times_measured: int
    last_measured: int | None  # step
    evidence: SampleEvidence | None = None  # null also where the job does not send what it is read from
    draws: list[DrawRow]  # the latest, newest first
    draws_since: int = 0  # the first step that was looked through for them: of long ago none is looked for


class SampleRow(Message):
    """A sample in a list."""

    index: int
    evidence: SampleEvidence | None  # null also by `loss` and `draws`, which need none
    loss: float | None
    draws: int  # times that it was drawn and measured
    last_measured: int | None  # step


class SampleList(Message):
    """The first samples in an order.

    By `label` and `pair` those come first that are the least likely right, by `loss` the highest, by `draws` the most
    frequent. Of those of which nothing is known none is listed. step: what is known is of the plan before it.
    """

    order: Order
    step: int
    known: int  # how many could be listed
    samples: list[SampleRow]


def csv_of(listed: SampleList, names: Sequence[str] | None = None) -> str:
    """One line a sample under a header; empty where something is not known. names: of all samples of the job.

    No cell of a name is a formula to a spreadsheet, nor holds what moves a cursor.
    """
    known = [row.evidence for row in listed.samples if row.evidence is not None]
    heads = list(known[0].predicted) if known else []
    columns = ["index", *(["name"] if names is not None else []), "right", "rival", "pair", "label", "likeliest"]
    columns += [f"predicted_{head}" for head in heads] + [f"wrong_{head}" for head in heads]
    columns += ["loss", "draws", "last_measured"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({column: cell(column) for column in columns})
    for row in listed.samples:
        fields: dict[str, object] = row.model_dump(include={"index", "loss", "draws", "last_measured"})
        if names is not None:
            fields["name"] = cell(names[row.index])
        if row.evidence is not None:
            fields |= row.evidence.model_dump(include={"right", "rival", "pair", "label", "likeliest"})
            fields |= {f"predicted_{head}": predicted for head, predicted in row.evidence.predicted.items()}
            fields |= {f"wrong_{head}": wrong for head, wrong in row.evidence.wrong_modality.items()}
        writer.writerow(fields)
    return text.getvalue()
