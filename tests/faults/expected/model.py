"""What one job must do: the reference that every answer of the real service is held against.

It knows which steps are handed out, whose they are and what counts, but not which samples are drawn: a batch is
unknown until it is first seen, and must be the same from then on. What a batch may hold is told in invariants.py.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any

import numpy as np

from bss_service.protocol.actions import ActionRequest
from bss_service.protocol.jobs import JobChange, JobSpec
from bss_service.protocol.policies import PolicySpec, SwapRequest
from bss_service.protocol.samples import SampleKeys
from bss_service.protocol.training import (
    AttachRequest,
    EarlierSize,
    Feedback,
    LocalBatchesRequest,
    Ranked,
    Scores,
    StepsRequest,
    batch_checksum,
)
from bss_service.protocol.validation import ValidationReport
from tests.faults.expected.places import Places


@dataclass(frozen=True)
class Reply:
    """What is answered: the status, and those fields of the body that the model knows."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The batch of one step; its content is unknown until somebody has seen it."""

    version: int
    indices: tuple[int, ...] | None = None
    probabilities: tuple[float, ...] | None = None
    scored_until: int | None = None


class Refused(Exception):  # noqa: N818  it is an answer
    """The request is refused, and has changed nothing."""

    def __init__(self, status: int, field: str | None = None) -> None:
        """field: to be named in the answer, where clients go by it."""
        self.reply = Reply(status, {"field": field} if field else {})


