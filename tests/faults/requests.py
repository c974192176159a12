"""What an op of a program means as things are: the requests that a client makes then."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from bss_service.protocol.actions import ActionRequest
from bss_service.protocol.jobs import JobChange, JobSpec
from bss_service.protocol.message import Message
from bss_service.protocol.policies import PolicySpec, SwapRequest
from bss_service.protocol.samples import SampleKeys
from bss_service.protocol.training import (
    AttachRequest,
    Feedback,
    FeedbackRequest,
    LocalBatchesRequest,
    Ranked,
    Scores,
    StepsRequest,
    Trainer,
)
from bss_service.protocol.validation import ModalityReport, ValidationReport
from tests.faults.expected.histories import Call
from tests.faults.expected.model import Model
from tests.faults.programs import POLICIES, TRAINERS, Op
from tests.faults.service import Request

ACTIONS: list[Any] = ["uniform", {"coverage": "draw", "kappa_loss": 2.0}, [0.5] * 11, {"kappa_similarity": 1.0}]


def requests(name: str, spec: JobSpec, model: Model, op: Op) -> list[Call]:
    """What an op on a job asks for; spec: that by which the job is created."""
    return list(_OF_KIND[op.kind](name, spec, model, op))


def _steps(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    start = max(0, model.served - [0, 0, 0, 0, 0, 1, 3, 9][op.a])
    ranks = 2 if spec.batch_size % 2 == 0 and op.c % 2 else 1
    rank = int(ranks == 2 and op.c >= 6)
    fed_back = [s for s in range(max(0, start - op.b % 4), start) if s < model.served]
    feedback = measured(spec, fed_back, ranks) if fed_back else None
    request = StepsRequest(start=start, count=1 + op.b // 2, rank=rank, world_size=ranks, feedback=feedback)
    yield calling(name, "steps", "POST", "/steps", request, frame=op.c % 3 == 0)


def _feedback(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    latest = max(0, model.served - 1 - op.a // 2)
    ranks = 2 if spec.batch_size % 2 == 0 and op.c % 2 else 1
    steps = list(range(max(0, latest - op.b % 3), latest + 1))
    if op.b >= 6:
        steps.reverse()
    unknown = {7: ("similarity", "loss", "probability"), 5: ("loss",)}.get(op.c, ())
    feedback = measured(spec, steps, ranks, unknown=unknown)
    request = FeedbackRequest(rank=op.c // 2 % ranks, world_size=ranks, feedback=feedback)
    yield calling(name, "feedback", "POST", "/feedback", request, frame=op.c % 3 == 0)


def _validate(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    step = max(0, model.served - [0, 0, 0, 0, 1, 2, 4, 8][op.a])
    yield calling(name, "validate", "POST", "/validation", report(step, op.b))


def _measure(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    indices = np.arange(op.a % spec.samples, spec.samples)
    scores = Scores(indices=indices, similarity=wave(indices + op.b), loss=1 + wave(indices * 2 + op.c))
    yield calling(name, "measure", "PUT", "/scores", scores, frame=op.c % 2 == 0)


def _swap(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    policy = PolicySpec(name="unknown") if (op.a, op.b) == (7, 7) else POLICIES[(op.a * 8 + op.b) % len(POLICIES)]
    request = SwapRequest(policy=policy, at="now" if op.c % 2 else "next_interval")
    yield calling(name, "swap", "PUT", "/policy", request)


def _shadow(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    policy = POLICIES[(op.a * 8 + op.b) % len(POLICIES)]
    yield calling(name, "swap", "PUT", "/policy", SwapRequest(policy=policy, shadow=True))


def _end_shadow(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    yield calling(name, "end_shadow", "DELETE", "/policy/shadow")


def _act(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    first = max(0, model.planned + [0, 0, 0, 0, 0, 0, 1, -3][op.a])
    request = ActionRequest(first_step=first, action=ACTIONS[op.b % 4], detail={"agent": op.c % 2})
    yield calling(name, "act", "PUT", "/action", request)


def _adopt(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    if model.spec is None:
        return
    start = max(0, model.served - [0, 0, 0, 1, 1, 2, 3, 12][op.a])
    count = 1 + op.b % 4
    knows = model.copy()
    if model.spec.earlier and op.c == 6:  # that it had before the job grew last
        *earlier, last = model.spec.earlier
        knows.spec = model.spec.model_copy(update={"samples": last.samples, "earlier": earlier})
    drawn = _drawn_by_client(knows, start, count, wrong=op.c == 7)
    client = _holder(model, op).client if op.b % 3 else None
    batches = LocalBatchesRequest(start=start, indices=drawn, client=client)
    yield calling(name, "adopt", "POST", "/local-batches", batches, frame=op.c % 2 == 0)


def _read(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    start = max(0, model.served - 1 - op.a)
    yield reading(name, range(start, start + 1 + op.b % 4), frame=op.c % 2 == 0)


def _ahead(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    """What concerns a step that is not handed out; some of it together with what would be fine by itself."""
    step = model.served + 1 + op.b
    if op.a < 3:
        feedback = measured(spec, [0, step - 1], 1)
        yield calling(name, "feedback", "POST", "/feedback", FeedbackRequest(feedback=feedback))
    elif op.a < 5:
        yield calling(name, "validate", "POST", "/validation", report(step, op.c))
    elif op.a < 6:
        yield calling(name, "steps", "POST", "/steps", StepsRequest(start=step, feedback=measured(spec, [0], 1)))
    else:
        yield reading(name, range(max(0, step - 2), step))


def _create(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    asked = spec if op.a < 6 else spec.model_copy(update={"seed": spec.seed + 1})
    asked = asked if model.spec is None else asked.model_copy(update={"name": name})
    yield Call(name, "create", asked, Request.of("POST", "/v1/jobs", asked))


def _delete(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    yield calling(name, "delete", "DELETE", "")


def _attach(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    """Anybody asks for a place, whoever holds it."""
    held = [trainer.client for trainer in model.places.trainers]
    gone = [*[[]] * 4, held, held, held[:1], ["nobody"]][op.c]
    yield _attaching(name, TRAINERS[op.a], resume=op.b % 2 == 0, instead_of=gone)


def _second(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    """Another asks for a place that is held, and may say that the holders have ended; then the first goes on."""
    held = model.places.trainers
    first = held[op.b % len(held)] if held else TRAINERS[op.a]
    if not held:
        yield _attaching(name, first, resume=True)
    others = [t for t in TRAINERS if t.client != first.client and (t.rank == first.rank or op.a == 7)]
    gone = [first.client, *(trainer.client for trainer in held)] if op.c % 4 else []
    yield _attaching(name, others[op.a % len(others)], resume=op.b < 6, instead_of=gone)
    yield _stepping(name, first, model.served - op.c // 4)


def _rerun(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    """A run has ended, or has crashed, and its script is run again."""
    gone = [trainer.client for trainer in model.places.trainers]
    if op.b % 2:
        yield from (_detaching(name, client) for client in gone)
        gone = []
    yield _attaching(name, TRAINERS[op.a], resume=op.c % 2 == 0, instead_of=gone)


def _detach(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    yield _detaching(name, _holder(model, op).client)


def _by_name(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    """A trainer that says who it is goes on, with feedback for what it did last."""
    start = max(0, model.served - [0, 0, 0, 0, 0, 0, 1, 3][op.b])
    trainer = _holder(model, op)
    fits = spec.batch_size % trainer.world_size == 0
    feedback = measured(spec, [start - 1], trainer.world_size) if start and fits else None
    yield _stepping(name, trainer, start, feedback)


def _change(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    horizon = [None, None, 1, 5, 12, 30, 60, 1000][op.a]
    more = [None, None, None, 0, 1, 2, 5, -1][op.c]
    change = JobChange(
        horizon=horizon,
        patience=[None, None, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2][op.b],
        keep_epochs=3 if op.b == 7 else None,
        samples=None if more is None or model.spec is None else max(1, model.spec.samples + more),
    )
    yield calling(name, "change", "PATCH", "", change)


def _register(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    keys = SampleKeys(keys=[f"key {op.a * k % 23}" for k in range(1, 2 + op.b)])
    yield calling(name, "register", "POST", "/keys", keys)


def _skip(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    """Batches that were not trained on: nothing is known of them, told in each of the ways that there are."""
    ranks = 2 if spec.batch_size % 2 == 0 and op.b % 2 else 1
    shape = (1 + op.a % 3, spec.batch_size // ranks, spec.measurements().width)
    steps = np.arange(shape[0]) + max(0, model.served - shape[0] - op.a // 4)
    told: list[dict[str, Any]] = [{}, {"values": np.full(shape, np.nan)}, {"loss": np.full(shape[:2], np.nan)}]
    feedback = Feedback(step=steps, **told[op.c % 3])
    request = FeedbackRequest(rank=op.b // 2 % ranks, world_size=ranks, feedback=feedback)
    yield calling(name, "feedback", "POST", "/feedback", request, frame=op.c >= 4)


def _subset(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    """A part of a batch was trained on: which rows, the bits of a number tell."""
    step = max(0, model.served - 1 - op.a // 4)
    feedback = measured(spec, [step], 1)
    rows = [row for row in range(spec.batch_size) if (op.b * 8 + op.c) >> row % 6 & 1]
    for values in (feedback.model_extra or {}).values():
        values[:, rows] = np.nan
    yield calling(name, "feedback", "POST", "/feedback", FeedbackRequest(feedback=feedback), frame=op.a % 2 == 0)


def _back(name: str, spec: JobSpec, model: Model, op: Op) -> Iterator[Call]:
    """A pass was broken off: a trainer asks again for what it gave no feedback on, and skips it or trains on it."""
    without = [step for step in range(model.served) if (step, 0) not in model.counted]
    start = without[op.a % len(without)] if without else model.served
    feedback = Feedback(step=np.array([start])) if op.c % 2 else measured(spec, [start], 1)
    yield _stepping(name, Ranked(), start, count=1 + op.b)
    yield _stepping(name, Ranked(), start + 1, feedback, count=1 + op.b)


def _holder(model: Model, op: Op) -> Trainer:
    """Mostly one that holds a place."""
    held = model.places.trainers
    return held[op.c % len(held)] if held and op.c < 6 else TRAINERS[op.a]


def _attaching(name: str, trainer: Trainer, *, resume: bool, instead_of: Sequence[str] = ()) -> Call:
    request = AttachRequest(**trainer.model_dump(), resume=resume, instead_of=list(instead_of))
    return calling(name, "attach", "PUT", "/trainers", request)


def _detaching(name: str, client: str) -> Call:
    return Call(name, "detach", client, Request.of("DELETE", f"/v1/jobs/{name}/trainers/{client}"))


def _stepping(name: str, who: Ranked, start: int, feedback: Feedback | None = None, count: int = 2) -> Call:
    """A steps request of a trainer, or of somebody who has no name."""
    request = StepsRequest(
        start=max(0, start),
        count=count,
        rank=who.rank,
        world_size=who.world_size,
        feedback=feedback,
        client=who.client if isinstance(who, Trainer) else None,
    )
    return calling(name, "steps", "POST", "/steps", request)


def calling(
    name: str, kind: str, method: str, path: str, message: Message | None = None, *, frame: bool = False
) -> Call:
    return Call(name, kind, message, Request.of(method, f"/v1/jobs/{name}{path}", message, frame=frame))


def reading(name: str, steps: range, *, frame: bool = False) -> Call:
    path = f"/v1/jobs/{name}/batches?start={steps.start}&count={len(steps)}"
    return Call(name, "read", steps, Request.of("GET", path, frame=frame))


def wave(x: np.ndarray) -> np.ndarray:
    return (np.sin(x * 12.9898) * 0.5 + 0.5).astype(np.float32)


def measured(spec: JobSpec, steps: list[int], ranks: int, *, unknown: Sequence[str] = ()) -> Feedback:
    """What a rank measured in some steps; of some signals not for every sample."""
    share = spec.batch_size // ranks
    values = wave(np.array(steps)[:, None] * 0.37 + np.arange(share)[None])
    heads = np.repeat(values[:, :, None], 3, axis=2)
    signals = {"similarity": values.copy(), "loss": 3 - 2 * values, "probability": heads}
    for name in unknown:
        signals[name][values <= 0.4] = np.nan
    return Feedback(step=np.array(steps), **signals)


def report(step: int, variant: int) -> ValidationReport:
    progress = float(1 - np.exp(-step / 10)) * (1 - variant / 20)
    heads = ModalityReport(accuracy=progress, probability=progress / 2)
    return ValidationReport(
        step=step, loss=2 - progress, accuracy=progress, modalities={"audio": heads, "video": heads}
    )


def _drawn_by_client(model: Model, start: int, count: int, *, wrong: bool) -> np.ndarray:
    """Batches (count, G) of samples that have not come in their epochs; or, wrong, of one that comes again."""
    assert model.spec is not None
    g = model.spec.batch_size
    rows: list[int] = []
    for position in range(start * g, (start + count) * g):
        epoch, positions = model.epoch_at(position)
        n, began = model.samples_of(epoch), positions.start
        here = [model.batches[p // g].indices for p in range(began, min(position, start * g))]
        came = {indices[(began + k) % g] for k, indices in enumerate(here) if indices is not None}
        came |= set(rows[max(0, began - start * g) :])
        free = [(sample * 5 + start) % n for sample in range(n)] if n % 5 else list(range(n))
        rows.append(next((sample for sample in free if sample not in came), 0))
    if wrong and g > 1:
        rows[1] = rows[0]
    return np.array(rows).reshape(count, g)


_OF_KIND: Final[Mapping[str, Callable[[str, JobSpec, Model, Op], Iterator[Call]]]] = {
    "steps": _steps,
    "feedback": _feedback,
    "validate": _validate,
    "measure": _measure,
    "swap": _swap,
    "shadow": _shadow,
    "end_shadow": _end_shadow,
    "act": _act,
    "adopt": _adopt,
    "read": _read,
    "ahead": _ahead,
    "create": _create,
    "delete": _delete,
    "attach": _attach,
    "second": _second,
    "rerun": _rerun,
    "detach": _detach,
    "by_name": _by_name,
    "change": _change,
    "register": _register,
    "skip": _skip,
    "subset": _subset,
    "back": _back,
    "keep": _feedback,  # sent later, by `again`
}
