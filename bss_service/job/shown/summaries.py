"""What the service shows of all of a job at once: lines thinned out, histograms, a density; never a row a sample.

Each function takes a job that nobody changes meanwhile.
"""

import hashlib
import secrets
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from bss_service.core.action import RANGES
from bss_service.core.arrays import Float32, Float64, Floats
from bss_service.core.evidence.posterior import Evidence
from bss_service.core.observation import FIELDS, unsquashed
from bss_service.core.samples import summaries as core
from bss_service.job.history import BLOCK, History
from bss_service.job.job import Job
from bss_service.job.shown.pace import Pace
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JOINT, MAX_VERSIONS, Series, SeriesAnswer, SeriesOf
from bss_service.protocol.message import Message
from bss_service.protocol.samples import DensityAnswer, Histogram, HistogramList
from bss_service.protocol.validation import ValidationReport

READ: Final = 16 * BLOCK  # decisions that are read out of the store at a time
DIGITS: Final = 6  # of what is shown, behind the point
KEPT: Final = 32  # summaries of one job

_SEEN: Final[tuple[tuple[str, str, str | None], ...]] = (  # of an observation: its unit, and what must be known for it
    ("measured_share", "1", None),
    ("staleness", "epochs", None),
    ("training_loss", "nat", None),
    ("training_probability_q10", "1", None),
    ("training_probability_q50", "1", None),
    ("training_probability_q90", "1", None),
    ("similarity_q10", "1", None),
    ("similarity_q50", "1", None),
    ("similarity_q90", "1", None),
    ("validation_balance", "1", "has_validation"),
    ("right_labels", "1", "has_evidence"),
    ("right_pairs", "1", "has_evidence"),
)
_SQUASHED: Final = ("staleness", "training_loss")  # in an observation
_AT: Final[dict[str, int]] = {name: k for k, name in enumerate(FIELDS)}
_OWN: Final = (("reward", "1"), ("gain", "nat"), ("propensity", "1"), ("left_out_share", "1"))
_PACE: Final = (("speed", None, "steps/s"), ("held", None, "1"), ("planned", None, "1"))


class Summary(NamedTuple):
    """An answer, and the tag by which a client says that it has this one."""

    tag: str
    message: Message
    json: bytes


@dataclass(slots=True)
class Summaries:
    """Those of one job, kept as long as what they tell of stays as it is."""

    decisions: "DecisionColumns" = field(default_factory=lambda: DecisionColumns())
    _kept: dict[Hashable, tuple[Hashable, Summary]] = field(default_factory=dict)
    _loading: str = field(default_factory=lambda: secrets.token_hex(8))  # no tag outlives what memory holds of the job

    def find(self, what: Hashable, state: Hashable) -> Summary | None:
        """The summary of a state of the job, if it was computed."""
        known = self._kept.get(what)
        return known[1] if known is not None and known[0] == state else None

    def written(self, what: Hashable, state: Hashable, message: Message) -> Summary:
        """A summary of a state of the job. Takes milliseconds: a thread should."""
        tag = hashlib.sha256(repr((self._loading, what, state)).encode()).hexdigest()[:24]
        return Summary(f'"{tag}"', message, message.model_dump_json().encode())

    def keep(self, what: Hashable, state: Hashable, summary: Summary) -> None:
        """Keep one in place of the one before."""
        self._kept.pop(what, None)
        while len(self._kept) >= KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[what] = (state, summary)


def state_of(job: Job) -> Hashable:
    """What tells whether plans, reports and policies of a job are still the same; feedback alone changes none."""
    reports, versions = job.history.reports, job.versions.versions
    return (
        job.spec.samples,
        job.planned_until,
        job.history.total,
        len(reports),
        reports[-1].step if reports else None,
        len(versions),
        versions[-1].first_step,
        len(job.shadows.versions),
        job.shadows.watching,
    )


def state_for(what: Hashable, job: Job, pace: Pace) -> Hashable:
    """The state of a job as far as it matters to a summary: a report makes nothing new of the table."""
    if what == "density" or (what == "histograms" and job.table.dynamics is None):
        return (job.spec.samples, job.planned_until, job.history.total)
    return (state_of(job), pace.heard if what == "pace" else None)


def series(
    job: Job, of: SeriesOf, points: int, paced: tuple[Float64, Float64] | None, columns: "DecisionColumns"
) -> SeriesAnswer:
    """Lines over the steps of a job, or over the time that it was in memory, of which `paced` has the rows."""
    if of == "validation":
        lines, x, values = _validation(job)
    elif of == "decisions":
        lines, x, values = _decisions(job, columns)
    else:
        lines, (x, values) = list(_PACE), paced or (np.empty(0), np.empty((0, len(_PACE))))
    thin_x, thin = core.thinned(x, values, points)
    shadows = [version.answer() for version in job.shadows.versions[-MAX_VERSIONS:]]
    return SeriesAnswer.model_construct(
        of=of,
        unit="s" if of == "pace" else "step",
        x=thin_x.astype(np.float64),
        rows=len(x),
        series=[
            Series.model_construct(name=name, head=head, unit=unit, values=column)
            for (name, head, unit), column in zip(lines, np.round(thin.T.astype(np.float64), DIGITS), strict=True)
        ],
        versions=[version.answer() for version in job.versions.versions[-MAX_VERSIONS:]],
        shadows=[shadow.model_copy(update={"shadow": True}) for shadow in shadows],
    )


