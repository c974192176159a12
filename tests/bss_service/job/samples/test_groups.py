"""Jobs whose samples are of groups: what weighs them, and what is kept of them."""

from typing import Any

import numpy as np
import pytest

from bss_service.core.action import Action
from bss_service.errors import ConflictError, InvalidValueError
from bss_service.job.checks import check_drawable
from bss_service.job.events import GroupsSet
from bss_service.job.job import Job
from bss_service.job.room import bytes_of
from bss_service.job.shown import views
from bss_service.job.snapshot import Snapshot, restore
from bss_service.policies.versions import check_policy
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from tests.conftest import Trainer, replayed

GROUPS = np.array([0] * 800 + [1] * 200, np.uint16)
WORLD: dict[str, Any] = {"samples": 1000, "batch_size": 100}
BALANCED: dict[str, Any] = {"coverage": "draw", "group_balance": 1.0}
MIXED: dict[str, Any] = {"coverage": "draw", "mixture": {"web": 0.2, "books": 0.8}}


def trainer(groups: Any = ("web", "books"), **parameters: Any) -> Trainer:
    groups = list(groups) if isinstance(groups, tuple) else groups
    return Trainer("fixed", groups=groups, parameters=parameters or BALANCED, **WORLD)


def share_of_the_second(trained: Trainer, steps: range) -> float:
    return float(np.mean([GROUPS[trained.batches[step]] for step in steps]))


def test_a_policy_that_weighs_groups_draws_by_them() -> None:
    for parameters, share in ((BALANCED, 0.5), (MIXED, 0.8)):
        job = trainer(**parameters)
        job.apply(GroupsSet(GROUPS))
        job.take(10)
        assert share_of_the_second(job, range(10)) == pytest.approx(share, abs=0.05)


def test_groups_count_from_the_next_plan_on() -> None:
    job = trainer(**BALANCED)
    job.apply(GroupsSet(GROUPS))
    job.take(1)
    planned = job.job.planned_until
    answer = job.apply(GroupsSet(np.zeros(1000, np.uint16)))
    assert (answer.outcome, answer.first_step) == ("applied", planned)
    before = [job.batch(step).tolist() for step in range(planned)]
    job.take(planned - 1)
    assert [job.batches[step].tolist() for step in range(planned)] == before
    job.take(10)
    assert share_of_the_second(job, range(planned, planned + 10)) == pytest.approx(0.2, abs=0.05)


def test_the_same_groups_again_change_nothing() -> None:
    job = trainer()
    assert job.apply(GroupsSet(GROUPS)).outcome == "applied"
    assert job.apply(GroupsSet(GROUPS.copy())).outcome == "repeated"
    assert len(job.journal) == 1


def test_journal_and_snapshot_give_the_same_plans() -> None:
    job = trainer(**MIXED)
    job.apply(GroupsSet(GROUPS))
    job.train(3)
    job.apply(GroupsSet(GROUPS[::-1].copy()))
    job.train(9)
    assert replayed(Job(job.job.spec), job.journal) == job.state()
    taken = Trainer(job=restore(Snapshot.from_frame(job.state())))
    taken.batches = dict(job.batches)
    for one in (job, taken):
        one.train(11)
    assert taken.state() == job.state()


def test_a_job_without_groups_pays_nothing_for_them() -> None:
    plain = Trainer("fixed", **WORLD)
    assert b"group" not in plain.state()
    assert "groups" not in plain.job.spec.model_dump()
    with_groups = plain.job.spec.model_copy(update={"groups": 3})
    assert bytes_of(with_groups) - bytes_of(plain.job.spec) == 2 * 1000


def test_a_job_that_declares_groups_waits_for_them_by_a_refusal() -> None:
    job = trainer()
    assert not views.state(job.job).has_groups
    with pytest.raises(ConflictError, match="groups of job 'run', which declares them, must be sent before step 0"):
        check_drawable(job.job)
    job.apply(GroupsSet(GROUPS))
    check_drawable(job.job)
    assert views.state(job.job).has_groups


@pytest.mark.parametrize(
    ("numbers", "groups", "sentence"),
    [
        (GROUPS, None, "groups must be declared by the job, in its spec, which 'run' does not do"),
        (GROUPS[:9], 2, "groups must be of each of the 1000 samples, got 9"),
        (GROUPS + 1, 2, "groups must be less than how many there are, 2, got 2"),
    ],
)
def test_groups_that_do_not_fit_are_refused_by_name(numbers: Any, groups: Any, sentence: str) -> None:
    job = Trainer("uniform", groups=groups, **WORLD)
    with pytest.raises(InvalidValueError, match=sentence):
        job.apply(GroupsSet(numbers.astype(np.uint16)))
    assert job.job.table.groups is None


SPEC: dict[str, Any] = {"name": "run", "modalities": ["audio", "video"], **WORLD}


@pytest.mark.parametrize(
    ("groups", "parameters", "sentence"),
    [
        (None, BALANCED, "policy 'fixed' needs groups, which job 'run' does not have: it declares similarity, loss"),
        (None, MIXED, "policy 'fixed' needs groups and the group 'web' and the group 'books', which job 'run'"),
        (["web", "code"], MIXED, "needs the group 'books', which job 'run' does not have: .*, groups web, code"),
        (2, {"mixture": {"2": 1.0}}, "needs the group '2', which job 'run' does not have: .*, groups 0, 1"),
    ],
)
def test_a_policy_is_refused_that_needs_groups_that_the_job_lacks(groups: Any, parameters: Any, sentence: str) -> None:
    with pytest.raises(InvalidValueError, match=sentence):
        check_policy(PolicySpec(name="fixed", parameters=parameters), JobSpec(**SPEC, groups=groups))


def test_groups_without_names_go_by_their_numbers() -> None:
    job = trainer(groups=2, coverage="draw", mixture={"1": 1.0})
    job.apply(GroupsSet(GROUPS))
    job.take(3)
    assert share_of_the_second(job, range(3)) == 1


def test_an_action_from_outside_may_weigh_groups() -> None:
    job = Trainer("external", groups=["web", "books"], **WORLD)
    job.apply(GroupsSet(GROUPS))
    job.act({"coverage": "draw", "mixture": {"books": 1.0}})
    job.take(2)
    assert share_of_the_second(job, range(2)) == 1
    assert job.job.history.decisions[0].action == Action(coverage="draw", mixture={"books": 1.0})
    with pytest.raises(InvalidValueError, match="action needs the group 'code', which job 'run' does not have"):
        job.act({"mixture": {"code": 0.5}})


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [(0, "greater than or equal to 1"), (2**16 + 1, "65536"), (["a", "a"], "must differ"), ([], "at least 1 item")],
)
def test_a_spec_declares_groups_that_there_can_be(groups: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        JobSpec(**SPEC, groups=groups)
