"""Who may train as which rank: by when others were last heard of, who left, and what was handed out."""

from typing import Any

import pytest

from bss_service.errors import ConflictError
from bss_service.job.events import TrainerAttached
from bss_service.job.places import check_holder, check_place
from bss_service.protocol.training import AttachRequest, Trainer
from tests.conftest import Trainer as Loop

SECONDS = 30.0


def trainer(client: str = "c0ffee", rank: int = 0, **fields: Any) -> Trainer:
    return Trainer(**{"rank": rank, "world_size": 2, "client": client, "host": "gpu-1", "process": 4711, **fields})


def asking(client: str = "deadbeef", rank: int = 0, **fields: Any) -> AttachRequest:
    return AttachRequest(**trainer(client, rank).model_dump(), **fields)


@pytest.fixture
def loop() -> Loop:
    """A job whose rank 0 has trained for two steps."""
    loop = Loop(samples=40)
    loop.apply(TrainerAttached(trainer()))
    loop.take(2)
    return loop


def test_a_place_is_held_until_nothing_was_heard_for_so_long(loop: Loop) -> None:
    with pytest.raises(ConflictError, match=r"held by process 4711 on gpu-1 .*, heard of 29 s ago: .* or 1 s from now"):
        check_place(loop.job, asking(resume=True), {"c0ffee": 29.0}, SECONDS)
    assert check_place(loop.job, asking(resume=True), {"c0ffee": 30.0}, SECONDS)
    assert check_place(loop.job, asking(resume=True), {}, SECONDS)  # the service was started anew, long ago


def test_a_place_that_was_given_back_or_whose_process_is_known_to_be_gone_is_free_at_once(loop: Loop) -> None:
    assert check_place(loop.job, asking(resume=True, instead_of=["c0ffee"]), {"c0ffee": 0.0}, SECONDS)
    loop.apply(TrainerAttached(trainer(left=True)))
    assert check_place(loop.job, asking(resume=True), {"c0ffee": 0.0}, SECONDS)


def test_another_rank_of_the_run_finds_it_begun(loop: Loop) -> None:
    assert not check_place(loop.job, asking(rank=1), {"c0ffee": 0.0}, SECONDS)


def test_a_run_of_another_number_of_ranks_waits_for_the_earlier_one(loop: Loop) -> None:
    alone = AttachRequest(**trainer("deadbeef", 0, world_size=1).model_dump(), resume=True)
    with pytest.raises(ConflictError, match="is held by"):
        check_place(loop.job, alone, {"c0ffee": 1.0}, SECONDS)


def test_what_was_handed_out_is_gone_on_with_only_by_who_says_so(loop: Loop) -> None:
    with pytest.raises(ConflictError, match="has handed out 2 steps to an earlier run"):
        check_place(loop.job, asking(), {}, SECONDS)
    assert check_place(loop.job, asking(resume=True), {}, SECONDS)
    assert check_place(Loop().job, asking(), {}, SECONDS)


def test_who_has_the_place_keeps_it(loop: Loop) -> None:
    assert not check_place(loop.job, asking("c0ffee"), {"c0ffee": 29.0}, SECONDS)
    check_holder(loop.job, 0, "c0ffee")
    with pytest.raises(ConflictError, match=r"taken over by process 4711 on gpu-1 .*since nothing was heard of .*bad"):
        check_holder(loop.job, 0, "bad")
    with pytest.raises(ConflictError, match="whose run of 2 ranks has nobody at that rank"):
        check_holder(loop.job, 5, "bad")
