"""Growing: a job has more samples from the next epoch on, and keys make it grow."""

from itertools import pairwise

import numpy as np
import pytest

from bss_service.errors import ConflictError
from bss_service.job.events import JobGrown, KeysRegistered
from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, restore
from bss_service.protocol.training import Scores
from tests.conftest import Trainer, replayed

ACTIONS = {
    "epoch": {"kappa_loss": -1.0},
    "subset": {"coverage": "subset", "share": 0.6},
    "draw": {"coverage": "draw", "kappa_loss": 1.0},
}


def came(trainer: Trainer, first: int, stop: int) -> set[int]:
    return {int(sample) for step in range(first, stop) for sample in trainer.batches[step]}


@pytest.mark.parametrize("coverage", ACTIONS)
@pytest.mark.parametrize("tail", ["carry", "drop"])
def test_new_samples_come_from_the_next_epoch_on_and_no_earlier(coverage: str, tail: str) -> None:
    trainer = Trainer("external", tail=tail, interval=2, samples=10, batch_size=4, patience=0)

    def train(steps: int) -> None:
        for _ in range(steps):
            if trainer.job.served == trainer.job.planned_until:
                trainer.act(ACTIONS[coverage])
            trainer.train(1)

    train(1)  # the plan is of two steps, the epoch of two or three
    before = trainer.batch(0)
    trainer.grow(60)
    size = trainer.job.spec.size
    assert (size.samples, [earlier.model_dump() for earlier in size.earlier]) == (60, [{"samples": 10, "until": 1}])
    train(3)
    assert trainer.batch(0).tolist() == before.tolist()
    train(16)
    first = trainer.job.calendar.epoch_start(1)
    old = came(trainer, 0, first)
    assert max(old) < 10
    assert max(came(trainer, first + 1, 20)) >= 10
    if coverage == "epoch":
        assert len(set(trainer.epochs()[0])) == (10 if tail == "carry" else 8)


def test_a_plan_ends_where_the_growth_begins() -> None:
    trainer = Trainer(tail="drop", interval=5, samples=8, batch_size=4)  # two steps an epoch
    trainer.take()
    trainer.grow(12)
    trainer.train(14)
    assert trainer.job.calendar.grown_at() == 6  # five steps were planned, the last of them in epoch 2
    assert [(d.first_step, d.end_step) for d in trainer.job.history.decisions] == [(0, 5), (5, 6), (6, 10), (10, 15)]


def test_of_a_job_that_grows_before_it_began_every_epoch_has_all_samples() -> None:
    trainer = Trainer(samples=10)
    trainer.grow(12)
    trainer.grow(14)
    trainer.train(7)
    assert [size.model_dump() for size in trainer.job.spec.earlier] == [{"samples": 10, "until": 0}]
    assert [len(set(epoch)) for epoch in trainer.epochs()] == [14, 14]


def test_a_job_that_never_grew_holds_what_it_always_did() -> None:
    trainer = Trainer()
    trainer.train(4)
    state = trainer.state()
    assert b"earlier" not in state
    assert b"keys" not in state


def test_a_job_does_not_shrink() -> None:
    trainer = Trainer(samples=10)
    trainer.take()
    before = trainer.state()
    with pytest.raises(ConflictError, match="samples must be at least 10, as many as job 'run' has, got 9") as told:
        trainer.grow(9)
    assert (told.value.status, told.value.field, told.value.value) == (409, "samples", 9)
    trainer.grow(10)
    assert trainer.state() == before
    assert not any(isinstance(event, JobGrown) for event in trainer.journal)


def test_new_samples_can_be_measured_before_they_come() -> None:
    trainer = Trainer(samples=10)
    trainer.train(1)
    trainer.grow(12)
    trainer.measure(Scores(indices=np.array([11]), similarity=np.array([0.5]), loss=np.array([2.0])))
    trainer.train(4)
    assert trainer.job.table.last_step_of(11) >= 0
    assert trainer.job.table.latest["loss"][10:].tolist().count(2.0) == 1


