"""A job in memory: what it hands out, what it takes in, what it refuses, and that its journal tells all of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bss_service.core.samples.table import MAX_STEP
from bss_service.core.signals import EVIDENCE
from bss_service.errors import BssError, ConflictError, InvalidValueError, NotReproducibleError, UnknownStepError
from bss_service.job import checks
from bss_service.job.events import FeedbackReceived, LocalBatchesAdopted, PlanDrawn, ScoresReceived, ValidationReported
from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, restore
from bss_service.protocol.training import LOCAL_VERSION, Feedback, LocalBatches, Ranked, Scores
from bss_service.protocol.validation import Confusion, ModalityReport, ValidationReport
from tests.conftest import Trainer, replayed
from tests.support.simulated import measured, report

LEARNS = {"kappa_loss": 5.0, "coverage": "draw"}  # a policy whose every plan depends on all that was measured


# Handing out.


@pytest.mark.parametrize("tail", ["carry", "drop"])
@pytest.mark.parametrize("interval", [None, 1, 2, 7])
def test_every_sample_comes_once_an_epoch_through_every_kind_of_swap(tail: str, interval: int | None) -> None:
    trainer = Trainer("uniform", tail=tail, interval=interval)
    for policy, at in [("balance_code", "now"), ("uniform", "next_interval"), ("balance_code", "next_interval")] * 4:
        trainer.train(2)
        trainer.swap(policy, at)
    assert_covered(trainer)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_a_policy_that_covers_only_a_part_gives_way_to_one_that_covers_the_rest(steps: int) -> None:
    """After a swap `now` from draws with replacement, what was not drawn yet comes in the rest of the epoch."""
    trainer = Trainer("fixed", parameters=LEARNS, samples=40)
    trainer.train(steps)
    drawn = {sample for batch in trainer.batches.values() for sample in batch.tolist()}
    trainer.swap("uniform")
    trainer.train(10 - steps)
    rest = np.concatenate([trainer.batches[step] for step in range(steps, 10)]).tolist()
    assert len(set(rest)) == len(rest)
    assert not drawn & set(rest)


def test_a_step_returns_the_same_batch_for_ever() -> None:
    trainer = Trainer(samples=40)
    trainer.train(25)
    again = trainer.job.batches(12, 25)
    assert again.indices.tolist() == [trainer.batches[step].tolist() for step in range(12, 25)]


def test_batches_say_their_epoch_their_policy_and_the_age_of_their_scores() -> None:
    trainer = Trainer(samples=10)  # epochs of 2 and 3 steps in turn
    trainer.train(3)
    trainer.swap("balance_code")
    trainer.train(3)
    answer = trainer.job.batches(2, 6)
    assert answer.epoch.tolist() == [1, 1, 1, 2]
    assert answer.policy_version.tolist() == [1, 2, 2, 2]
    assert answer.scored_until.tolist() == [2, 2, 2, 5]


def test_plans_of_the_current_epoch_and_the_one_before_stay_in_memory() -> None:
    trainer = Trainer(samples=40)
    trainer.train(35)
    assert [trainer.job.holds(step) for step in (19, 20, 34, 39, 40)] == [False, True, True, True, False]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_a_batch_without_gap_or_overlap(world_size: int) -> None:
    spec = Trainer().job.spec
    rows = [row for rank in range(world_size) for row in checks.rank_rows(spec, rank, world_size)]
    assert rows == [0, 1, 2, 3]


def test_a_job_ends_where_steps_can_no_longer_be_counted() -> None:
    trainer = Trainer(samples=1, batch_size=1)
    trainer.job.planned_until = MAX_STEP
    with pytest.raises(InvalidValueError, match=f"at most {MAX_STEP} steps, got step {MAX_STEP + 1}"):
        trainer.apply(PlanDrawn())


# Feedback.


def test_feedback_counts_once_and_a_repeat_says_so_and_changes_nothing() -> None:
    trainer = Trainer()
    trainer.take(2)
    assert trainer.feed(0) == ["applied"]
    before = trainer.state()
    assert trainer.feed(0) == ["repeated"]
    assert trainer.feed(0, rank=1, world_size=2) == ["repeated"]
    assert trainer.state() == before


def test_a_row_twice_in_one_message_counts_once() -> None:
    trainer = Trainer()
    trainer.take()
    rows = np.full((2, 4), 0.5, np.float32)
    twice = Feedback(step=np.array([0, 0]), similarity=rows, loss=rows)
    assert trainer.apply(FeedbackReceived.of(trainer.job, Ranked(), twice)).feedback == ["applied", "repeated"]


def test_every_row_is_counted_whatever_the_world_sizes_that_sent_it() -> None:
    trainer = Trainer(samples=8)
    trainer.take(2)
    sent = [trainer.feed(0, rank=3, world_size=4), trainer.feed(0, rank=0, world_size=2), trainer.feed(0, 1)]
    assert sent == [["applied"], ["applied"], ["applied", "applied"]]
    trainer.take()
    assert trainer.job.table.times_measured.tolist() == [1] * 8


def test_samples_that_were_not_measured_count_but_leave_no_trace() -> None:
    trainer = Trainer(samples=8)
    trainer.take(2)
    values = measured(0, trainer.batches[0]).measurements(trainer.job.signals, 4)
    values[:, [1, 3]] = np.nan
    partly = Feedback(step=np.array([0]), values=values)
    trainer.apply(FeedbackReceived.of(trainer.job, Ranked(), partly))
    trainer.feed(1)
    assert trainer.job.is_ready(2)
    trainer.take()
    unmeasured = np.flatnonzero(~trainer.job.table.measured)
    assert sorted(unmeasured) == sorted(trainer.batches[0][[1, 3]])


def test_feedback_more_than_an_epoch_old_is_counted_but_not_used() -> None:
    trainer = Trainer(samples=8)
    trainer.take(6)
    assert trainer.feed(0, 5) == ["late", "applied"]
    assert trainer.feed(0) == ["repeated"]
    trainer.feed(1, 2, 3, 4)
    trainer.take()
    assert trainer.job.table.times_measured.sum() == 4 * 4  # of steps 2 to 5


def test_feedback_that_arrives_after_its_plan_was_drawn_serves_the_next() -> None:
    trainer = Trainer(samples=8)
    trainer.take(3)
    trainer.feed(0)
    assert trainer.job.table.times_measured.sum() == 0
    trainer.take(2)
    assert trainer.job.table.times_measured.sum() == 4


def test_an_older_measurement_that_comes_later_does_not_win() -> None:
    trainer = Trainer("fixed", parameters=LEARNS, samples=8)
    trainer.take(2)
    trainer.feed(1)
    trainer.take(2)
    trainer.feed(0)
    trainer.take()
    in_both = np.intersect1d(trainer.batches[0], trainer.batches[1])
    assert len(in_both) > 0
    assert trainer.job.table.last_step[in_both].tolist() == [1] * len(in_both)
    measured_last = measured(1, in_both).model_dump()["loss"][0]
    assert trainer.job.table.latest["loss"][in_both].tolist() == measured_last.tolist()


# What a plan depends on.


def planned_after(feedback: list[tuple[int, int, int]], **spec: Any) -> tuple[bytes, int]:
    """The plan of steps 5 to 9 and what it is scored until, given the (step, rank, world size) that were fed back."""
    trainer = Trainer("fixed", parameters=LEARNS, samples=20, interval=5, **spec)
    trainer.take(5)
    for step, rank, world_size in feedback:
        trainer.feed(step, rank=rank, world_size=world_size)
    plan = trainer.apply(PlanDrawn())
    return plan.indices.tobytes() + plan.probabilities.tobytes(), plan.scored_until


WHOLE = [(step, 0, 1) for step in range(5)]


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_a_plan_depends_on_the_feedback_until_its_first_step_less_the_lag_and_on_no_later_one(lag: int) -> None:
    exact = planned_after(WHOLE[: 5 - lag], lag=lag)
    assert planned_after(WHOLE, lag=lag) == exact
    assert exact[1] == 5 - lag
    for k in range(5 - lag):
        assert planned_after(WHOLE[:k] + WHOLE[k + 1 :], lag=lag)[0] != exact[0]


@pytest.mark.parametrize(
    "arrival",
    [
        WHOLE[::-1],
        [(step, rank, 2) for rank in (1, 0) for step in (3, 1, 4, 0, 2)],
        [(step, rank, 4) for step in range(5) for rank in (2, 0, 3, 1)],
        [*WHOLE, *WHOLE],
    ],
    ids=["backwards", "two ranks apart", "four ranks mixed", "twice"],
)
def test_a_plan_does_not_depend_on_how_its_feedback_arrived(arrival: list[tuple[int, int, int]]) -> None:
    assert planned_after(arrival) == planned_after(WHOLE)


def test_an_interval_is_ready_when_all_feedback_before_it_has_come() -> None:
    trainer = Trainer(samples=20, interval=5, lag=2)
    trainer.take(5)
    ready = []
    for step in range(5):
        ready.append(trainer.job.is_ready(5))
        trainer.feed(step)
    assert ready == [False, False, False, True, True]
    assert trainer.job.is_ready(4)


def test_a_plan_drawn_without_all_of_its_feedback_says_so() -> None:
    trainer = Trainer(samples=20, interval=5)
    trainer.take(5)
    trainer.feed(0, 1, 3)
    assert trainer.apply(PlanDrawn()).scored_until == 2


def test_what_a_plan_may_know_does_not_depend_on_when_it_is_drawn_anew() -> None:
    """Swapped in the middle of an interval, before or after feedback from within it came: the same rest."""
    rests = []
    for fed in (0, 2):
        trainer = Trainer("uniform", samples=20, interval=5)
        trainer.take(5)
        trainer.feed(*range(5))
        trainer.take(3)
        trainer.feed(*range(5, 5 + fed))
        trainer.swap("fixed", **LEARNS)
        trainer.take(2)
        rests.append([trainer.batches[step].tolist() for step in (8, 9)])
    assert rests[0] == rests[1]


def pass_over(samples: int) -> Scores:
    """A measuring pass that finds a loss of 1 everywhere."""
    ones = np.ones(samples, np.float32)
    return Scores(indices=np.arange(samples), similarity=ones, loss=ones)


def test_a_measuring_pass_serves_the_next_plan_and_later_feedback_replaces_it() -> None:
    trainer = Trainer(samples=8)
    trainer.apply(ScoresReceived.of(trainer.job, pass_over(8)))
    trainer.take(2)
    assert trainer.job.table.latest["loss"].tolist() == [1] * 8
    assert trainer.job.table.times_measured.tolist() == [0] * 8
    trainer.feed(0)
    trainer.take()
    assert sorted(np.flatnonzero(trainer.job.table.latest["loss"] != 1)) == sorted(trainer.batches[0])


def test_a_measuring_pass_replaces_what_was_measured_before() -> None:
    trainer = Trainer(samples=8)
    trainer.train(2)
    trainer.take(2)
    trainer.apply(ScoresReceived.of(trainer.job, pass_over(8)))
    trainer.take()
    assert trainer.job.table.latest["loss"].tolist() == [1] * 8


# Validation.


def test_a_report_rewards_the_interval_that_it_ends() -> None:
    trainer = Trainer(samples=8)
    trainer.apply(ValidationReported(report(0)))
    trainer.take(2)
    answer = trainer.apply(ValidationReported(report(2)))
    assert (answer.outcome, len(answer.rewards)) == ("applied", 1)


def test_a_report_that_is_repeated_or_late_changes_nothing() -> None:
    trainer = Trainer(samples=8)
    trainer.take(4)
    trainer.apply(ValidationReported(report(2)))
    trainer.apply(ValidationReported(report(4)))
    before = trainer.state()
    assert trainer.apply(ValidationReported(report(2))).outcome == "repeated"
    assert trainer.apply(ValidationReported(report(2).model_copy(update={"loss": 99.0}))).outcome == "late"
    assert trainer.apply(ValidationReported(report(3))).outcome == "late"
    assert trainer.state() == before


def test_a_confusion_matrix_is_kept_of_the_latest_reports_by_jobs_that_use_it() -> None:
    told = Confusion(label=np.array([0]), predicted=np.array([1]), mass=np.ones(1, np.float32))
    for signals, kept in (([signal.name for signal in EVIDENCE], [False, True, True]), ([], [False] * 3)):
        trainer = Trainer(samples=8, **({"signals": signals} if signals else {}))
        trainer.take(6)
        reports = [report(step).model_copy(update={"confusion": told}) for step in (2, 4, 6)]
        for each in reports:
            trainer.apply(ValidationReported(each))
        assert [r.confusion is not None for r in trainer.job.history.reports] == kept
        assert [trainer.apply(ValidationReported(each)).outcome for each in reports] == ["repeated"] * 3
        assert replayed(Job(trainer.job.spec), trainer.journal) == trainer.state()


def test_modalities_are_reported_by_name_in_any_order() -> None:
    states = []
    for names in (["audio", "video"], ["video", "audio"]):
        trainer = Trainer()
        heads = {name: report(0).modalities[name] for name in names}
        trainer.apply(ValidationReported(report(0).model_copy(update={"modalities": heads})))
        states.append(trainer.state())
    assert states[0] == states[1]


@pytest.mark.parametrize(("lag", "seen"), [(0, 1.0), (1, 0.0)])
def test_a_report_made_at_the_cut_counts_only_where_it_cannot_race_with_the_plan(lag: int, seen: float) -> None:
    trainer = Trainer(samples=20, interval=5, lag=lag)
    trainer.take(5)
    trainer.apply(ValidationReported(report(5 - lag)))
    trainer.take()
    assert trainer.job.history.decisions[-1].observation["has_validation"] == seen


# Swaps.


def test_a_swap_now_leaves_what_was_handed_out_and_takes_the_very_next_step() -> None:
    trainer = Trainer(samples=40)
    trainer.take(4)
    before = trainer.job.batches(0, 4).indices.tobytes()
    answer = trainer.swap("balance_code")
    assert (answer.policy_version, answer.first_step, answer.changed) == (2, 4, True)
    trainer.take()
    assert trainer.job.batches(0, 4).indices.tobytes() == before
    assert trainer.job.batches(0, 5).policy_version.tolist() == [1, 1, 1, 1, 2]


def test_a_swap_at_the_next_interval_leaves_the_plan_as_it_is() -> None:
    trainer = Trainer(samples=40)
    trainer.take(4)
    planned = trainer.job.batches(0, 10).indices.tobytes()
    assert trainer.swap("balance_code", "next_interval").first_step == 10
    trainer.take(8)
    assert trainer.job.batches(0, 10).indices.tobytes() == planned
    assert trainer.job.batches(9, 12).policy_version.tolist() == [1, 2, 2]


def test_a_swap_to_what_already_is_changes_nothing() -> None:
    trainer = Trainer(samples=40)
    trainer.take(4)
    before = trainer.state()
    assert not trainer.swap("uniform").changed
    assert trainer.state() == before


def test_a_swap_now_overtakes_one_that_is_pending() -> None:
    trainer = Trainer(samples=40)
    trainer.take(4)
    trainer.swap("bandit", "next_interval")
    trainer.swap("balance_code")
    trainer.take(8)
    assert trainer.job.batches(0, 12).policy_version.tolist() == [1] * 4 + [3] * 8


def test_asking_now_for_the_policy_that_is_pending_brings_it_forward() -> None:
    trainer = Trainer(samples=40)
    trainer.take(4)
    trainer.swap("balance_code", "next_interval")
    answer = trainer.swap("balance_code")
    assert (answer.changed, answer.first_step) == (True, 4)


def test_a_pending_swap_can_be_taken_back() -> None:
    trainer = Trainer(samples=40)
    trainer.take(4)
    trainer.swap("balance_code", "next_interval")
    trainer.swap("uniform", "next_interval")
    trainer.take(8)
    assert len({d.action for d in trainer.job.history.decisions}) == 1


@pytest.mark.parametrize("at", ["now", "next_interval"])
def test_a_swap_before_the_first_step_takes_it(at: str) -> None:
    trainer = Trainer()
    assert trainer.swap("balance_code", at).first_step == 0
    trainer.take()
    assert trainer.job.batches(0, 1).policy_version.tolist() == [2]


def test_the_decision_of_a_plan_that_was_cut_ends_where_it_was_cut() -> None:
    trainer = Trainer(samples=40)
    trainer.take(4)
    trainer.swap("balance_code")
    trainer.take()
    spans = [(d.first_step, d.end_step, d.policy_version) for d in trainer.job.history.decisions]
    assert spans == [(0, 4, 1), (4, 10, 2)]


# Batches that a client drew by itself.


def left(trainer: Trainer, start: int, steps: int) -> np.ndarray:
    """Batches from a step on, of samples that its epoch has not drawn before."""
    drawn = {sample for step in range(start) for sample in trainer.batches[step].tolist()}
    rest = [sample for sample in range(trainer.job.spec.samples) if sample not in drawn]
    return np.array(rest[: 4 * steps]).reshape(steps, 4)


def test_local_batches_take_the_place_of_those_planned_and_the_epoch_stays_whole() -> None:
    trainer = Trainer(samples=40)
    trainer.take(3)
    local = left(trainer, 3, 2)
    assert trainer.adopt(3, local)
    trainer.take(5)
    assert trainer.job.batches(3, 5).indices.tolist() == local.tolist()
    assert trainer.job.batches(2, 6).policy_version.tolist() == [1, LOCAL_VERSION, LOCAL_VERSION, 1]
    assert_covered(trainer)


def test_local_batches_replace_batches_that_were_handed_out_in_vain() -> None:
    trainer = Trainer(samples=40)
    trainer.take(6)
    assert trainer.adopt(4, left(trainer, 4, 1))
    assert trainer.job.served == 5
    trainer.take(5)
    assert_covered(trainer)


def test_a_swap_keeps_the_step_that_it_announced_when_the_client_goes_back_before_it() -> None:
    trainer = Trainer(samples=40)
    trainer.take(8)
    assert trainer.swap("balance_code").first_step == 8
    trainer.adopt(3, left(trainer, 3, 3))
    trainer.take(4)
    assert trainer.job.batches(3, 10).policy_version.tolist() == [LOCAL_VERSION] * 3 + [1, 1, 2, 2]
    assert_covered(trainer)


def test_local_batches_may_reach_into_the_next_epoch() -> None:
    trainer = Trainer(samples=10)
    trainer.take(2)
    drawn = np.concatenate([trainer.batches[0], trainer.batches[1]])
    last_two, first_two = np.setdiff1d(np.arange(10), drawn), drawn[:2]
    trainer.adopt(2, [np.concatenate([last_two, first_two])])
    trainer.take(7)
    assert_covered(trainer)


def test_local_batches_are_waited_for_though_those_in_their_place_were_given_up() -> None:
    trainer = Trainer(samples=40, interval=2)
    trainer.take(6)  # without feedback: it was waited for in vain
    [local] = left(trainer, 3, 1)
    trainer.adopt(3, [local])
    trainer.batches[3] = local
    assert not trainer.job.is_ready(4)
    trainer.feed(3)
    assert trainer.job.is_ready(4)


def test_local_batches_reported_twice_change_nothing() -> None:
    trainer = Trainer(samples=40)
    trainer.take(3)
    local = left(trainer, 3, 2)
    trainer.adopt(3, local)
    before = trainer.state()
    assert not trainer.adopt(3, local)
    assert trainer.state() == before


def test_local_batches_equal_to_those_planned_still_count_as_handed_out() -> None:
    """A client that falls back from `uniform` draws the very plan of the service, by the same seed."""
    trainer = Trainer(samples=40)
    trainer.take(2)
    planned = trainer.job.batches(0, 10).indices
    fresh = Trainer(samples=40)
    fresh.take(2)
    fresh.adopt(0, planned)
    assert fresh.job.served == 10
    assert fresh.feed(9) == ["applied"]


def test_feedback_on_local_batches_counts() -> None:
    trainer = Trainer(samples=40)
    trainer.adopt(0, np.arange(8).reshape(2, 4))
    assert trainer.feed(0, 1) == ["applied", "applied"]
    trainer.take(9)
    assert sorted(np.flatnonzero(trainer.job.table.measured)) == list(range(8))


# Refusals.


def feedback(step: int = 0, columns: int = 4, heads: int = 3, rank: int = 0, world_size: int = 1) -> Any:
    sent = Feedback(
        step=np.array([step]),
        loss=np.full((1, columns), 0.5, np.float32),
        probability=np.full((1, columns, heads), 0.5, np.float32),
    )
    sender = Ranked(rank=rank, world_size=world_size)
    return lambda trainer: trainer.apply(FeedbackReceived.of(trainer.job, sender, sent))


def adoption(start: int, batches: list[list[int]]) -> Any:
    indices = np.array(batches) if batches else np.empty((0, 4), np.int64)
    return lambda trainer: trainer.apply(LocalBatchesAdopted(LocalBatches(start=start, indices=indices)))


def swap(name: str, **parameters: Any) -> Any:
    return lambda trainer: trainer.swap(name, **parameters)


def scores(index: int = 0, heads: int = 3) -> Any:
    sent = Scores(indices=np.array([index]), probability=np.ones((1, heads), np.float32))
    return lambda trainer: trainer.apply(ScoresReceived.of(trainer.job, sent))


def validation(step: int = 3, *modalities: str) -> Any:
    head = ModalityReport(accuracy=0.5, probability=0.5)
    sent = ValidationReport(step=step, loss=1.0, accuracy=0.5, modalities=dict.fromkeys(modalities, head))
    return lambda trainer: trainer.apply(ValidationReported(sent))


REFUSALS: dict[str, tuple[Callable[[Trainer], Any], type[BssError], str, str]] = {
    "feedback for a step not handed out": (
        feedback(step=6),
        UnknownStepError,
        "feedback.step",
        "step 6 .* next is step 6",
    ),
    "feedback for a step planned but not handed out": (feedback(step=7), UnknownStepError, "feedback.step", "step 7"),
    "feedback of too few columns": (
        feedback(columns=3),
        InvalidValueError,
        "feedback.loss",
        r"shape \(1, 4\), got \(1, 3\)",
    ),
    "feedback of a whole batch by one of two ranks": (
        feedback(world_size=2),
        InvalidValueError,
        "feedback.loss",
        r"shape \(1, 2\), got \(1, 4\)",
    ),
    "feedback of a world that does not divide": (
        feedback(world_size=3),
        InvalidValueError,
        "world_size",
        "divide .* 4, got 3",
    ),
    "feedback of too many heads": (
        feedback(heads=4),
        InvalidValueError,
        "feedback.probability",
        r"\(1, 4, 3\), got \(1, 4, 4\)",
    ),
    "a step too far": (
        lambda trainer: trainer.job.check_start(7),
        UnknownStepError,
        "start",
        "step 7 cannot .* next is step 6",
    ),
    "a report on a step not reached": (validation(7, "audio", "video"), UnknownStepError, "step", "step 7 .* step 6"),
    "a report without a modality": (validation(6, "audio"), InvalidValueError, "modalities", r"got \['audio'\]"),
    "a report on a modality there is not": (
        validation(6, "audio", "video", "x"),
        InvalidValueError,
        "modalities",
        "'x'",
    ),
    "scores of a sample there is not": (
        scores(index=40),
        InvalidValueError,
        "indices",
        "less than samples = 40, got 40",
    ),
    "scores of too few heads": (scores(heads=2), InvalidValueError, "probability", r"\(1, 3\), got \(1, 2\)"),
    "a swap to a policy there is not": (swap("no_such"), InvalidValueError, "policy.name", "got 'no_such'"),
    "a swap with a wrong parameter": (swap("curriculum", typo=1), InvalidValueError, "policy.parameters.typo", "typo"),
    "a swap with a value out of range": (
        swap("fixed", floor=2.0),
        InvalidValueError,
        "policy.parameters",
        r"floor .* got 2\.0",
    ),
    "local batches too far": (adoption(7, [[0, 1, 2, 3]]), UnknownStepError, "start", "step 7"),
    "local batches of another size": (
        adoption(6, [[0, 1, 2]]),
        InvalidValueError,
        "indices",
        r"\(K, 4\).* got \(1, 3\)",
    ),
    "no local batches": (adoption(6, []), InvalidValueError, "indices", "K of at least 1"),
    "local batches of samples there are not": (adoption(6, [[0, 1, 2, 40]]), InvalidValueError, "indices", "got 40"),
    "local batches before feedback": (adoption(2, [[36, 37, 38, 39]]), ConflictError, "start", "got 2"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_is_refused_is_named_and_leaves_the_job_as_it_was(refusal: str) -> None:
    ask, kind, field, words = REFUSALS[refusal]
    trainer = Trainer(samples=40)
    trainer.take(6)
    trainer.feed(0, 1, 2)
    trainer.validate()
    before = trainer.state()
    with pytest.raises(kind, match=words) as refused:
        ask(trainer)
    assert refused.value.field == field
    assert trainer.state() == before


@pytest.mark.parametrize("twice", ["drawn before", "within"])
def test_local_batches_with_a_sample_twice_in_an_epoch_are_refused(twice: str) -> None:
    trainer = Trainer(samples=40)
    trainer.take(3)
    batch = left(trainer, 3, 1)
    batch[0, 0] = trainer.batches[1][2] if twice == "drawn before" else batch[0, 1]
    before = trainer.state()
    with pytest.raises(ConflictError, match=f"got sample {batch[0, 0]} twice in epoch 0"):
        trainer.adopt(3, batch)
    assert trainer.state() == before


def test_local_batches_older_than_the_epoch_before_are_refused() -> None:
    trainer = Trainer(samples=8)
    trainer.take(8)
    before = trainer.state()
    with pytest.raises(ConflictError, match="in this epoch or the one before, got 1"):
        trainer.adopt(1, np.arange(4)[None])
    assert trainer.state() == before


def test_a_step_that_is_refused_among_good_ones_keeps_the_good_ones_out_too() -> None:
    trainer = Trainer()
    trainer.take(2)
    before = trainer.state()
    mixed = Feedback(step=np.array([0, 5]), similarity=np.ones((2, 4), np.float32), loss=np.ones((2, 4), np.float32))
    with pytest.raises(UnknownStepError, match="step 5"):
        trainer.apply(FeedbackReceived.of(trainer.job, Ranked(), mixed))
    assert trainer.state() == before


# The journal.


def adventure(steps: int = 40) -> Trainer:
    """A run with everything in it."""
    trainer = Trainer("bandit", parameters={"warm_up": 1}, samples=30, lag=1, interval=4)
    trainer.train(steps // 4)
    trainer.swap("balance", refresh_every=2)
    trainer.train(steps // 4)
    trainer.take(2)
    trainer.swap("uniform", "next_interval")
    trainer.feed(trainer.job.served - 2, rank=1, world_size=2)
    trainer.train(steps // 4)
    trainer.swap("bandit")
    trainer.train(steps // 4)
    return trainer


def test_the_journal_alone_reproduces_the_job() -> None:
    trainer = adventure()
    assert replayed(Job(trainer.job.spec), trainer.journal) == trainer.state()


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.8])
def test_a_snapshot_and_the_rest_of_the_journal_reproduce_the_job(share: float) -> None:
    trainer = adventure()
    cut = int(share * len(trainer.journal))
    early = Trainer(job=Job(trainer.job.spec))
    for event in trainer.journal[:cut]:
        early.apply(event)
    restored = restore(Snapshot.from_frame(early.state()))
    assert replayed(restored, trainer.journal[cut:]) == trainer.state()


def test_a_plan_that_is_not_reproduced_is_an_error() -> None:
    trainer = Trainer()
    trainer.take()
    drawn = trainer.journal[0]
    assert isinstance(drawn, PlanDrawn)
    assert drawn.checksum is not None
    with pytest.raises(NotReproducibleError, match="plan of job 'run' from step 0 on is not the one"):
        replace(drawn, checksum=drawn.checksum ^ 1).apply(Job(trainer.job.spec))


def test_another_seed_is_another_run() -> None:
    orders = []
    for seed in (0, 0, 1):
        trainer = Trainer(samples=40, seed=seed)
        trainer.train(10)
        orders.append(trainer.epochs())
    assert orders[0] == orders[1] != orders[2]


# Any course of events, against a model of plain sets.


def assert_covered(trainer: Trainer) -> None:
    """Each sample at most once an epoch, and in whole epochs with their tail all of them; none before it is there."""
    calendar = trainer.job.calendar
    for number, epoch in enumerate(trainer.epochs()):
        assert len(set(epoch)) == len(epoch)
        assert max(epoch) < calendar.samples_of(number)
        if trainer.job.spec.tail == "carry" and len(epoch) == calendar.positions_of(number):
            assert sorted(epoch) == list(range(calendar.samples_of(number)))


POLICIES = st.sampled_from(["uniform", "balance_code", "external"])


class AnyCourse(RuleBasedStateMachine):
    """Takes, feedback in every order and split, swaps, reports, outages and restarts, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.trainer = Trainer()
        self.spec = self.trainer.job.spec
        self.rows: set[tuple[int, int]] = set()
        self.counts: Counter[int] = Counter()

    @precondition(lambda self: not self.trainer.journal)
    @rule(
        samples=st.integers(4, 11),
        interval=st.none() | st.integers(1, 6),
        lag=st.integers(0, 3),
        tail=st.sampled_from(["carry", "drop"]),
    )
    def begin(self, **spec: Any) -> None:
        self.trainer = Trainer(**spec)
        self.spec = self.trainer.job.spec

    @rule(more=st.integers(0, 5))
    def grow(self, more: int) -> None:
        self.trainer.grow(self.trainer.job.spec.samples + more)

    @rule(steps=st.integers(1, 4))
    def take(self, steps: int) -> None:
        self.trainer.take(steps)

    @precondition(lambda self: self.trainer.batches)
    @rule(data=st.data(), rank=st.integers(0, 3), world_size=st.sampled_from([1, 2, 4]))
    def feed(self, data: st.DataObject, rank: int, world_size: int) -> None:
        step = data.draw(st.sampled_from(sorted(self.trainer.batches)[-6:]))
        share = 4 // world_size
        rank %= world_size
        new = {(step, row) for row in range(rank * share, (rank + 1) * share)} - self.rows
        recent = self.trainer.job.holds(step)
        (outcome,) = self.trainer.feed(step, rank=rank, world_size=world_size)
        assert outcome == ("repeated" if not new else "applied" if recent else "late")
        self.rows |= new
        if recent:
            self.counts.update(int(self.trainer.batches[step][row]) for step, row in new)

    @rule(policy=POLICIES, at=st.sampled_from(["now", "next_interval"]))
    def swap(self, policy: str, at: str) -> None:
        self.trainer.swap(policy, at)

    @precondition(lambda self: self.trainer.job.versions.in_force(self.trainer.job.planned_until).waits_for_action)
    @rule(kappa_loss=st.integers(-2, 2))
    def act(self, kappa_loss: int) -> None:
        seen = self.trainer.job.observe().vector
        self.trainer.act({"kappa_loss": kappa_loss})  # covers the epoch
        assert self.trainer.job.observe().vector.tobytes() == seen.tobytes()

    @rule()
    def validate(self) -> None:
        self.trainer.validate()

    @rule(back=st.integers(0, 2))
    def outage(self, back: int) -> None:
        trainer = self.trainer
        start = max(0, trainer.job.served - back)
        calendar = trainer.job.calendar
        epoch = calendar.epoch_at(start * 4)
        length, offset = calendar.positions_of(epoch), start * 4 - calendar.epoch_begin(epoch)
        if any(step >= start for step, _ in self.rows) or not (start == 0 or trainer.job.holds(start - 1)):
            return
        before = [s for step in range(start) for s in trainer.batches[step].tolist()]
        drawn = before[len(before) - offset :]
        batch = [s for s in range(calendar.samples_of(epoch)) if s not in drawn][: min(4, length - offset)]
        batch += [s for s in range(calendar.samples_of(epoch + 1)) if s not in batch][: 4 - len(batch)]
        trainer.adopt(start, [np.array(batch)])

    @rule()
    def restart(self) -> None:
        self.trainer.job = restore(Snapshot.from_frame(self.trainer.state()))

    @precondition(lambda self: self.trainer.batches)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from([s for s in sorted(self.trainer.batches) if self.trainer.job.holds(s)]))
        assert self.trainer.batch(step).tolist() == self.trainer.batches[step].tolist()

    @invariant()
    def every_epoch_is_covered(self) -> None:
        if self.trainer.batches:
            assert_covered(self.trainer)

    @invariant()
    def every_row_is_counted_once(self) -> None:
        job = self.trainer.job
        counted = Counter(dict(enumerate(job.table.times_measured.tolist())))
        for waiting in job.ledger.waiting.values():
            counted.update(int(sample) for m in waiting for sample in m.indices)
        assert +counted == self.counts

    def teardown(self) -> None:
        assert replayed(Job(self.spec), self.trainer.journal) == self.trainer.state()


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
