"""Which states a job may be in, when requests overlap, get lost, or die with the service.

Each request takes effect at one moment between its sending and its answer, or, unanswered, at any later moment until
the service dies, or never. So there is a set of possible states; an answer keeps those in which it would be given.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from tests.faults.expected.model import Batch, Model, Reply
from tests.faults.service import Answer, Request

PARTS = {"steps": ("begin", "hand_out")}  # a steps request may wait between the two, while others take effect
_numbers = count()


class Violation(Exception):  # noqa: N818
    """The service did what it must not do."""


@dataclass(frozen=True, eq=False)
class Call:
    """A request that concerns one job, as HTTP and as the model takes it."""

    job: str
    kind: str
    message: Any
    request: Request
    heard: bool = True  # whether anybody waits for the answer
    number: int = field(default_factory=lambda: next(_numbers))

    def again(self, *, heard: bool = True) -> "Call":
        """The very same request once more."""
        return replace(self, heard=heard, number=next(_numbers))


@dataclass
class World:
    """One state that a job may be in, with the requests that are under way."""

    model: Model
    left: dict[int, tuple[Call, tuple[str, ...]]] = field(default_factory=dict)  # and their parts not yet done
    replies: dict[int, Reply] = field(default_factory=dict)  # by the model, for those that are done

    def next(self, number: int) -> "World":
        """The world after the next part of a request has happened."""
        call, parts = self.left[number]
        after = World(self.model.copy(), dict(self.left), dict(self.replies))
        reply = after.model.do(parts[0], call.message)
        earlier = after.replies.get(number, Reply(0))
        if call.heard:
            after.replies[number] = Reply(reply.status, {**earlier.body, **reply.body})
        if len(parts) > 1 and reply.status < 400:
            after.left[number] = (call, parts[1:])
        else:
            del after.left[number]
        return after


class History:
    """All that a job may be."""

    def __init__(self) -> None:
        self.worlds = [World(Model())]

    @property
    def is_certain(self) -> bool:
        """Whether no request is under way."""
        return not any(world.left for world in self.worlds)

    @property
    def model(self) -> Model:
        """One that the job may be."""
        return self.worlds[0].model

    def kept(self) -> "History":
        """All that the job may be as it is now, to go back to; no request is under way."""
        kept = History()
        kept.worlds = [World(world.model.copy()) for world in self.worlds]
        return kept

    def copied(self, name: str) -> "History":
        """All that a copy of the job may be, under another name, made while no request is under way."""
        copies = History()
        copies.worlds = []
        for model in [world.model.copy() for world in self.worlds]:
            model.spec = model.spec and model.spec.model_copy(update={"name": name})
            copy = Model()
            copy.put(model)
            copies.worlds.append(World(copy))
        copies.worlds = _different(copies.worlds)
        return copies

    def happened(self, answers: Mapping[Call, Answer | None]) -> None:
        """Requests were sent at once, and answered, or not. Raises Violation if no possible state explains that."""
        for world in self.worlds:
            world.left |= {call.number: (call, PARTS.get(call.kind, (call.kind,))) for call in answers}
        answered = {call: answer for call, answer in answers.items() if answer is not None}
        worlds = _closed(self.worlds)
        for call, answer in answered.items():
            done = [w for w in worlds if call.number not in w.left]
            wrong = {why for w in done if (why := disagreement(w.model, w.replies[call.number], answer))}
            worlds = [w for w in done if seen(w, call, answer)]
            if not worlds:
                reasons = "; ".join(sorted(wrong)) or "no order of the requests explains these answers together"
                status = f"answered {answer.status} {answer.body.get('detail', '')}"
                raise Violation(f"{call.kind} {call.request.path} {status}: {reasons}")
        for world in worlds:
            world.replies = {n: reply for n, reply in world.replies.items() if n in world.left}
        self.worlds = _different(worlds)

    def died(self, *, surely: bool = True) -> None:
        """The service is gone, and with it the requests under way. surely: else it may be another job's that is."""
        for world in self.worlds:
            world.left, world.replies = {}, {}
        before = [] if surely else self.worlds
        after = [World(model) for world in self.worlds for model in world.model.after_restart()]
        self.worlds = _different([*before, *after])

    def check(self, holds: Callable[[Model], Iterable[str]]) -> None:
        """Keep the states of which no objection is raised."""
        wrong = [list(holds(world.model)) for world in self.worlds]
        self.worlds = [w for w, objections in zip(self.worlds, wrong, strict=True) if not objections]
        if not self.worlds:
            raise Violation("; ".join(wrong[0]))


