"""Windows: of a stream a plan is of what the trainer has read, and of nothing else."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bss_service.errors import BssError, ConflictError, InvalidValueError
from bss_service.job.events import KeysRegistered, WindowOpened
from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, restore
from bss_service.protocol.training import Window
from tests.conftest import Trainer, replayed

STREAM: dict[str, Any] = {"stream": True, "interval": 3, "samples": 40, "batch_size": 4, "patience": 0}


def opened(trainer: Trainer, samples: Sequence[int], first_step: int | None = None) -> str:
    """Tell a window of the next steps; what became of it."""
    first = trainer.job.planned_until if first_step is None else first_step
    return trainer.apply(WindowOpened(Window(first_step=first, samples=np.array(samples)))).outcome


def came(trainer: Trainer, first: int, stop: int) -> list[int]:
    return sorted(int(sample) for step in range(first, stop) for sample in trainer.batches[step])


def test_each_sample_of_a_window_comes_once_and_no_other() -> None:
    trainer = Trainer("balance_code", **STREAM)
    for first, window in ((0, range(5, 17)), (3, range(20, 28)), (5, range(28, 40)), (8, range(12))):
        assert opened(trainer, list(window)) == "applied"
        trainer.train(len(window) // 4)
        assert came(trainer, first, trainer.job.served) == list(window)


@pytest.mark.parametrize("action", [{"coverage": "subset", "share": 0.5}, {"coverage": "draw"}, {"kappa_loss": 2.0}])
def test_whatever_a_policy_leaves_out_it_draws_from_the_window_alone(action: dict[str, Any]) -> None:
    trainer = Trainer("external", **STREAM)
    for window in (range(12), range(20, 32)):
        opened(trainer, list(window))
        trainer.act(action)
        first = trainer.job.served
        trainer.train(3)
        assert set(came(trainer, first, first + 3)) <= set(window)


def test_a_swap_in_a_window_draws_only_what_is_left_of_it_anew() -> None:
    trainer = Trainer(**STREAM)
    opened(trainer, [*range(8), 0, 1, 2, 3])  # some twice
    trainer.take()
    trainer.swap("balance_code", at="now")
    trainer.take(2)
    assert came(trainer, 0, 3) == sorted([*range(8), 0, 1, 2, 3])
    assert [d.policy for d in trainer.job.history.decisions] == ["uniform", "balance_code"]


def test_nothing_of_a_stream_is_drawn_before_its_window_is_told() -> None:
    trainer = Trainer(**STREAM)
    before = trainer.state()
    with pytest.raises(ConflictError, match="window must be told before step 0 of a stream is drawn"):
        trainer.take()
    assert trainer.state() == before
    opened(trainer, range(12))
    trainer.take()


def test_a_window_is_repeated_or_replaced_until_some_of_it_is_drawn() -> None:
    trainer = Trainer(**STREAM)
    assert [opened(trainer, window) for window in (range(12), range(12), range(8))] == [
        "applied",
        "repeated",
        "replaced",
    ]
    trainer.take()
    trainer.swap("balance_code", at="now")  # one step is left of it
    for window, first in ((range(12), 0), (range(12), 1), (range(20, 28), 1), (range(20, 28), 2)):
        with pytest.raises(ConflictError, match="first_step must be 2, behind the window from step 0 on") as told:
            opened(trainer, window, first)
        assert (told.value.field, told.value.value) == ("first_step", first)
    assert opened(trainer, range(8), 0) == "repeated"
    trainer.take()
    assert opened(trainer, range(12, 20), 2) == "applied"
    trainer.take(2)
    assert opened(trainer, range(8), 0) == "repeated"  # it was
    with pytest.raises(ConflictError, match="first_step must be 4, the next to be drawn, got 5"):
        opened(trainer, range(8), 5)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "at most 12, a whole number of batches of 4, got 0"),
        (range(6), "a whole number of batches of 4, got 6"),
        (range(16), "at most 12, a whole number of batches of 4, got 16"),
        ([0, 1, 2, 40], "less than samples = 40 of the job, got 40"),
    ],
)
def test_a_window_that_can_not_be_is_refused_by_name(samples: Sequence[int], reason: str) -> None:
    trainer = Trainer(**STREAM)
    with pytest.raises(InvalidValueError, match=reason) as told:
        trainer.apply(WindowOpened(Window(first_step=0, samples=np.array(samples, np.int64))))
    assert told.value.field == "samples"


def test_only_a_stream_has_windows_and_only_the_service_draws_them() -> None:
    with pytest.raises(ConflictError, match="stream of job 'run' must be true for a window, got false"):
        opened(Trainer(), range(4))
    trainer = Trainer(**STREAM)
    with pytest.raises(ConflictError, match="a stream is drawn by the service alone"):
        trainer.adopt(0, [np.arange(4)])
    with pytest.raises(ValueError, match="interval must be given for a stream"):
        Trainer(stream=True)


courses = st.lists(
    st.tuples(st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 3), st.randoms(use_true_random=False)),
    min_size=1,
    max_size=6,
)


@given(courses)
@settings(max_examples=40)
def test_over_swaps_restarts_and_new_keys_each_window_comes_whole(course: list[Any]) -> None:
    trainer = Trainer(**{**STREAM, "samples": 4})
    spec = trainer.job.spec
    for number, (steps, swaps, restarts, step, random) in enumerate(course):
        keys = [f"{random.randrange(30)}" for _ in range(4 * steps)]
        window = trainer.apply(KeysRegistered(keys)).tolist()
        opened(trainer, window)
        first = trainer.job.served
        for k in range(steps):
            trainer.train(1)
            if k == step and swaps:
                trainer.swap(["uniform", "balance_code"][number % 2], at="now")
            if k == step and restarts:
                trainer.job = restore(Snapshot.from_frame(trainer.state()))
        assert Counter(came(trainer, first, first + steps)) == Counter(window)
    assert replayed(Job(spec), trainer.journal) == trainer.state()


def test_a_refused_window_has_changed_nothing() -> None:
    trainer = Trainer(**STREAM)
    opened(trainer, range(12))
    trainer.take()
    before = trainer.state()
    for wrong in (range(5), range(100, 104), range(16)):
        with pytest.raises(BssError):
            opened(trainer, wrong, 1)
    assert trainer.state() == before
