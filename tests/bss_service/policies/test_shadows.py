"""A shadow acts beside the policy in force, and the job goes on as if there were none."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pydantic
import pytest

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.errors import InvalidValueError, NotFoundError
from bss_service.job.events import PlanDrawn, ShadowEnded
from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, restore
from bss_service.policies.base import Choice, Policy
from bss_service.protocol.decisions import Decision, ShadowChoice
from bss_service.protocol.policies import PolicyAnswer, PolicySpec, SwapRequest
from tests.conftest import Trainer, replayed

Install = Callable[[str, type[Policy]], None]


def put(trainer: Trainer, policy: str, **parameters: Any) -> PolicyAnswer:
    """Let a policy watch."""
    return trainer.swap(policy, "next_interval", shadow=True, **parameters)


def shadows(trainer: Trainer) -> list[ShadowChoice | None]:
    return [d.shadow for d in trainer.job.history.decisions]


def numbers(trainer: Trainer) -> list[int | None]:
    return [None if s is None else s.shadow for s in shadows(trainer)]


def watched(policy: str = "bandit", **parameters: Any) -> Trainer:
    """A job of seven intervals; from the third on a policy watches."""
    trainer = Trainer("bandit", interval=2)
    trainer.train(4)
    put(trainer, policy, **parameters)
    trainer.train(10)
    return trainer


def test_it_acts_from_the_next_plan_on() -> None:
    trainer = watched("balance")
    assert numbers(trainer) == [None, None, 1, 1, 1, 1, 1]


def test_plans_and_decisions_are_the_same_with_and_without_one() -> None:
    with_one, without = watched("learned"), Trainer("bandit", interval=2)
    without.train(14)
    assert [p.checksum() for p in with_one.job.plans] == [p.checksum() for p in without.job.plans]
    assert {k: b.tolist() for k, b in with_one.batches.items()} == {k: b.tolist() for k, b in without.batches.items()}
    for seen, unseen in zip(with_one.job.history.decisions, without.job.history.decisions, strict=True):
        assert (seen.action, seen.propensity, seen.detail) == (unseen.action, unseen.propensity, unseen.detail)
        assert (seen.reward, seen.policy_version) == (unseen.reward, unseen.policy_version)


def test_a_swap_draws_the_same_with_and_without_one() -> None:
    runs = [watched("learned"), Trainer("bandit", interval=2)]
    runs[1].train(14)
    for run in runs:
        run.swap("learned")
        run.train(6)
    assert runs[0].job.versions.versions == runs[1].job.versions.versions
    assert [p.checksum() for p in runs[0].job.plans] == [p.checksum() for p in runs[1].job.plans]


def test_it_has_its_own_chance() -> None:
    trainer = Trainer("learned", interval=2)
    put(trainer, "learned")
    trainer.train(6)
    for decision in trainer.job.history.decisions:
        assert decision.shadow is not None
        assert decision.shadow.detail["raw_action"] != decision.detail["raw_action"]


class Pupil(Policy):
    """Fails when it is taught."""

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action(kappa_loss=float(rng.random())))

    def learn(self, decision: Decision) -> None:
        raise AssertionError("a shadow was rewarded")


def test_it_never_gets_a_reward(install: Install) -> None:
    install("pupil", Pupil)
    trainer = watched("pupil")
    assert any(d.reward is not None for d in trainer.job.history.decisions)
    assert not any("error" in s.detail for s in shadows(trainer) if s)


class Vandal(Policy):
    """Writes into what it sees, and fails."""

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        observation.vector[:] = 0.125
        raise RuntimeError("on purpose")


def test_one_that_fails_disturbs_nothing(install: Install) -> None:
    install("vandal", Vandal)
    trainer, undisturbed = watched("vandal"), watched("uniform")
    assert {k: b.tolist() for k, b in trainer.batches.items()} == {
        k: b.tolist() for k, b in undisturbed.batches.items()
    }
    assert [d.observation.vector.tolist() for d in trainer.job.history.decisions] == [
        d.observation.vector.tolist() for d in undisturbed.job.history.decisions
    ]
    assert [s.detail for s in shadows(trainer) if s] == [{"error": "RuntimeError: on purpose"}] * 5


def test_a_later_one_takes_its_place() -> None:
    trainer = watched("balance")
    assert put(trainer, "uniform").policy_version == 2
    trainer.train(2)
    assert numbers(trainer)[-2:] == [1, 2]


def test_the_same_again_changes_nothing() -> None:
    trainer = watched("balance")
    again = put(trainer, "balance")
    assert (again.policy_version, again.changed, again.shadow) == (1, False, True)


def test_it_ends_when_asked_to() -> None:
    trainer = watched("balance")
    trainer.apply(ShadowEnded())
    trainer.train(2)
    assert numbers(trainer)[-2:] == [1, None]
    with pytest.raises(NotFoundError, match="job 'run' has no shadow"):
        trainer.apply(ShadowEnded())


def test_a_policy_that_is_not_installed_cannot_watch() -> None:
    trainer = Trainer()
    with pytest.raises(InvalidValueError, match="got 'no_such'"):
        put(trainer, "no_such")
    assert trainer.job.shadows.current is None


def test_it_cannot_begin_within_a_plan() -> None:
    with pytest.raises(pydantic.ValidationError, match="at must be 'next_interval' for a shadow"):
        SwapRequest(policy=PolicySpec(name="uniform"), at="now", shadow=True)


@pytest.mark.parametrize("policy", ["bandit", "learned", "balance"])
def test_replay_gives_the_same_shadows(policy: str) -> None:
    trainer = watched(policy)
    put(trainer, "learned")
    trainer.train(3)
    trainer.apply(ShadowEnded())
    assert replayed(Job(trainer.job.spec), trainer.journal) == trainer.state()


@pytest.mark.parametrize("policy", ["bandit", "learned", "balance"])
def test_a_snapshot_goes_on_with_the_same_shadow(policy: str) -> None:
    trainer = watched(policy)
    again = Trainer(job=restore(Snapshot.from_frame(trainer.state())))
    again.batches = dict(trainer.batches)
    for run in (trainer, again):
        run.train(6)
    assert again.state() == trainer.state()


CALLS: Iterator[int] = count()


class Forgetful(Policy):
    """Acts otherwise each time it is asked."""

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return Choice(Action(kappa_loss=next(CALLS) % 12))


def test_one_that_cannot_be_restored_says_so_and_the_job_goes_on(install: Install) -> None:
    install("forgetful", Forgetful)
    trainer = watched("forgetful")
    trainer.job = restore(Snapshot.from_frame(trainer.state()))
    trainer.train(4)
    choices = [s.detail.get("error") for s in shadows(trainer) if s]
    assert choices[-1] is not None
    assert "NotReproducibleError: shadow 'forgetful' chose otherwise" in choices[-1]


def test_one_that_could_not_be_restored_is_not_asked_again_at_each_plan(install: Install) -> None:
    install("forgetful", Forgetful)
    job = restore(Snapshot.from_frame(watched("forgetful").state()))
    before = next(CALLS)
    trainer = Trainer(job=job)
    for _ in range(3):
        trainer.apply(PlanDrawn())
    assert next(CALLS) == before + 1
    put(trainer, "balance")
    trainer.apply(PlanDrawn())
    choices = [s for s in shadows(trainer) if s][-4:]
    assert [choice.failed for choice in choices] == [True, True, True, False]


def test_its_past_is_gone_through_when_the_job_is_restored_and_not_at_a_plan(install: Install) -> None:
    asked: list[int] = []

    class Counted(Policy):
        def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
            asked.append(observation.step)
            return Choice(Action())

    install("counted", Counted)
    state = watched("counted").state()
    asked.clear()
    job = restore(Snapshot.from_frame(state))
    assert len(asked) == 5
    PlanDrawn().apply(job)
    assert len(asked) == 6


def test_one_whose_package_is_gone_does_not_end_its_job(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as installed:
        from bss_service.policies import base

        installed.setitem(base._installed(), "pupil", _Entry())
        trainer = watched("pupil")
    job = Job(trainer.job.spec)
    for event in trainer.journal:
        event.apply(job)
    assert [p.checksum() for p in job.plans] == [p.checksum() for p in trainer.job.plans]
    assert job.history.decisions[-1].shadow is not None
    assert "got 'pupil'" in job.history.decisions[-1].shadow.detail["error"]


class _Entry:
    def load(self) -> type[Policy]:
        return Pupil
