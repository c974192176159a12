"""A snapshot is the whole of a job, and whatever else is offered as one is refused."""

import copy
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bss_service.errors import BssError, InvalidValueError, NotReproducibleError
from bss_service.job.events import FeedbackReceived, PlanDrawn, ScoresReceived, StepsServed, ValidationReported
from bss_service.job.snapshot import Snapshot, check_whole, portable, restore, take_snapshot
from bss_service.protocol import frames
from bss_service.protocol.training import Feedback, Ranked, Scores
from tests.conftest import Trainer
from tests.support.simulated import report

NAN = float("nan")


def through_bytes(trainer: Trainer) -> Trainer:
    again = Trainer(job=restore(Snapshot.from_frame(trainer.state())))
    again.batches = dict(trainer.batches)
    return again


def world() -> Trainer:
    """A run in the middle of an interval, with something in every part of its state."""
    trainer = Trainer("bandit", parameters={"warm_up": 1}, samples=20, interval=4, lag=1)
    trainer.apply(ValidationReported(report(0)))
    trainer.train(17)
    trainer.swap("balance", "next_interval")
    trainer.take()
    trainer.feed(17, rank=1, world_size=2)
    scores = Scores(indices=np.array([3, 4]), similarity=np.ones(2, np.float32), loss=np.ones(2, np.float32))
    trainer.apply(ScoresReceived.of(trainer.job, scores))
    return trainer


def planned_not_served() -> Trainer:
    trainer = Trainer()
    trainer.apply(PlanDrawn())
    return trainer


def cut_at_the_start() -> Trainer:
    trainer = Trainer()
    trainer.apply(PlanDrawn())
    trainer.swap("balance")
    return trainer


def gone_back() -> Trainer:
    trainer = Trainer(samples=40)
    trainer.take(6)
    trainer.adopt(0, [np.arange(4)])
    return trainer


MOMENTS: dict[str, Callable[[], Trainer]] = {
    "fresh": Trainer,
    "planned but nothing handed out": planned_not_served,
    "replanned before the first step": cut_at_the_start,
    "in the middle of everything": world,
    "after a client went back": gone_back,
}


def test_all_that_a_job_holds_is_in_its_snapshot_or_follows_from_it() -> None:
    job, kept = Trainer().job, {*Snapshot.model_fields, "keys"}  # these as `names`: a message has no field of that name
    follows = {"calendar", "signals", "planned_until", "proceed"}  # the last is of whoever holds it
    assert set(vars(job)) - follows - {"history"} <= kept
    assert {field.name for field in fields(job.history)} - {"spec", "recall", "leaving"} <= kept


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_job_survives_its_snapshot_at_any_moment(moment: str) -> None:
    trainer = MOMENTS[moment]()
    again = through_bytes(trainer)
    assert again.state() == trainer.state()
    for run in (trainer, again):
        run.train(12)
    assert again.state() == trainer.state()


def test_a_snapshot_stays_as_it_was_taken() -> None:
    trainer = world()
    taken = take_snapshot(trainer.job)
    before = taken.to_frame()
    trainer.train(12)
    assert taken.to_frame() == before


def test_a_restored_job_shares_nothing_with_its_snapshot() -> None:
    trainer = world()
    taken = Snapshot.from_frame(trainer.state())
    before = taken.to_frame()
    trainer.job = restore(taken)
    trainer.feed(17)
    trainer.train(12)
    assert taken.to_frame() == before


@pytest.mark.long
def test_much_feedback_that_waits_fits_into_a_snapshot() -> None:
    trainer = Trainer(samples=4, batch_size=1, interval=200_000)
    trainer.take()
    trainer.apply(StepsServed(200_000))
    for start in range(0, 120_000, 4000):
        values = np.zeros((4000, 1), np.float32)
        feedback = Feedback(step=np.arange(start, start + 4000), similarity=values, loss=values)
        trainer.apply(FeedbackReceived.of(trainer.job, Ranked(), feedback))
    again = through_bytes(trainer)
    assert len(again.job.ledger.waiting) == 120_000
    assert again.state() == trainer.state()