Line = tuple[str, str | None, str]  # name, head, unit
Table = tuple[list[Line], Floats, Floats]  # lines (S), x (k,), values (k, S)


def _validation(job: Job) -> Table:
    reports, heads = job.history.reports, job.spec.heads[:-1]
    lines: list[Line] = [("accuracy", JOINT, "1"), ("loss", JOINT, "nat")]
    lines += [(name, head, "1") for head in heads for name in ("accuracy", "probability")]
    values = np.array([_of_report(report, heads) for report in reports]).reshape(len(reports), len(lines))
    return lines, np.array([report.step for report in reports], dtype=np.float64), values


def _of_report(report: ValidationReport, heads: Sequence[str]) -> list[float]:
    values = [report.accuracy, report.loss]
    for head in heads:
        told = report.modalities.get(head)
        values += [np.nan, np.nan] if told is None else [told.accuracy, told.probability]
    return values


def _decisions(job: Job, columns: "DecisionColumns") -> Table:
    units = dict(_OWN) | {"gain": "1" if job.spec.reward.metric == "accuracy" else "nat"}
    lines: list[Line] = [(name, None, unit) for name, unit in units.items()]
    lines += [(name, None, unit) for name, unit, _ in _SEEN] + [(name, None, "1") for name in RANGES]
    x, values = columns.of(job.history)
    values[:, len(_OWN) - 1] /= job.spec.samples
    return lines, x, values


class DecisionColumns:
    """The numbers of decisions: of those that have left memory, which stay as they are, each is read once."""

    def __init__(self) -> None:
        self._past: list[tuple[Floats, Float32]] = []  # of so many blocks of decisions

    def of(self, history: History) -> tuple[Floats, Floats]:
        """First steps (k,), and columns as `_OWN`, `_SEEN` and the numbers of an action, (k, S), a copy.

        history: that nobody changes meanwhile.
        """
        past, number = self._past, history.past.total  # another thread may put others in their place
        past = past[: number // BLOCK]
        for start in range(BLOCK * len(past), number, READ):
            read = history.between(start, min(start + READ, number))
            past = past + [_columns(read[k : k + BLOCK]) for k in range(0, len(read), BLOCK)]
        self._past = past
        blocks = [*past, _columns(history.decisions)] if history.decisions else past
        if not blocks:
            return np.empty(0), np.empty((0, len(_OWN) + len(_SEEN) + len(RANGES)))
        return np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks]).astype(np.float64)


def _columns(decisions: Sequence[Decision]) -> tuple[Floats, Float32]:
    own = [(_or_nan(d.reward), _or_nan(d.gain), d.propensity, d.left_out) for d in decisions]
    seen = np.stack([d.observation.vector for d in decisions]).astype(np.float64)
    actions = np.array([[getattr(d.action, name) for name in RANGES] for d in decisions])
    columns: list[Floats] = []
    for name, _, needed in _SEEN:
        column: Floats = seen[:, _AT[name]]
        column = unsquashed(column) if name in _SQUASHED else column
        columns.append(column if needed is None else np.where(seen[:, _AT[needed]] > 0, column, np.nan))
    values = np.concatenate([np.array(own), np.stack(columns, axis=1), actions], axis=1)
    values[~np.isfinite(values)] = np.nan
    return np.array([d.first_step for d in decisions], dtype=np.float64), values.astype(np.float32)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def density(job: Job) -> DensityAnswer:
    """How samples are spread over similarity × loss."""
    columns = [job.table.latest.get(name) for name in ("similarity", "loss")]
    known = [np.empty(0, dtype=np.float32) if column is None else column for column in columns]
    if len(known[0]) != len(known[1]):
        known = [np.empty(0, dtype=np.float32)] * 2
    found = core.density(*known)
    return DensityAnswer.model_construct(step=job.planned_until, similarity=found.x, loss=found.y, counts=found.counts)


def histograms(job: Job, evidence: Evidence | None) -> HistogramList:
    """How often samples were drawn, how old what is known of them is, and what that is."""
    table, step = job.table, job.planned_until
    drawn = table.times_measured.astype(np.float64)
    age = np.where(table.last_step < 0, np.nan, step - table.last_step)
    rows = [
        ("draws", "draws", drawn, core.binned(drawn, low=0, whole=True)),
        ("staleness", "steps", age, core.binned(age, low=0, whole=True)),
    ]
    for name, unit in (("similarity", "1"), ("loss", "nat")):
        if name in table.latest:
            rows.append((name, unit, table.latest[name], core.binned(table.latest[name])))
    if evidence is not None:
        for name, column in (("right", evidence.right), ("pair", evidence.pair)):
            rows.append((name, "1", column, core.binned(column, 0.0, 1.0)))
    found = [
        Histogram.model_construct(
            name=name, unit=unit, edges=b.edges, counts=b.counts, unknown=int(np.isnan(values).sum())
        )
        for name, unit, values, b in rows
    ]
    return HistogramList.model_construct(step=step, histograms=found)