def seen(world: World, call: Call, answer: Answer) -> bool:
    """Whether the answer would be given in this world; it then holds what was learnt from it."""
    if disagreement(world.model, world.replies[call.number], answer):
        return False
    for step, batch in batches_in(answer).items():
        if step in world.model.batches and world.model.batches[step].version == batch.version:
            world.model.batches[step] = batch
    return True


def disagreement(model: Model, reply: Reply, answer: Answer) -> str:
    """What is wrong with an answer where another one is expected; nothing if nothing is."""
    if reply.status != answer.status:
        return f"expected status {reply.status}, got {answer.status}"
    if reply.status >= 400:
        field = reply.body.get("field")
        named = answer.body.get("field")
        return f"refused for the {field}, which the answer must name: got {named}" if field not in (None, named) else ""
    for name, expected in reply.body.items():
        if name == "batches":
            if objection := _wrong_batches(model, expected, batches_in(answer)):
                return objection
        elif name == "rewards" and isinstance(expected, int):
            if len(answer.body[name]) != expected:
                return f"rewards are counted once: expected {expected}, got {answer.body[name]}"
        elif not _agrees(expected, got := _in_order(name, answer.body[name])):
            promise = PROMISES.get(name, name)
            return f"{promise}: expected {expected!r}, got {got!r}"
    return ""


PROMISES = {
    "feedback": "feedback counts once",
    "steps_fed_back": "feedback counts once (steps fed back)",
    "samples_measured": "feedback counts once (samples measured)",
    "kept_from": "what is to be kept is kept",
    "next_step": "what was handed out stays so",
    "decisions": "the decision log tells what happened",
    "trainers": "who holds a place stays known",
    "spec": "a job is what it was made, and changed to",
}


def batches_in(answer: Answer) -> dict[int, Batch]:
    """The batches that an answer holds, by step."""
    batches = answer.body.get("batches", answer.body if "scored_until" in answer.body else None)
    if batches is None:
        return {}
    columns = (batches["policy_version"], batches["indices"], batches["probabilities"], batches["scored_until"])
    rows = zip(*(c if isinstance(c, list) else c.tolist() for c in columns), strict=True)
    return {batches["start"] + k: Batch(v, tuple(i), tuple(p), s) for k, (v, i, p, s) in enumerate(rows)}


def _wrong_batches(model: Model, steps: range, batches: Mapping[int, Batch]) -> str:
    if list(batches) != list(steps):
        return f"expected the steps {list(steps)}, got {list(batches)}"
    for step, batch in batches.items():
        known = model.batches.get(step)
        if known is None:  # another client's batches have taken its place since
            continue
        if known.version != batch.version:
            return f"swaps are seamless: step {step} is of version {known.version}, got {batch.version}"
        for name in ("indices", "probabilities", "scored_until"):
            before, now = getattr(known, name), getattr(batch, name)
            if before not in (None, now):
                return f"same step, same bytes: {name} of step {step} were {before}, got {now}"
    return ""


def _in_order(name: str, got: Any) -> Any:
    """What is answered, in the model's order where there is none to rely on."""
    return sorted(got, key=lambda trainer: trainer["rank"]) if name == "trainers" else got


def _agrees(expected: Any, got: Any) -> bool:
    """Whether all that is expected is there; an object may hold more."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        return all(name in got and _agrees(value, got[name]) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(_agrees(e, g) for e, g in zip(expected, got, strict=True))
    return bool(expected == got)


def _closed(worlds: Iterable[World]) -> list[World]:
    """These worlds, and all that may come of them while requests are under way."""
    distinct = _Worlds()
    new = list(worlds)
    while new:
        world = new.pop()
        if distinct.add(world):
            new += [world.next(number) for number in world.left]
            released = world.model.after_release()
            new += [] if released is world.model else [World(released, dict(world.left), dict(world.replies))]
    return distinct.worlds


def _different(worlds: Iterable[World]) -> list[World]:
    distinct = _Worlds()
    for world in worlds:
        distinct.add(world)
    return distinct.worlds


class _Worlds:
    """Worlds that differ; a rough key spares most comparisons."""

    def __init__(self) -> None:
        self.worlds: list[World] = []
        self._alike: dict[tuple[Any, ...], list[World]] = {}

    def add(self, world: World) -> bool:
        """Whether it was not there before."""
        model, left = world.model, tuple(sorted((n, len(parts)) for n, (_, parts) in world.left.items()))
        key = (left, model.served, model.planned, len(model.counted), len(model.versions), len(model.decisions))
        alike = self._alike.setdefault(key, [])
        if world in alike:
            return False
        alike.append(world)
        self.worlds.append(world)
        return True
