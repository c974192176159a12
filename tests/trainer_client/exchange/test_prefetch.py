"""Which batches a rank fetches, has, and has given out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.simulated import spec
from trainer_client import LagError, ScheduledBatch
from trainer_client.exchange.prefetch import KEPT, Fetch, Prefetch

EPOCH = 6  # steps


def batches(*steps: int) -> list[ScheduledBatch]:
    return [ScheduledBatch(step, np.arange(8), epoch=0, policy_version=1, scored_until=0) for step in steps]


def prefetch(size: int = 4, handed_out: int = 0, **fields: Any) -> Prefetch:
    made = Prefetch(spec("job", **{"samples": 48, "batch_size": 8, **fields}), size, handed_out)
    made.begin(0, EPOCH)
    return made


def fetched(prefetch: Prefetch) -> list[int]:
    """Fetch what is wanted, as a service would that gives all that is asked for; the steps."""
    fetch = prefetch.wanted()
    if fetch is None:
        return []
    steps = list(range(fetch.start, fetch.start + fetch.count))
    prefetch.add(fetch, batches(*steps))
    return steps


def take(prefetch: Prefetch, count: int = 1) -> list[int]:
    """Give out so many batches that are ready; their steps."""
    steps = []
    for _ in range(count):
        batch = prefetch.pop()
        assert batch is not None
        prefetch.give_out(batch)
        steps.append(batch.step)
    return steps


def feed(prefetch: Prefetch, steps: Sequence[int]) -> None:
    for step in steps:
        prefetch.fed(step)


def test_so_many_batches_are_held_ready() -> None:
    assert fetched(prefetch(size=4)) == [0, 1, 2, 3]


def test_more_is_fetched_when_half_is_used_up_and_no_further_than_the_window() -> None:
    queue = prefetch(size=4)
    fetched(queue)
    take(queue)
    assert queue.wanted() is None
    take(queue)
    assert fetched(queue) == [4, 5]
    assert queue.is_done


def test_many_are_fetched_in_few_calls() -> None:
    queue = prefetch(size=32, interval=100)
    queue.begin(0, 100)
    fetched(queue)
    take(queue, 23)
    assert not queue.is_low
    take(queue)
    assert len(fetched(queue)) == 24


def test_batches_come_in_turn_and_stay_open_until_their_feedback() -> None:
    queue = prefetch()
    fetched(queue)
    assert take(queue, 3) == [0, 1, 2]
    feed(queue, [1])
    assert (sorted(queue.open), queue.handed_out) == ([0, 2], 3)


def test_an_answer_for_an_earlier_window_is_not_used() -> None:
    queue = prefetch()
    late = queue.wanted()
    assert late is not None
    queue.begin(0, EPOCH)
    queue.add(late, batches(0, 1, 2, 3))
    assert queue.pop() is None
    assert queue.next == 0


def test_an_answer_for_steps_that_were_drawn_meanwhile_is_not_used() -> None:
    queue = prefetch()
    late = queue.wanted()
    assert late is not None
    queue.give_out(batches(0)[0])
    queue.add(late, batches(0, 1, 2, 3))
    assert (queue.pop(), queue.next) == (None, 1)


def test_the_next_interval_is_wanted_only_with_the_feedback_that_it_needs() -> None:
    queue = prefetch(size=2, interval=2, lag=0)
    fetched(queue)
    take(queue, 2)
    assert queue.wanted() is None
    feed(queue, [0, 1])
    assert queue.wanted() == Fetch(start=2, count=2, window=1)


def test_a_lag_lets_so_many_batches_be_without_feedback() -> None:
    queue = prefetch(size=2, interval=2, lag=1)
    fetched(queue)
    take(queue, 2)
    feed(queue, [0])
    assert fetched(queue) == [2, 3]


def test_a_loader_that_pulls_further_ahead_than_the_lag_is_refused() -> None:
    queue = prefetch(size=2, interval=2, lag=1)
    fetched(queue)
    take(queue, 2)
    with pytest.raises(LagError, match=r"step 2 begins an interval that needs the feedback of step 0.* \(now 1\)"):
        queue.check_lag()


def test_a_batch_that_was_passed_over_is_waited_for_no_more() -> None:
    queue = prefetch(size=2, interval=2, lag=0)
    fetched(queue)
    take(queue, 2)
    feed(queue, [1])
    assert queue.wanted() is None
    assert queue.passed_over(2, blocked=False) == []
    assert queue.passed_over(2, blocked=True) == [0]
    queue.close(0)
    queue.check_lag()
    assert fetched(queue) == [2, 3]


def test_what_lies_far_behind_is_waited_for_no_more() -> None:
    queue = prefetch(size=2)
    fetched(queue)
    take(queue, 2)
    assert queue.passed_over(KEPT, blocked=False) == []
    assert queue.passed_over(KEPT + 1, blocked=False) == [0]


def test_batches_of_an_earlier_process_are_given_out_again_without_a_call() -> None:
    queue = prefetch(size=2, handed_out=3)
    for batch in batches(0, 1, 2):
        queue.replay(batch)
    queue.begin(1, EPOCH)
    assert take(queue, 2) == [1, 2]
    assert fetched(queue) == [3, 4]


def test_a_replay_ends_where_it_is_cut() -> None:
    queue = prefetch(handed_out=3)
    for batch in batches(0, 1, 2):
        queue.replay(batch)
    queue.cut_replay(1)
    queue.begin(0, EPOCH)
    assert (take(queue), queue.next) == ([0], 1)


def test_what_was_not_trained_on_can_be_taken_back() -> None:
    queue = prefetch()
    fetched(queue)
    take(queue, 3)
    queue.abandon(1)
    assert list(queue.open) == [0]


def test_after_a_reset_nothing_is_wanted() -> None:
    queue = prefetch()
    fetched(queue)
    take(queue)
    queue.reset()
    assert (queue.open, queue.pop(), queue.wanted(), queue.is_done) == ({}, None, None, True)
