"""What is known of samples."""

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from bss_service.core.arrays import Float64, Int64, UInt8
from bss_service.protocol.arrays import ArrayType
from bss_service.protocol.message import Message
from bss_service.protocol.text import cell
from bss_service.protocol.training import JobSize

Order = Literal["label", "pair", "loss", "draws"]
MAX_LISTED: Final = 10_000  # samples in one answer


class DrawRow(Message):
    """One time that a sample was drawn."""

    step: int
    probability: float  # of a probe, among those left out
    policy_version: int
    probe: bool = False  # it was looked at, and not trained on


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
    """Samples in an order, the first of them or a later part.

    By `label` and `pair` those come first that are the least likely right, by `loss` the highest, by `draws` the most
    frequent. Of those of which nothing is known none is listed. step: what is known is of the plan before it.
    """

    order: Order
    step: int
    known: int  # how many could be listed
    samples: list[SampleRow]


class Histogram(Message):
    """How many samples have which value; those beyond the outermost edges count in the outermost bins."""

    name: str
    unit: str  # "1" of a probability or a number without one
    edges: Annotated[Float64, ArrayType(np.float64, "k + 1")]  # ascending; empty where nothing is known
    counts: Annotated[Int64, ArrayType(np.int64, "k")]
    unknown: int  # samples of which it is not known


class HistogramList(Message):
    """Of all samples, as the plan before `step` knew them."""

    step: int
    histograms: list[Histogram]


class DensityAnswer(Message):
    """How the samples are spread over similarity × loss, as the plan before `step` knew them.

    Samples beyond a range count in its outermost cells. All is empty where the job does not send both signals.
    """

    step: int
    similarity: Annotated[Float64, ArrayType(np.float64, "2")]  # range
    loss: Annotated[Float64, ArrayType(np.float64, "2")]
    counts: Annotated[Int64, ArrayType(np.int64, "s, l")]  # by similarity and loss; (64, 64) or (0, 0)


MAX_TOLD: Final = 256  # samples described in one message
MAX_DESCRIBED: Final = 2000  # samples of a job
MAX_TEXT: Final = 1000  # characters
MAX_SIDE: Final = 128  # pixels of a picture


class SampleDescriptions(Message):
    """What k samples show, for people: a text each, or a picture each, all of one size."""

    index: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    texts: list[Annotated[str, Field(max_length=MAX_TEXT)]] | None = None
    pictures: Annotated[UInt8, ArrayType(np.uint8, "k, h, w, 3")] | None = None  # red, green, blue; rows from the top

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        count = len(self.index)
        if not 1 <= count <= MAX_TOLD or len(np.unique(self.index)) < count:
            raise ValueError(f"index must hold 1 to {MAX_TOLD} samples that differ, got {count}")
        if (self.texts is None) == (self.pictures is None):
            raise ValueError("texts or pictures must be given, and one of them alone")
        told = self.texts if self.pictures is None else self.pictures
        if told is not None and len(told) != count:
            raise ValueError(f"index must be as long as what is told, got {count} for {len(told)}")
        if self.pictures is not None:
            height, width, channels = self.pictures.shape[1:]
            if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and channels == 3):
                shape = (height, width, channels)
                raise ValueError(f"pictures must have at most {MAX_SIDE} × {MAX_SIDE} pixels of 3 values, got {shape}")
        return self


MAX_KEYS: Final = 4096  # in one message
MAX_KEY: Final = 255  # characters
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY)]


class SampleKeys(Message):
    """What a trainer calls k of its samples; the same key is always the same sample."""

    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_KEYS)]


class KeysAnswer(JobSize):
    """The samples that keys stand for, and how many there are now: new keys may have made the job grow."""

    indices: Annotated[Int64, ArrayType(np.int64, "k", 0)]
    known: int  # keys that have an index, all together


class DescriptionRow(Message):
    """That a sample is described, and how."""

    index: int
    kind: Literal["text", "picture"]


class DescriptionList(Message):
    """Which samples of a job are described, by index."""

    descriptions: list[DescriptionRow]


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