@dataclass
class Model:
    """A job by its name; without a spec there is none."""

    spec: JobSpec | None = None  # as it is now
    first_spec: JobSpec | None = None  # before any change, which is what the journal begins with
    places: Places = field(default_factory=Places)
    served: int = 0  # first step not handed out
    planned: int = 0  # first step not drawn
    plans: list[tuple[int, int]] = field(default_factory=list)  # those in memory, [first, end)
    versions: list[tuple[PolicySpec, int]] = field(default_factory=list)  # with the first step; version 1 first
    decisions: list[tuple[int, int, int, bool]] = field(default_factory=list)  # first, end, version, rewarded
    reports: list[ValidationReport] = field(default_factory=list)
    batches: dict[int, Batch] = field(default_factory=dict)  # by step, all that were handed out
    counted: set[tuple[int, int]] = field(default_factory=set)  # (step, row) of feedback
    waiting: set[tuple[int, int]] = field(default_factory=set)  # those measured and not yet learnt
    learnt: set[tuple[int, int]] = field(default_factory=set)
    awaited: int = 0  # first step whose feedback is neither all there nor waited for in vain
    passes: set[int] = field(default_factory=set)  # samples of measuring passes not yet learnt
    passed: set[int] = field(default_factory=set)  # and learnt
    action: ActionRequest | None = None
    acted: list[ActionRequest] = field(default_factory=list)
    shadow: PolicySpec | None = None
    shadows: int = 0
    keys: list[str] = field(default_factory=list)  # of samples 0, 1, 2 …
    is_copy: bool = False
    kept_from: int = 0  # batches before this step are kept no longer
    oldest: int = 0  # batches before this step stayed with the job that this one is a copy of

    def copy(self) -> "Model":
        return Model(**{f.name: copy(getattr(self, f.name)) for f in fields(self)})

    # The calendar.

    def samples_of(self, epoch: int) -> int:
        assert self.spec is not None
        return next((size.samples for size in self.spec.earlier if epoch < size.until), self.spec.samples)

    def epochs(self) -> Iterator[tuple[int, range]]:
        """The positions of each epoch, without end."""
        assert self.spec is not None
        begin, g = 0, self.spec.batch_size
        for epoch in count():
            n = self.samples_of(epoch)
            yield epoch, range(begin, begin := begin + (n if self.spec.tail == "carry" else n // g * g))

    def epoch_at(self, position: int) -> tuple[int, range]:
        """The epoch that a position lies in, and all of its positions."""
        return next((epoch, positions) for epoch, positions in self.epochs() if position in positions)

    def epoch_of(self, step: int) -> int:
        assert self.spec is not None
        return self.epoch_at((step + 1) * self.spec.batch_size - 1)[0]

    def epoch_start(self, epoch: int) -> int:
        assert self.spec is not None
        return next(positions.start for e, positions in self.epochs() if e == epoch) // self.spec.batch_size

    def interval_of(self, step: int) -> tuple[int, int]:
        assert self.spec is not None
        if self.spec.interval is None:
            return self.epoch_start(self.epoch_of(step)), self.epoch_start(self.epoch_of(step) + 1)
        first = step // self.spec.interval * self.spec.interval
        return first, first + self.spec.interval

    # What it answers. A call that is refused has changed nothing.

    def do(self, kind: str, message: Any) -> Reply:
        """The answer to a request of one of the kinds below."""
        if self.spec is None and kind not in ("create", "put"):
            return Reply(404)
        try:
            return getattr(self, kind)(message)  # type: ignore[no-any-return]
        except Refused as refused:
            return refused.reply

    def create(self, spec: JobSpec) -> Reply:
        if self.spec is not None:
            kept = {name: getattr(self.spec, name) for name in ("horizon", "patience", "keep_epochs")}
            if spec.samples in [self.spec.samples, *(size.samples for size in self.spec.earlier)]:
                kept |= {"samples": self.spec.samples, "earlier": self.spec.earlier}
            if spec.model_copy(update=kept) != self.spec:
                return Reply(409)
            return Reply(200, {**self.state(None).body, "created": False})
        self.__init__(spec=spec, first_spec=spec, versions=[(spec.policy, 0)])  # type: ignore[misc]
        return Reply(201, {**self.state(None).body, "created": True})

    def put(self, copied: "Model") -> Reply:
        """A copy of another job by its snapshot."""
        if self.spec is not None:
            return Reply(409)
        self.__dict__.update(copied.copy().__dict__)
        self.oldest = self.plans[0][0] if self.plans else self.oldest
        self.first_spec, self.places, self.is_copy = self.spec, self.places.known_anew(), True
        return Reply(201)

    def change(self, change: JobChange) -> Reply:
        """Another horizon or patience, of which nothing follows that the model knows of; or more samples."""
        assert self.spec is not None
        if change.samples is not None and change.samples < self.spec.samples:
            raise Refused(409, "samples")
        if change.samples is not None and change.samples > self.spec.samples:
            self._grow(change.samples, self.planned)
        self.spec = self.spec.model_copy(update=change.model_dump(exclude_none=True, exclude={"samples"}))
        return self.state(None)

    def _grow(self, samples: int, planned: int) -> None:
        """Have more samples from the first epoch on of which the steps before one hold nothing."""
        assert self.spec is not None
        epoch = self.epoch_at(planned * self.spec.batch_size - 1)[0] + 1 if planned else 0
        before = self.samples_of(epoch - 1) if epoch else [*self.spec.earlier, self.spec][0].samples
        earlier = [size for size in self.spec.earlier if size.until < epoch]
        earlier.append(EarlierSize(samples=before, until=epoch))
        self.spec = self.spec.model_copy(update={"samples": samples, "earlier": earlier})

    def register(self, told: SampleKeys) -> Reply:
        """A key is always the same sample; new ones are the next, and the job grows by them."""
        assert self.spec is not None
        self.keys = [*self.keys, *(key for key in dict.fromkeys(told.keys) if key not in self.keys)]
        if len(self.keys) > self.spec.samples:
            self._grow(len(self.keys), self.planned)
        indices = [self.keys.index(key) for key in told.keys]
        return Reply(200, {"indices": indices, "known": len(self.keys), "samples": self.spec.samples})

    def delete(self, _: None) -> Reply:
        self.__init__()  # type: ignore[misc]
        return Reply(204)

    def attach(self, request: AttachRequest) -> Reply:
        """A trainer asks for the place of a rank."""
        assert self.spec is not None
        if self.spec.batch_size % request.world_size:
            raise Refused(422)
        if field := self.places.objection(request, self.served):
            raise Refused(409, field)
        joins = self.places.has_others(request)
        self.places = self.places.given(request)
        if joins:  # it is told where the run began, of which this model keeps nothing
            return Reply(200)
        known = {"next_step": self.served, "steps_fed_back": self._steps_fed_back(), "fed_back_until": self.awaited}
        return Reply(200, known)

    def detach(self, client: str) -> Reply:
        """It gives the place up."""
        self.places = self.places.left_by(client)
        return Reply(204)

    def begin(self, request: StepsRequest) -> Reply:
        """The first half of a steps request, which counts its feedback."""
        self._hear(request)
        self._check_kept(request.start)
        if request.start > self.served:
            raise Refused(409)
        return Reply(200, {"feedback": self._count(request, request.feedback) if request.feedback else []})

    def hand_out(self, request: StepsRequest) -> Reply:
        """The other half. Meanwhile another may have taken the place."""
        self._hear(request)
        if request.start > self.served:  # batches that a client drew have taken the place of those before
            raise Refused(409)
        if request.start >= self.planned:
            if request.rank:
                raise Refused(425)
            self._plan()
        in_memory = self.plans[0][0] <= request.start
        stop = min(request.start + request.count, self.planned if in_memory else self.served)
        if not in_memory and request.start < self.oldest:
            raise Refused(404)
        for step in range(self.served, stop):
            self.batches[step] = Batch(self._in_force(step))
        self.served = max(self.served, stop)
        return Reply(200, {"batches": range(request.start, stop)})

    def read(self, steps: range) -> Reply:
        self._check_kept(steps.start)
        if steps.stop > self.served:
            raise Refused(409)
        if steps.start < self.oldest:
            raise Refused(404)
        return Reply(200, {"batches": steps})

    def feedback(self, request: Any) -> Reply:
        return Reply(200, {"feedback": self._count(request, request.feedback)})

    def validate(self, report: ValidationReport) -> Reply:
        if report.step > self.served:
            raise Refused(409)
        if self.reports and report.step <= self.reports[-1].step:
            return Reply(200, {"outcome": "repeated" if report in self.reports else "late", "rewards": []})
        self.reports.append(report)
        ended = [not rewarded and first < end <= report.step for first, end, _, rewarded in self.decisions]
        self.decisions = [(*d[:3], d[3] or new) for d, new in zip(self.decisions, ended, strict=True)]
        return Reply(200, {"outcome": "applied", "rewards": sum(ended)})

    def measure(self, scores: Scores) -> Reply:
        assert self.spec is not None
        if any(scores.indices >= self.spec.samples):
            raise Refused(422)
        self.passes |= set(scores.indices.tolist())
        return Reply(200, {"accepted": len(scores.indices)})

    def swap(self, request: SwapRequest) -> Reply:
        if request.policy.name == "unknown" or (request.shadow and request.policy.name == "external"):
            raise Refused(422)
        if request.shadow:
            changed = self.shadow != request.policy
            self.shadow, self.shadows = request.policy, self.shadows + changed
            return Reply(200, {"policy_version": self.shadows, "shadow": True, "changed": changed})
        now = request.at == "now"
        first = self.served if now else self.interval_of(self.planned - 1)[1] if self.planned else 0
        spec, begins = self.versions[-1]
        if request.policy == spec and begins <= first:
            return Reply(200, {**self._policy(len(self.versions)), "changed": False})
        if now:
            self._truncate(self.served)
        before = self._in_force(self.planned)
        self.versions.append((request.policy, first))
        if self._in_force(self.planned) != before:
            self.action = None
        return Reply(200, {**self._policy(len(self.versions)), "changed": True})

    def end_shadow(self, _: None) -> Reply:
        if self.shadow is None:
            raise Refused(404)
        self.shadow = None
        return Reply(204)

    def act(self, request: ActionRequest) -> Reply:
        version = self._in_force(self.planned)
        if request.first_step != self.planned:
            if request in self.acted:
                return Reply(200, {"outcome": "repeated"})
            raise Refused(409)
        if self.versions[version - 1][0].name != "external":
            raise Refused(409)
        outcome = "applied" if self.action is None else "repeated" if self.action == request else "replaced"
        self.action = request
        return Reply(200, {"outcome": outcome, "policy_version": version})

    def adopt(self, local: LocalBatchesRequest) -> Reply:
        assert self.spec is not None
        if local.start < self.served and self.places.has_beside(local.client):
            raise Refused(409)
        self._check_kept(local.start)
        rows = [tuple(batch) for batch in local.indices.tolist()]
        stop = local.start + len(rows)
        if local.start > self.served:
            raise Refused(409)
        in_memory = bool(self.plans) and self.plans[0][0] <= local.start < self.planned
        known = in_memory and stop <= self.served
        if known and rows == [self.batches[step].indices for step in range(local.start, stop)]:
            return Reply(200, {"outcome": "repeated"})
        if any(step >= local.start for step, _ in self.counted):
            raise Refused(409)
        if self.plans and self.plans[0][0] * self.spec.batch_size > self._epoch_began(local.start):
            raise Refused(409)  # its epoch is no longer in memory
        self.spec = self._as_drawn_by_client(local.start, rows)
        self._truncate(local.start)
        self.awaited = min(self.awaited, local.start)
        for step in [s for s in self.batches if s >= local.start]:
            del self.batches[step]
        for k, batch in enumerate(rows):
            p = float(np.float32(1 / self.samples_of(self.epoch_of(local.start + k))))
            self.batches[local.start + k] = Batch(0, batch, (p,) * len(batch))
        self._keep(local.start, stop)
        self.served = stop
        return Reply(200, {"outcome": "applied"})

    def state(self, _: None) -> Reply:
        assert self.spec is not None
        newest = len(self.versions)
        shadow = {"policy_version": self.shadows, "policy": self.shadow.model_dump()} if self.shadow else None
        epoch = self.epoch_of(self.served)
        times = self.times_measured()
        measured = None if times is None else {sample for sample, k in enumerate(times) if k} | self.passed
        return Reply(
            200,
            {
                "spec": self.spec.model_dump(),
                "next_step": self.served,
                "epoch": epoch,
                "epoch_start": self.epoch_start(epoch),
                "policy": self._policy(self._in_force(self.served)),
                "pending_policy": self._policy(newest) if self.versions[-1][1] > self.served else None,
                "shadow": shadow,
                "kept_from": self.kept_from,
                "steps_fed_back": self._steps_fed_back(),
                "fed_back_until": self.awaited,
                "trainers": [trainer.model_dump() for trainer in self.places.trainers],
                "validation": self.reports[-1].model_dump() if self.reports else None,
                **({} if measured is None else {"samples_measured": len(measured)}),
            },
        )

    def log(self, _: None) -> Reply:
        """The decision log."""
        rows = [{"first_step": first, "end_step": end, "policy_version": v} for first, end, v, _ in self.decisions]
        return Reply(200, {"total": len(rows), "decisions": rows})

    # What follows from it.

    def after_restart(self) -> "Iterator[Model]":
        """All that a service may hold this job for that is started anew."""
        for places in self.places.after_restart():
            yield replace(self.copy(), places=places)

    def after_release(self) -> "Model":
        """The job once it keeps no more than it has to, which it does at moments that nobody is told of."""
        if self.spec is None or self.spec.keep_epochs is None or not self.plans:
            return self
        epoch = max(0, self.epoch_of(min(self.awaited, self.served)) - self.spec.keep_epochs)
        kept_from = max(self.kept_from, min(self.epoch_start(epoch), self.plans[0][0]))
        return self if kept_from == self.kept_from else replace(self.copy(), kept_from=kept_from)

    def times_measured(self) -> list[int] | None:
        """How often each sample was measured and learnt; None while a batch of these is unknown."""
        assert self.spec is not None
        times = [0] * self.spec.samples
        for step, row in self.learnt:
            indices = self.batches[step].indices
            if indices is None:
                return None
            times[indices[row]] += 1
        return times

    def _check_kept(self, step: int) -> None:
        if step < self.kept_from:
            raise Refused(410)

    def _hear(self, request: StepsRequest) -> None:
        """Who names itself must hold the place that it asks for."""
        if request.client is not None and self.places.are_closed_to(request.rank, request.client):
            raise Refused(409, "client")
        self.places = self.places.hearing(request.client)

    def _has_all(self, step: int) -> bool:
        assert self.spec is not None
        return all((step, row) in self.counted for row in range(self.spec.batch_size))

    def _steps_fed_back(self) -> int:
        return sum(self._has_all(step) for step in {step for step, _ in self.counted})

    def _await_from(self, step: int) -> None:
        """Wait for no feedback from before a step on."""
        self.awaited = max(self.awaited, step)
        while self._has_all(self.awaited):
            self.awaited += 1

    def _in_force(self, step: int) -> int:
        """The version that draws a step: the latest whose first step is not behind it."""
        return max(k + 1 for k, (_, first) in enumerate(self.versions) if first <= step)

    def _policy(self, version: int) -> dict[str, Any]:
        spec, first = self.versions[version - 1]
        return {"policy": spec.model_dump(), "policy_version": version, "first_step": first}

    def _count(self, ranked: Ranked, feedback: Feedback) -> list[str]:
        """Each row of each step counts once; all of a message is refused if one step is not handed out."""
        assert self.spec is not None
        share, rest = divmod(self.spec.batch_size, ranked.world_size)
        if rest or any(array.shape[1] != share for array in _arrays(feedback)):
            raise Refused(422)
        if any(feedback.step >= self.served):
            raise Refused(409)
        self._check_batches(feedback)
        rows = range(ranked.rank * share, (ranked.rank + 1) * share)
        return [self._count_step(int(step), k, rows, feedback) for k, step in enumerate(feedback.step)]

    def _check_batches(self, feedback: Feedback) -> None:
        """Feedback that says of which batch it is, is of that which was handed out, where that is in memory."""
        told = [] if feedback.checksum is None else feedback.checksum.tolist()
        for step, checksum in zip(feedback.step.tolist(), told, strict=False):
            batch = self.batches.get(step)
            if batch is None or batch.indices is None or not self.plans[0][0] <= step < self.planned:
                continue
            if checksum != batch_checksum(np.array(batch.indices)):
                raise Refused(409, "feedback.checksum")

    def _count_step(self, step: int, k: int, rows: range, feedback: Feedback) -> str:
        """Rows of which nothing is known count as fed back, and measure nothing."""
        new = {(step, row): c for c, row in enumerate(rows) if (step, row) not in self.counted}
        self.counted |= set(new)
        self._await_from(self.awaited)
        if not new:
            return "repeated"
        if not self.plans[0][0] <= step < self.planned:
            return "late"
        self.waiting |= {
            row for row, c in new.items() if not all(np.isnan(array[k, c]).all() for array in _arrays(feedback))
        }
        return "applied"

    def _plan(self) -> None:
        """Draw the rest of an interval, of which nothing is known but its bounds, by whom, and what it learnt."""
        assert self.spec is not None
        first, version = self.planned, self._in_force(self.planned)
        start, end = self.interval_of(first)
        size = self.samples_of(self.epoch_of(first))
        alike = [self._in_force(s) == version and self.samples_of(self.epoch_of(s)) == size for s in range(first, end)]
        end = first + (alike.index(False) if False in alike else len(alike))
        fed_back = {row for row in self.waiting if row[0] < max(0, start - self.spec.lag)}
        self.learnt, self.waiting = self.learnt | fed_back, self.waiting - fed_back
        self.passed, self.passes = self.passed | self.passes, set()
        self._await_from(max(0, start - self.spec.lag))
        self.decisions.append((first, end, version, False))
        if self.action is not None:
            self.acted.append(self.action)
        self._keep(first, end)

    def _keep(self, first: int, end: int) -> None:
        oldest = self.epoch_start(max(0, self.epoch_of(first) - 1))
        self.plans = [*(p for p in self.plans if p[1] > oldest), (first, end)]
        self.planned, self.action = end, None

    def _truncate(self, step: int) -> None:
        self.plans = [(first, min(end, step)) for first, end in self.plans if first < step]
        self.decisions = [(d[0], max(step, d[0]) if d[1] > step else d[1], *d[2:]) for d in self.decisions]
        if step < self.planned:
            self.planned, self.action = step, None

    def _epoch_began(self, step: int) -> int:
        """The first position of the epoch in which a step begins."""
        assert self.spec is not None
        return self.epoch_at(step * self.spec.batch_size)[1].start

    def _as_drawn_by_client(self, start: int, rows: list[tuple[int, ...]]) -> JobSpec:
        """The job once a client's batches are in it, which may have been drawn before it heard that the job has grown.

        Raises Refused where they repeat a sample within an epoch, whatever it knew.
        """
        assert self.spec is not None
        known = self.copy()
        assert known.spec is not None
        while known._repeats(start, rows):
            if not known.spec.earlier:
                raise Refused(409)
            *earlier, last = known.spec.earlier
            since = range(known.epoch_start(last.until), start)
            if since and (self.plans[0][0] > since.start or any(self.batches[step].version for step in since)):
                raise Refused(409)  # the service has drawn for it since, or it can't be told any more
            known.spec = known.spec.model_copy(update={"samples": last.samples, "earlier": earlier})
        if known.spec != self.spec:
            known._grow(self.spec.samples, start + len(rows))
        return known.spec

    def _repeats(self, start: int, rows: list[tuple[int, ...]]) -> bool:
        """Whether batches from a step on repeat a sample within an epoch, or have one that is not there yet."""
        assert self.spec is not None
        g, began = self.spec.batch_size, self._epoch_began(start)
        before = [self.batches[p // g].indices for p in range(began, start * g)]
        came = [indices[(began + k) % g] for k, indices in enumerate(before) if indices is not None]
        new = [sample for batch in rows for sample in batch]
        epochs = [
            *(self.epoch_at(began)[0] for _ in came),
            *(self.epoch_at(start * g + k)[0] for k in range(len(new))),
        ]
        drawn = list(zip(epochs, [*came, *new], strict=True))
        return any(
            pair in drawn[:k] or pair[1] >= self.samples_of(pair[0]) for k, pair in enumerate(drawn) if k >= len(came)
        )


def _arrays(feedback: Feedback) -> list[np.ndarray]:
    """What was measured, by signal (F, G / W) or (F, G / W, H), or all in one (F, G / W, S); none where nothing was."""
    all_in_one = [] if feedback.values is None else [feedback.values]
    return [*(feedback.model_extra or {}).values(), *all_in_one]
