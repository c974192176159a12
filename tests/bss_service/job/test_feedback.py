from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bss_service.job.feedback import FeedbackLedger, Measured

G = 4
PARTS = [(0, 4), (0, 2), (2, 4), (1, 2), (3, 4)]  # of a batch, as ranks of several world sizes would send them


def measured(step: int, rows: np.ndarray) -> Measured:
    return Measured(step, int(rows[0]), rows + 100 * step, np.zeros((len(rows), 5), np.float32))


def send(ledger: FeedbackLedger, step: int, start: int = 0, stop: int = G) -> list[int]:
    """Count the rows that are new; which those were."""
    rows = ledger.new_rows(step, range(start, stop))
    if len(rows):
        ledger.record(step, rows, measured(step, rows))
    return rows.tolist()


def test_each_row_is_new_once() -> None:
    ledger = FeedbackLedger(G)
    assert [send(ledger, 0), send(ledger, 0), send(ledger, 0, 2, 4)] == [[0, 1, 2, 3], [], []]


def test_ranks_add_up_to_a_whole_step() -> None:
    ledger = FeedbackLedger(G)
    send(ledger, 0, 2, 4)
    assert (ledger.is_complete(0), ledger.first_missing) == (False, 0)
    send(ledger, 0, 0, 2)
    assert (ledger.is_complete(0), ledger.first_missing, ledger.partial) == (True, 1, {})


def test_another_world_size_sends_what_is_missing() -> None:
    ledger = FeedbackLedger(G)
    send(ledger, 0, 1, 2)
    assert send(ledger, 0, 0, 4) == [0, 2, 3]
    assert ledger.is_complete(0)


def test_steps_may_come_in_any_order() -> None:
    ledger = FeedbackLedger(G)
    missing = []
    for step in (2, 0, 1):
        send(ledger, step)
        missing.append(ledger.first_missing)
    assert missing == [0, 1, 3]


def test_steps_in_a_row_take_the_room_of_one() -> None:
    ledger = FeedbackLedger(1)
    for step in range(1000):
        ledger.record(step, np.zeros(1, np.int64), None)
    assert ledger.complete.runs().tolist() == [[0, 1000]]


def test_a_step_far_ahead_is_remembered() -> None:
    ledger = FeedbackLedger(G)
    send(ledger, 5000)
    assert ledger.is_complete(5000)
    assert not ledger.is_complete(4999)
    assert not ledger.is_complete(10**9)


def test_what_waits_is_taken_once_in_order_of_step_and_row() -> None:
    ledger = FeedbackLedger(G)
    for step, start, stop in [(1, 2, 4), (3, 0, 4), (0, 0, 4), (1, 0, 2)]:
        send(ledger, step, start, stop)
    assert [(m.step, m.row) for m in ledger.take_before(3)] == [(0, 0), (1, 0), (1, 2)]
    assert [(m.step, m.row) for m in ledger.take_before(3)] == []
    assert [(m.step, m.row) for m in ledger.take_before(4)] == [(3, 0)]


def test_rows_counted_without_values_leave_nothing_to_learn() -> None:
    ledger = FeedbackLedger(G)
    ledger.record(0, np.arange(G), None)
    assert (ledger.is_complete(0), ledger.take_before(1)) == (True, [])


@pytest.mark.parametrize(("asked", "answer"), [(2, True), (5, True), (6, False)])
def test_whole_and_partial_steps_count_as_feedback_since(asked: int, answer: bool) -> None:
    ledger = FeedbackLedger(G)
    send(ledger, 2)
    send(ledger, 5, 0, 1)
    assert ledger.any_since(asked) is answer


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(PARTS)), max_size=40))
def test_any_course_counts_like_a_set(course: list[tuple[int, tuple[int, int]]]) -> None:
    ledger, known = FeedbackLedger(G), set[tuple[int, int]]()
    for step, (start, stop) in course:
        sent = {(step, row) for row in range(start, stop)}
        assert {(step, row) for row in send(ledger, step, start, stop)} == sent - known
        known |= sent
    whole = [step for step, rows in Counter(step for step, _ in known).items() if rows == G]
    assert [step for step in range(6) if ledger.is_complete(step)] == sorted(whole)
    assert ledger.first_missing == next(step for step in range(7) if step not in whole)
    assert len(ledger.complete) == len(whole)
    assert [step for start, stop in ledger.complete.runs() for step in range(start, stop)] == sorted(whole)
    learnt = [(m.step, int(i) - 100 * m.step) for m in ledger.take_before(6) for i in m.indices]
    assert sorted(learnt) == sorted(known)