def test_a_client_that_has_not_heard_of_a_growth_is_right_and_it_begins_after_what_it_drew() -> None:
    trainer = Trainer(samples=8, tail="drop")  # two steps an epoch
    trainer.take(2)
    trainer.grow(12)
    alone = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [7, 6, 5, 4]])  # epochs 1 and 2 as they were
    trainer.adopt(2, alone)
    assert [size.model_dump() for size in trainer.job.spec.earlier] == [{"samples": 8, "until": 3}]
    more = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]])
    trainer.adopt(5, more)  # the next message of the same outage
    assert [size.model_dump() for size in trainer.job.spec.earlier] == [{"samples": 8, "until": 5}]
    trainer.train(4)
    assert [len(set(epoch)) for epoch in trainer.epochs()] == [8, 8, 8, 8, 8, 12]
    assert replayed(Job(Trainer(samples=8, tail="drop").job.spec), trainer.journal) == trainer.state()


def test_what_the_service_drew_since_a_growth_is_not_taken_for_the_clients() -> None:
    trainer = Trainer(samples=8, tail="drop")
    trainer.grow(12)
    trainer.take(1)
    before = trainer.state()
    with pytest.raises(ConflictError, match="must not repeat a sample within an epoch"):
        trainer.adopt(1, np.array([trainer.batch(0)]))
    assert trainer.state() == before


def test_it_survives_its_snapshot_and_its_journal() -> None:
    trainer = Trainer(samples=10)
    trainer.train(2)
    trainer.grow(13)
    trainer.apply(KeysRegistered(["a", "b"]))
    again = restore(Snapshot.from_frame(trainer.state()))
    other = Trainer(job=again)
    assert other.state() == trainer.state()
    assert replayed(Job(Trainer(samples=10).job.spec), trainer.journal) == trainer.state()
    for loop in (trainer, other):
        loop.train(6)
    assert trainer.state() == other.state()


# Keys.


def test_keys_are_given_the_next_indices_and_make_the_job_grow() -> None:
    trainer = Trainer(samples=4)
    assert trainer.apply(KeysRegistered(["a", "b", "a"])).tolist() == [0, 1, 0]
    assert trainer.job.spec.samples == 4
    assert trainer.apply(KeysRegistered(["e", "b", "c", "d", "f"])).tolist() == [2, 1, 3, 4, 5]
    assert trainer.job.spec.samples == len(trainer.job.keys) == 6
    entries = len(trainer.journal)
    assert trainer.apply(KeysRegistered(["f", "a"])).tolist() == [5, 0]
    assert len(trainer.journal) == entries


def test_keys_of_a_snapshot_must_be_text_apart_and_of_samples() -> None:
    trainer = Trainer(samples=4)
    trainer.apply(KeysRegistered(["a", "ä", "b"]))
    good = Snapshot.from_frame(trainer.state())
    assert good.names is not None
    assert good.names.keys() == ["a", "ä", "b"]
    lengths = good.names.lengths
    for wrong, reason in (
        ({"lengths": lengths[:2]}, "add up to the 4 bytes"),
        ({"lengths": np.array([2, 1, 1])}, "can't decode"),
        ({"text": np.frombuffer("aäa".encode(), np.uint8)}, "got 'a' twice"),
        ({"text": np.frombuffer(b"abcde", np.uint8), "lengths": np.ones(5, np.int64)}, "at most 4 samples"),
    ):
        keys = {"text": good.names.text, "lengths": lengths, **wrong}
        with pytest.raises(ValueError, match=reason):
            Snapshot.model_validate({**dict(good), "names": keys})


def test_growths_of_one_epoch_are_one() -> None:
    trainer = Trainer(samples=4)
    for k in range(30):
        trainer.apply(KeysRegistered([f"key-{k}"]))
        if k % 10 == 9:
            trainer.train(trainer.job.calendar.epoch_start(trainer.job.calendar.epoch_of(trainer.job.served) + 1))
    sizes = [size.samples for size in trainer.job.spec.earlier]
    assert len(sizes) <= 4
    assert all(before < after for before, after in pairwise([*sizes, trainer.job.spec.samples]))
