"""What goes to the service next, and when, by a clock that the tests turn."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.support.simulated import report
from tests.trainer_client.support.clock import Clock
from trainer_client.exchange.outbox import (
    COMPANY,
    LINGER,
    LOCAL_ROWS,
    LOCAL_STEPS,
    MESSAGE_STEPS,
    FeedbackItem,
    LocalItem,
    Outbox,
    ValidationItem,
    feedback_request,
    restored,
    saved,
)
from trainer_client.exchange.placement import Placement
from trainer_client.exchange.transfer import Transfer

ALONE = Placement(0, 1)
STOP = 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(clock: Clock) -> Outbox:
    return Outbox(clock)


def feedback(step: int, sender: Placement = ALONE, values: torch.Tensor | None = None) -> FeedbackItem:
    return FeedbackItem(step, sender, None if values is None else Transfer(values))


def queue(outbox: Outbox, steps: Sequence[int], sender: Placement = ALONE) -> None:
    for step in steps:
        outbox.put(feedback(step, sender))


def next_steps(outbox: Outbox) -> list[int]:
    message = outbox.next_message()
    assert isinstance(message, list)
    return [item.step for item in message]


def is_due(outbox: Outbox, stop: int = STOP) -> bool:
    message = outbox.next_message()
    assert isinstance(message, list)
    return outbox.is_due(message, stop)


def test_feedback_goes_together_in_one_message(outbox: Outbox) -> None:
    queue(outbox, range(MESSAGE_STEPS + 5))
    assert next_steps(outbox) == list(range(MESSAGE_STEPS))


def test_feedback_of_another_rank_goes_in_a_message_of_its_own(outbox: Outbox) -> None:
    queue(outbox, [0, 1], Placement(1, 2))
    queue(outbox, [2], Placement(0, 2))
    assert next_steps(outbox) == [0, 1]


def test_everything_goes_in_the_order_in_which_it_came(outbox: Outbox) -> None:
    queue(outbox, [0, 1])
    outbox.put(ValidationItem(report(2)))
    queue(outbox, [2])
    came = [next_steps(outbox)]
    outbox.acknowledge(2)
    assert outbox.next_message() == ValidationItem(report(2))
    outbox.acknowledge(1)
    came.append(next_steps(outbox))
    assert came == [[0, 1], [2]]


def test_what_was_not_acknowledged_goes_again(outbox: Outbox) -> None:
    queue(outbox, [0, 1, 2])
    outbox.acknowledge(1)
    assert next_steps(outbox) == next_steps(outbox) == [1, 2]
    assert len(outbox) == 2


def test_nothing_is_next_in_an_empty_outbox(outbox: Outbox) -> None:
    assert outbox.next_message() == []
    assert outbox.due_in() is None


def test_feedback_waits_a_little_for_company(outbox: Outbox, clock: Clock) -> None:
    queue(outbox, [0])
    assert not is_due(outbox)
    assert outbox.due_in() == LINGER
    clock.now += LINGER
    assert is_due(outbox)


def test_feedback_that_joins_what_waits_wakes_nobody(outbox: Outbox) -> None:
    told = []
    for step in range(COMPANY):
        item = FeedbackItem(step, Placement(0, 1), None)
        outbox.put(item)
        told.append(outbox.is_news(item, STOP))
    assert told == [True] + [False] * (COMPANY - 2) + [True]
    assert outbox.is_news(FeedbackItem(COMPANY, Placement(0, 1), None), COMPANY + 1)


@pytest.mark.parametrize(("steps", "stop"), [(COMPANY, STOP), (3, 3)], ids=["many", "the window's last"])
def test_feedback_waits_for_no_more_where(outbox: Outbox, steps: int, stop: int) -> None:
    queue(outbox, range(steps))
    assert is_due(outbox, stop)


def test_feedback_holds_nothing_up_that_came_behind_it(outbox: Outbox) -> None:
    queue(outbox, [0])
    outbox.put(ValidationItem(report(1)))
    assert is_due(outbox)


def test_locally_drawn_batches_grow_until_it_is_their_turn(outbox: Outbox) -> None:
    queue(outbox, [0])
    outbox.grow_from(1)
    assert outbox.growing is not None
    outbox.growing.batches.append(np.arange(8))
    outbox.acknowledge(1)
    message = outbox.next_message()
    assert isinstance(message, LocalItem)
    assert (message.start, len(message.batches), outbox.growing) == (1, 1, None)


def test_many_locally_drawn_batches_go_in_several_messages() -> None:
    item = LocalItem(5, [np.arange(8)] * (LOCAL_STEPS + 1))
    messages = list(item.messages("c0ffee"))
    assert [(m.start, len(m.indices)) for m in messages] == [(5, LOCAL_STEPS), (5 + LOCAL_STEPS, 1)]
    assert {m.client for m in messages} == {"c0ffee"}


def test_large_batches_drawn_locally_go_a_few_in_a_message() -> None:
    item = LocalItem(5, [np.arange(LOCAL_ROWS // 2)] * 3)
    assert [(m.start, len(m.indices)) for m in item.messages("c0ffee")] == [(5, 2), (7, 1)]


def test_what_was_not_measured_or_is_not_finite_is_sent_as_not_known() -> None:
    values = torch.full((4, 5), 0.5)
    values[2, 1], values[3, 0] = torch.nan, torch.inf
    items = [feedback(7, Placement(1, 2), values), feedback(8, Placement(1, 2))]
    request = feedback_request(items, batch_size=8, width=5)
    assert (request.rank, request.world_size, request.feedback.step.tolist()) == (1, 2, [7, 8])
    sent = request.feedback.values
    assert sent is not None
    assert np.argwhere(np.isnan(sent[0])).tolist() == [[2, 1], [3, 0]]
    assert np.isnan(sent[1]).all()
    assert [item.unmeasured() for item in items] == [2, 0]


def test_what_is_not_sent_survives_in_a_checkpoint() -> None:
    values = torch.rand(4, 5)
    again = restored(saved(feedback(7, Placement(1, 2), values)))
    assert isinstance(again, FeedbackItem)
    assert again.values is not None
    assert (again.step, again.sender, again.values.read().tolist()) == (7, Placement(1, 2), values.tolist())
    assert restored(saved(feedback(7))) == feedback(7)
    assert restored(saved(ValidationItem(report(3)))) == ValidationItem(report(3))
    local = restored(saved(LocalItem(5, [np.arange(8)])))
    assert isinstance(local, LocalItem)
    assert (local.start, local.batches[0].tolist()) == (5, list(range(8)))
