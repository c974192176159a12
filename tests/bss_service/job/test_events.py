"""Events: each survives its journal entry, and is applied alike whoever applies it."""

from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest

from bss_service.errors import BssError
from bss_service.job import events
from bss_service.job.events import (
    ActionSet,
    BatchesReleased,
    Event,
    FeedbackReceived,
    Forked,
    GroupsSet,
    JobChanged,
    JobEvent,
    JobGrown,
    KeysRegistered,
    LocalBatchesAdopted,
    MessageEvent,
    PlanDrawn,
    PolicySwapped,
    Recovered,
    ScoresReceived,
    ShadowEnded,
    StepsServed,
    TrainerAttached,
    ValidationReported,
    WindowOpened,
    read_event,
)
from bss_service.job.plans import Plan
from bss_service.journal.transaction import Entry
from bss_service.policies.versions import PolicyVersion
from bss_service.protocol.actions import ActionRequest
from bss_service.protocol.jobs import JobChange
from bss_service.protocol.policies import PolicyAnswer, PolicySpec, SwapRequest
from bss_service.protocol.training import EarlierSize, JobSize, LocalBatches, Trainer, Window
from tests.conftest import Trainer as Loop
from tests.support.simulated import report

NAN = float("nan")
UNIFORM = PolicySpec(name="uniform")
VALUES = np.array([[[0.5, 2.0, NAN, 0.5, 0.5]] * 4], np.float32)
INDICES = np.array([[1, 2, 3, 4]])
EVENTS: dict[type[JobEvent[Any]], Event] = {
    FeedbackReceived: FeedbackReceived(0, 1, np.array([0]), VALUES),
    BatchesReleased: BatchesReleased(3),
    GroupsSet: GroupsSet(np.array([1, 0, 1, 2], np.uint16)),
    ScoresReceived: ScoresReceived(np.array([3, 1, 2, 0]), VALUES[0]),
    ValidationReported: ValidationReported(report(3)),
    PolicySwapped: PolicySwapped(
        SwapRequest(policy=UNIFORM, at="now"), PolicyAnswer(policy=UNIFORM, policy_version=2, first_step=3)
    ),
    ShadowEnded: ShadowEnded(),
    ActionSet: ActionSet(ActionRequest(first_step=0, action={"share": 0.5}, propensity=0.25, detail={"by": "me"})),
    LocalBatchesAdopted: LocalBatchesAdopted(LocalBatches(start=2, indices=INDICES)),
    PlanDrawn: PlanDrawn(4, 17),
    JobChanged: JobChanged(JobChange(horizon=100)),
    KeysRegistered: KeysRegistered(["a", "b"], 9, JobSize(samples=11, earlier=[EarlierSize(samples=10, until=0)])),
    WindowOpened: WindowOpened(Window(first_step=3, samples=np.array([3, 1, 2, 0]))),
    JobGrown: JobGrown(12, JobSize(samples=12, earlier=[EarlierSize(samples=10, until=1)])),
    TrainerAttached: TrainerAttached(Trainer(rank=1, world_size=2, client="c0ffee", host="gpu-1", process=4711)),
    StepsServed: StepsServed(5),
    Forked: Forked("0" * 32),
    Recovered: Recovered(
        1, 2, [Plan(1, INDICES, np.full((1, 4), 0.1, np.float32), 1, 0)], [PolicyVersion(2, UNIFORM, 2)]
    ),
}


def content(event: JobEvent[Any]) -> list[Any]:
    return [getattr(event, field.name) for field in fields(event)]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
def test_an_event_survives_its_journal_entry(kind: type[Event]) -> None:
    assert kind in EVENTS, f"EVENTS above lacks an example of {kind.__name__}"
    event, spec = EVENTS[kind], Loop().job.spec
    again = Entry.of(7, event).event(spec)
    assert type(again) is kind
    np.testing.assert_equal(str(content(again)), str(content(event)))
    assert Entry.of(7, again) == Entry.of(7, event)


def test_each_kind_belongs_to_one_event_and_every_event_is_known_to_the_journal() -> None:
    listed = get_args(Event)
    made = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, JobEvent)]
    assert len({kind.kind for kind in listed}) == len(listed)
    assert set(made) - {JobEvent, MessageEvent} == set(listed)


def test_a_kind_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(KeyError, match="coffee"):
        read_event("coffee", {}, Loop().job.spec)


def test_an_event_that_changes_nothing_leaves_no_entry() -> None:
    trainer = Loop()
    trainer.take(2)
    before = len(trainer.journal)
    trainer.apply(StepsServed(1))
    trainer.swap("uniform")
    trainer.feed(0)
    trainer.feed(0)
    assert [type(event) for event in trainer.journal[before:]] == [FeedbackReceived]


def test_a_swap_is_journaled_with_the_version_that_it_made() -> None:
    trainer = Loop()
    trainer.take(3)
    trainer.swap("bandit")
    swap = trainer.journal[-1]
    assert swap.versions == [PolicyVersion(2, PolicySpec(name="bandit"), 3)]


def test_only_what_decides_about_batches_draws() -> None:
    shadow = replace(EVENTS[PolicySwapped], request=SwapRequest(policy=UNIFORM, shadow=True))
    drawing = {type(event) for event in EVENTS.values() if event.draws}
    assert drawing == {PolicySwapped, LocalBatchesAdopted, PlanDrawn, StepsServed, Recovered, JobGrown, WindowOpened}
    assert not shadow.draws


def test_what_is_refused_has_changed_nothing() -> None:
    trainer = Loop()
    trainer.take(2)
    before = trainer.state()
    for event in (ShadowEnded(), ActionSet(ActionRequest(first_step=2, action="hard")), ValidationReported(report(9))):
        with pytest.raises(BssError):
            trainer.apply(event)
    assert trainer.state() == before


@pytest.mark.parametrize(("world_size", "group", "left"), [(2, "a", [0, 1]), (4, "a", [1]), (2, "b", [1])])
def test_ranks_of_another_run_or_of_another_number_of_ranks_lose_their_places(
    world_size: int, group: str, left: list[int]
) -> None:
    loop = Loop()
    one = Trainer(rank=0, world_size=2, client="c0ffee", host="gpu-1", process=4711, group="a")
    loop.apply(TrainerAttached(one))
    loop.apply(TrainerAttached(one.model_copy(update={"rank": 1, "world_size": world_size, "group": group})))
    assert sorted(loop.job.trainers) == left
