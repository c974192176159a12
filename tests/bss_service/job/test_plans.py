from dataclasses import replace

import numpy as np
import pytest

from bss_service.core.calendar import Calendar
from bss_service.job.plans import Plan, batches, plan_of

CALENDAR = Calendar(6, 2, "carry", 2)


def plan(first_step: int, indices: list[list[int]], version: int = 1) -> Plan:
    rows = np.array(indices)
    return Plan(first_step, rows, (rows / 10).astype(np.float32), version, scored_until=first_step)


PLANS = [plan(0, [[0, 1], [2, 3]]), plan(2, [[4, 5], [1, 0]], version=2)]


def test_a_plan_ends_after_its_last_batch() -> None:
    assert [p.end_step for p in PLANS] == [2, 4]


def test_a_plan_can_be_cut_short() -> None:
    assert PLANS[1].cut(3).indices.tolist() == [[4, 5]]
    assert PLANS[1].cut(3).end_step == 3


@pytest.mark.parametrize(("step", "expected"), [(0, PLANS[0]), (1, PLANS[0]), (2, PLANS[1]), (3, PLANS[1]), (4, None)])
def test_the_plan_of_a_step_is_found(step: int, expected: Plan | None) -> None:
    assert plan_of(PLANS, step) is expected


def test_a_step_before_all_plans_has_none() -> None:
    assert plan_of(PLANS[1:], 1) is None
    assert plan_of([], 0) is None


def test_batches_may_span_plans_and_say_which_drew_them() -> None:
    answer = batches(PLANS, CALENDAR, 1, 4)
    assert answer.start == 1
    assert answer.indices.tolist() == [[2, 3], [4, 5], [1, 0]]
    assert answer.probabilities.tolist() == (answer.indices / 10).astype(np.float32).tolist()
    assert answer.policy_version.tolist() == [1, 2, 2]
    assert answer.epoch.tolist() == [0, 0, 1]
    assert answer.scored_until.tolist() == [0, 2, 2]


def test_batches_are_int64_whatever_step_they_are_of() -> None:
    answer = batches(PLANS, CALENDAR, 3, 4)
    assert {a.dtype for a in (answer.indices, answer.policy_version, answer.epoch, answer.scored_until)} == {
        np.dtype(np.int64)
    }


def test_draws_of_a_sample_are_listed_newest_first() -> None:
    drawn = plan(4, [[7, 8], [8, 8]], version=3)
    assert [(draw.step, draw.policy_version) for draw in drawn.draws_of(8)] == [(5, 3), (5, 3), (4, 3)]
    assert drawn.draws_of(1) == []


def test_the_checksum_tells_orders_apart() -> None:
    assert plan(0, [[0, 1]]).checksum() == plan(0, [[0, 1]]).checksum()
    assert plan(0, [[0, 1]]).checksum() != plan(0, [[1, 0]]).checksum()


def test_the_checksum_of_a_plan_that_was_cut_is_that_of_its_rows() -> None:
    assert plan(0, [[0, 1], [2, 3]]).cut(1).checksum() == plan(0, [[0, 1]]).checksum()


FLAGGED = replace(
    PLANS[1],
    probes=np.array([[True, False], [False, False]]),
    masked=np.array([[[False] * 3, [True, False, True]], [[False] * 3] * 2]),
)


def test_weights_are_told_of_a_plan_with_probes_and_of_its_neighbours() -> None:
    answer = batches([PLANS[0], FLAGGED], CALENDAR, 1, 4)
    assert answer.weights is not None and answer.modality_weights is not None
    assert answer.weights.tolist() == [[1, 1], [0, 2], [1, 1]]
    assert answer.modality_weights[0].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert answer.modality_weights[1].tolist() == [[1, 1, 1], [0, 1, 0]]
    alone = batches([PLANS[0], FLAGGED], CALENDAR, 0, 2)
    assert (alone.weights, alone.modality_weights) == (None, None)


def test_a_plan_with_probes_is_stored_cut_and_proven_whole() -> None:
    again = Plan.of_fields(2, FLAGGED.fields())
    for name in ("indices", "probabilities", "probes", "masked"):
        np.testing.assert_array_equal(getattr(again, name), getattr(FLAGGED, name))
    assert again.checksum() == FLAGGED.checksum() != PLANS[1].checksum()
    assert FLAGGED.since(3).probes.tolist() == [[False, False]]  # type: ignore[union-attr]
    assert FLAGGED.cut(3).masked.shape == (1, 2, 3)  # type: ignore[union-attr]