def test_policies_that_are_not_installed_are_refused_by_name() -> None:
    message = hostile()
    message["versions"][-1]["policy"]["name"] = message["spec"]["policy"]["name"] = "no_such"
    with pytest.raises(InvalidValueError, match="got 'no_such'"):
        restore(Snapshot.model_validate(message))


def test_decisions_that_the_policy_would_not_make_are_refused() -> None:
    trainer = Trainer("bandit")
    trainer.train(6)
    message = frames.decode(portable(trainer.job).to_frame())
    message["decisions"][1]["action"]["kappa_loss"] = 7.0
    with pytest.raises(NotReproducibleError, match="'bandit' chose otherwise"):
        restore(Snapshot.model_validate(message))


def test_a_state_of_a_policy_is_taken_from_ones_own_store_alone() -> None:
    trainer = Trainer("bandit")
    trainer.train(6)
    check_whole(portable(trainer.job))
    with pytest.raises(InvalidValueError, match="policy_state must be null"):
        check_whole(take_snapshot(trainer.job))


# What is refused.

WORLD = frames.decode(world().state())


def hostile() -> dict[str, Any]:
    """A snapshot to be tampered with."""
    return copy.deepcopy(WORLD)


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Put a value at a dotted path; a function is given what was there."""

    def tamper(message: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = message
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        key = int(last) if isinstance(place, list) else last
        place[key] = value(place[key]) if callable(value) else value

    return tamper


def first_is(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """The array with another value in its first place."""

    def change(array: np.ndarray) -> np.ndarray:
        changed = array.copy() if array.dtype.kind == "f" else array.astype(np.int64)
        changed.reshape(-1)[0] = value
        return changed

    return change


SHADOW = {"shadow": 1, "policy": "uniform", "action": {"share": 0.5}, "propensity": 1.0, "detail": {}}
VERSION = {"version": 1, "policy": {"name": "uniform"}, "first_step": 0}
HOSTILE = [
    ("format", 5, "format"),
    ("format", "1", "format"),
    ("more", 1, "more\n  Extra inputs"),
    ("table.more", 1, "table.more\n  Extra inputs"),
    ("plans.0.more", 1, "plans.0.more\n  Extra inputs"),
    ("ledger", None, "ledger"),
    ("spec.samples", 21, r"table.latest.similarity must have shape \(21,\), got \(20,\)"),
    ("spec.modalities", ["a", "b", "c"], r"table.latest.probability must have shape \(20, 4\)"),
    ("spec.batch_size", 5, r"plans.indices must have shape \(\d+, 5\), got"),
    ("spec.seed", -1, "spec.seed"),
    ("table.latest.similarity", first_is(2.0), "similarity must lie in"),
    ("table.latest.loss", first_is(np.inf), "table.latest.loss\n.*finite values, got inf"),
    ("table.latest.probability", first_is(1.5), "probability must lie in"),
    ("table.latest.probability", lambda a: a[:, :2], "table.latest.probability must have shape"),
    ("table.latest", {}, r"table.latest must hold \['loss', 'probability', 'similarity'\], got \[\]"),
    ("table.average.similarity", first_is(-0.5), "table.average.similarity\n.*must lie in"),
    ("table.average", lambda v: {**v, "probability": v["loss"]}, "table.average must hold"),
    ("table.average.loss", lambda a: a[1:], r"table.average.loss must have shape \(20,\)"),
    ("table.unknown", {"probability": np.ones(20, np.bool_)}, "table.unknown must be of"),
    ("table.unknown", {"loss": np.ones(19, np.bool_)}, r"table.unknown.loss must have shape \(20,\)"),
    ("table.times_measured", first_is(-1), "table.times_measured\n.*uint32"),
    ("table.stamp", first_is(2**32), "table.stamp\n.*uint32"),
    ("served", 100, "served must lie within the plans, .* got 100"),
    ("served", 0, "served must lie within the plans, .* got 0"),
    ("served", -1, "served"),
    ("plans.0.first_step", 3, "plans.first_step must follow the plan before"),
    ("plans.0.indices", first_is(20), "plans.indices must be less than samples = 20, got 20"),
    ("plans.0.indices", first_is(-1), "plans.0.indices\n.*got -1"),
    ("plans.0.indices", lambda a: a.astype(np.float32), "plans.0.indices\n.*must hold int64 values, got float32"),
    ("plans.0.indices", lambda a: a[0], r"plans.0.indices\n.*must have shape \(K, G\)"),
    ("plans.0.probabilities", first_is(NAN), "plans.0.probabilities\n.*finite values, got nan"),
    ("plans.0.probabilities", lambda a: a[:1], "probabilities must have shape"),
    ("plans.0.policy_version", 9, r"plans.policy_version must lie in \[0, 2\], got 9"),
    ("plans.0.policy_version", -1, "plans.0.policy_version"),
    ("versions", [], "versions"),
    ("versions.1.version", 7, r"versions must count up from 1, got \[1, 7\]"),
    ("versions.0.first_step", 1, "the first of versions must begin at step 0, got 1"),
    ("decisions.0.policy_version", 0, "decisions.0.policy_version\n.*greater than or equal to 1"),
    ("decisions.0.policy_version", 9, r"decisions.policy_version must lie in \[1, 2\], got 9"),
    ("decisions.1.end_step", 1, "end_step must be at least first_step = 4, got 1"),
    ("decisions.0.propensity", 0.0, "decisions.0.propensity"),
    ("decisions.0.propensity", NAN, "decisions.0.propensity"),
    ("decisions.0.action.share", 2.0, "decisions.0.action\n.*share must lie in"),
    ("decisions.0.action.link", "cubic", "decisions.0.action\n.*link must be one of"),
    ("decisions.0.action.more", 1.0, "decisions.0.action\n.*more"),
    ("decisions.0.action.share", "half", "decisions.0.action"),
    ("decisions.0.detail.x", np.zeros(2), "decisions.0.detail.x"),
    ("decisions.0.gain", 1e300, "decisions.0.gain"),
    ("decisions.0.reward", NAN, "decisions.0.reward"),
    ("decisions.0.reward", 1e40, "decisions.0.reward"),
    ("decisions.0.shadow", SHADOW, r"decisions.shadow.shadow must lie in \[1, 0\], got 1"),
    ("decisions.0.policy", 5, "decisions.0.policy"),
    ("decisions.0.epoch", -1, "decisions.0.epoch"),
    ("decisions.0.shadow", {**SHADOW, "action": {"share": 2.0}}, "decisions.0.shadow.action\n.*share must lie in"),
    ("shadows", [{**VERSION, "version": 2}], r"shadows must count up from 1, got \[2\]"),
    ("watching", True, "watching must be false without shadows, got true"),
    ("artefacts", {"x": np.zeros(3, np.float32)}, "artefacts.x\n.*must hold uint8 values, got float32"),
    ("artefacts", {"x": "bytes"}, "artefacts.x"),
    ("observations", lambda a: a[:-1], "observations must have shape"),
    ("observations", lambda a: a[:, :-1], "observations must have shape"),
    ("observations", first_is(NAN), "observations must hold finite"),
    ("observations", first_is(1.5), "observations must lie in"),
    ("reports.0.accuracy", 1.5, "reports.0.accuracy"),
    ("reports.0.loss", 1e300, "reports.0.loss"),
    ("reports.0.modalities", {}, r"reports must have the modalities \['audio', 'video'\], got \[\]"),
    ("reports.0.step", 2**20, "reports must be in order of step"),
    ("ledger.complete", np.array([[0, 19]]), "ledger must hold steps before served = 18, got step 18"),
    ("ledger.complete", np.array([[0, 4], [4, 9]]), "ledger.complete must be runs in order and apart, got"),
    ("ledger.complete", np.array([[0, 4, 9]]), r"ledger.complete must have shape \(1, 2\)"),
    ("ledger.partial_steps", first_is(18), "ledger must hold steps before served = 18, got step 18"),
    ("ledger.partial_steps", first_is(-1), "ledger.partial_steps\n.*got -1"),
    ("ledger.partial_rows", lambda a: a[:, :3], "ledger.partial_rows must have shape"),
    ("ledger.partial_rows", lambda a: a.astype(np.int64), "ledger.partial_rows\n.*must hold bool values"),
    ("ledger.waiting.step", first_is(18), "ledger must hold steps before served = 18, got step 18"),
    ("ledger.waiting.step", lambda a: a[:0], r"ledger.waiting.row must have shape \(0,\)"),
    ("ledger.waiting.row", first_is(-1), "ledger.waiting.row"),
    ("ledger.waiting.rows", first_is(1), "ledger.waiting.rows must add up to the"),
    ("ledger.waiting.rows", first_is(2**40), "ledger.waiting.rows must add up to the"),
    ("ledger.waiting.indices", first_is(20), "ledger.waiting.indices must be less than samples = 20"),
    ("ledger.waiting.values", first_is(np.inf), "ledger.waiting.values\n.*finite"),
    ("ledger.waiting.values", first_is(2.0), "similarity must lie in"),
    ("ledger.waiting.values", lambda a: a[:1], "ledger.waiting.values must have shape"),
    ("passes.0.indices", first_is(20), "passes.indices must be less than samples = 20"),
    (
        "passes.0.values",
        np.ones((2, 9), np.float32),
        r"passes.values must have shape \(2, 5\), got \(2, 9\)",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    HOSTILE,
    ids=[f"{path}-{k}" for k, (path, _, _) in enumerate(HOSTILE)],
)
def test_a_snapshot_that_was_tampered_with_is_refused_by_field(path: str, value: Any, words: str) -> None:
    message = hostile()
    put(path, value)(message)
    with pytest.raises(pydantic.ValidationError, match=words):
        Snapshot.model_validate(message)


def leaves(value: Any, path: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [leaf for key, item in items for leaf in leaves(item, f"{path}.{key}".strip("."))] or [path]


nonsense = (
    st.none()
    | st.booleans()
    | st.integers(-2, 25)
    | st.sampled_from([2**31 - 1, 2**63 - 1, 2**63, -1.0, 0.5, NAN, 1e308, "", "uniform", [], {}])
    | st.sampled_from([first_is(v) for v in (-1, 0, 0.5, 1, 7, 19, 2**31 - 1, NAN)])
    | st.sampled_from([lambda v: v[:-1], lambda v: v[:0], lambda v: v * 0, lambda v: v + 1, lambda v: [*v, *v]])
)


# An interval of 2^31 steps is no nonsense, but too long to be drawn here.
PLACES = [path for path in leaves(WORLD) if path != "spec.interval"]


@given(st.lists(st.tuples(st.sampled_from(PLACES), nonsense), min_size=1, max_size=2))
@settings(max_examples=300)
def test_what_is_not_refused_is_a_job_that_runs_and_can_be_stored(changes: list[tuple[str, Any]]) -> None:
    message = hostile()
    for path, value in changes:
        try:
            put(path, value)(message)
        except (TypeError, AttributeError, OverflowError, ValueError, LookupError):
            return  # no such value there
    try:
        trainer = Trainer(job=restore(Snapshot.model_validate(message)))
    except (pydantic.ValidationError, BssError):
        return
    trainer.take(6)
    trainer.feed(trainer.job.served - 1)
    trainer.take(6)
    Snapshot.from_frame(trainer.state())
