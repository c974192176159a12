from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import PrivateAttr

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.core.sampling import uniforms
from bss_service.errors import ConflictError, InvalidValueError, NotReproducibleError
from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, restore, take_snapshot
from bss_service.policies import base
from bss_service.policies.base import Choice, Policy
from bss_service.policies.versions import PolicyVersion, PolicyVersions, consult, make_policy
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from tests.conftest import Trainer

Install = Callable[[str, type[Policy]], None]
JOB = JobSpec(name="run", samples=10, modalities=["audio", "video"], batch_size=4)


def versions(*first_steps: int) -> PolicyVersions:
    """Versions 1, 2, … that may draw from the given steps on."""
    spec = PolicySpec(name="uniform")
    return PolicyVersions(JOB, [PolicyVersion(k, spec, step) for k, step in enumerate(first_steps, start=1)])


@pytest.mark.parametrize(
    ("first_steps", "in_force"),
    [
        ([0], {0: 1, 99: 1}),
        ([0, 10], {0: 1, 9: 1, 10: 2}),
        ([0, 10, 10], {9: 1, 10: 3}),
        ([0, 20, 10], {9: 1, 10: 3, 25: 3}),  # a swap `now` makes one `next` obsolete
        ([0, 10, 20], {15: 2, 20: 3}),
    ],
)
def test_the_latest_version_that_may_draw_a_step_draws_it(first_steps: list[int], in_force: dict[int, int]) -> None:
    world = versions(*first_steps)
    assert {step: world.in_force(step).version for step in in_force} == in_force


@pytest.mark.parametrize(
    ("first_steps", "until"),
    [([0], 30), ([0, 20], 20), ([0, 10], 30), ([0, 20, 15], 15), ([0, 20, 5], 30), ([0, 30], 30), ([0, 40], 30)],
)
def test_a_version_draws_until_the_next_one_may(first_steps: list[int], until: int) -> None:
    assert versions(*first_steps).until(10, end=30) == until


def test_of_many_versions_those_still_to_draw_are_told_without_comparing_each_with_each() -> None:
    looks = 0

    class Counted(PolicyVersion):
        """Counts who looks at where it begins."""

        def __getattribute__(self, name: str) -> Any:
            nonlocal looks
            looks += name == "first_step"
            return super().__getattribute__(name)

    spec = PolicySpec(name="uniform")
    many = [Counted(number, spec, first) for number, first in enumerate([0, *range(20_000, 0, -1)], 1)]
    versions = PolicyVersions(JOB, many)
    assert [v.version for v in versions.still_to_draw(0)] == [1, 20_001]
    assert versions.in_force(7).version == 20_001
    assert versions.until(0, 50_000) == 1
    assert looks < 10 * len(many)


def test_versions_count_up() -> None:
    world = versions(0)
    assert [world.add(PolicySpec(name="uniform"), step).version for step in (5, 5, 9)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"name": "no_such_policy"}, "policy.name"),
        ({"name": "curriculum", "parameters": {"initial_share": 2.0}}, "policy.parameters.initial_share"),
        ({"name": "curriculum", "parameters": {"typo": 1}}, "policy.parameters.typo"),
    ],
)
def test_a_policy_that_cannot_be_made_is_refused_by_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        make_policy(PolicySpec(**spec))
    assert refused.value.field == field


def test_a_fixed_action_out_of_range_is_refused_by_parameter_and_value() -> None:
    with pytest.raises(InvalidValueError, match=r"kappa_loss must lie in .*, got 99"):
        make_policy(PolicySpec(name="fixed", parameters={"kappa_loss": 99.0}))


class Scripted(Policy):
    """Does what `script` says."""

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        return self.script(observation, rng)

    @staticmethod
    def script(observation: Observation, rng: np.random.Generator) -> Any:
        raise NotImplementedError


def scripted(script: Callable[..., Any]) -> type[Policy]:
    return type("Scripted", (Scripted,), {"__module__": __name__, "script": staticmethod(script)})


FAILURES = {
    "raises": lambda *_: 1 / 0,
    "returns nothing": lambda *_: None,
    "returns an action": lambda *_: Action(),
    "chooses no action": lambda *_: Choice(None),  # type: ignore[arg-type]
    "chooses an action of strings": lambda *_: Choice("uniform"),  # type: ignore[arg-type]
    "is never": lambda *_: Choice(Action(), propensity=0.0),
    "is minus": lambda *_: Choice(Action(), propensity=-0.5),
    "is not a number": lambda *_: Choice(Action(), propensity=float("nan")),
    "is infinite": lambda *_: Choice(Action(), propensity=float("inf")),
    "tells NaN": lambda *_: Choice(Action(), 1.0, {"x": float("nan")}),
    "tells an array": lambda *_: Choice(Action(), 1.0, {"x": np.zeros(2)}),
    "tells no mapping": lambda *_: Choice(Action(), 1.0, 5),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_policy_that_fails_is_replaced_by_uniform_and_the_decision_says_why(failure: str, install: Install) -> None:
    install("failing", scripted(FAILURES[failure]))
    trainer = Trainer("failing", samples=12)
    trainer.train(9)
    assert [sorted(epoch) for epoch in trainer.epochs()] == [list(range(12))] * 3
    assert {d.action for d in trainer.job.history.decisions} == {Action()}
    assert all("Error: " in d.detail["error"] for d in trainer.job.history.decisions)


def test_a_policy_that_fails_once_goes_on_afterwards(install: Install) -> None:
    install("failing", scripted(lambda seen, _: 1 / 0 if seen.epoch == 1 else Choice(Action(kappa_loss=1.0))))
    trainer = Trainer("failing", samples=12)
    trainer.train(9)
    kappas = [d.action.kappa_loss for d in trainer.job.history.decisions]
    assert kappas == [1.0, 0.0, 1.0]
    assert trainer.job.history.decisions[1].detail == {"error": "ZeroDivisionError: division by zero"}


def test_numbers_of_numpy_are_taken_for_what_they_are(install: Install) -> None:
    action = Action(kappa_loss=np.float32(0.5), share=np.float64(0.25), floor=1)  # type: ignore[arg-type]
    install("numpy", scripted(lambda *_: Choice(action, np.float32(0.5), {"n": 1})))
    trainer = Trainer("numpy")
    trainer.train(3)
    decision = trainer.job.history.decisions[0]
    assert decision.action == Action(kappa_loss=0.5, share=0.25, floor=1.0)
    assert (decision.propensity, decision.detail) == (0.5, {"n": 1})
    assert type(decision.action.kappa_loss) is float
    assert trainer.state()


class Student(Policy):
    """Plays a number drawn by chance, and remembers all that it was taught."""

    _taught: list[Decision] = []  # noqa: RUF012

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        lessons = [[d.first_step, d.reward] for d in self._taught]
        return Choice(Action(kappa_loss=float(rng.random())), 1.0, {"lessons": lessons})

    def learn(self, decision: Decision) -> None:
        self._taught.append(decision)


def test_each_reward_is_taught_once_and_in_order(install: Install) -> None:
    install("student", Student)
    trainer = Trainer("student", samples=12)
    trainer.take()
    trainer.validate()
    trainer.train(30)
    lessons = [[first for first, _ in d.detail["lessons"]] for d in trainer.job.history.decisions]
    assert lessons[-1] == list(range(3, 3 * len(lessons) - 3, 3))
    assert all(lesson == lessons[-1][: len(lesson)] for lesson in lessons)


def test_a_policy_is_never_taught_what_another_earned(install: Install) -> None:
    install("student", Student)
    trainer = Trainer("uniform", samples=12)
    trainer.train(6)
    trainer.swap("student")
    trainer.train(9)
    lessons = trainer.job.history.decisions[-1].detail["lessons"]
    assert [first for first, _ in lessons] == [6, 9]


def test_a_reward_is_not_taught_again_after_the_client_went_back(install: Install) -> None:
    """It draws step 4 itself, though the service handed out steps 4 to 7 and learnt from reports in between."""
    install("student", Student)
    trainer = Trainer("student", samples=16, interval=1)
    trainer.take(4)
    for _ in range(4):
        trainer.validate()
        trainer.take()
    trainer.adopt(4, [np.arange(4)])
    trainer.take(6)
    lessons = [first for first, _ in trainer.job.history.decisions[-1].detail["lessons"]]
    assert len(lessons) == len(set(lessons))


def test_each_act_has_chance_of_its_own_that_depends_on_nothing_else(install: Install) -> None:
    install("student", Student)
    kappas = []
    for seed in (0, 0, 1):
        trainer = Trainer("student", samples=12, seed=seed)
        trainer.train(9)
        kappas.append([d.action.kappa_loss for d in trainer.job.history.decisions])
    assert kappas[0] == kappas[1]
    assert len({*kappas[0], *kappas[2]}) == 6


def test_a_policy_that_comes_back_has_other_chance() -> None:
    world = PolicyVersions(JOB, [PolicyVersion(k, PolicySpec(name="bandit"), 0) for k in (1, 2)])
    bandit = make_policy(PolicySpec(name="bandit", parameters={"warm_up": 0}))
    seen = Observation(np.zeros(0, np.float32), 0, 0)
    arms = [[consult(bandit, JOB, world._rng(v, k), seen).detail["arm"] for k in range(30)] for v in world.versions]
    assert arms[0] != arms[1]


def test_a_policy_is_restored_to_what_it_had_learnt(install: Install) -> None:
    install("student", Student)
    trainer = Trainer("student", samples=12)
    trainer.train(12)
    own = trainer.job.history.decisions
    world = PolicyVersions(trainer.job.spec, trainer.job.versions.versions)
    world.restore(world.in_force(12), own, lambda: [d for d in own if d.rewarded_at is not None])
    for policies in (world, trainer.job.versions):
        version, policy = policies._live
        assert (version, [d.first_step for d in policy._taught]) == (1, [3, 6])


def test_a_policy_that_depends_on_more_than_its_arguments_cannot_be_restored(install: Install) -> None:
    clock = iter(range(100))
    install("clock", scripted(lambda *_: Choice(Action(kappa_loss=0.01 * next(clock)))))
    trainer = Trainer("clock")
    trainer.train(6)
    with pytest.raises(NotReproducibleError, match="'clock' chose otherwise when asked again about step 0"):
        restore(Snapshot.from_frame(trainer.state()))


ASKED: list[int] = []


class Constant(Policy):
    """Has no state; tells of which steps it was asked."""

    stateless: ClassVar[bool] = True

    kappa: float = 1.0

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        ASKED.append(observation.step)
        return Choice(Action(kappa_loss=self.kappa + float(rng.random())))


def test_a_policy_without_state_is_asked_again_about_its_last_decision_only(install: Install) -> None:
    install("constant", Constant)
    trainer = Trainer("constant", samples=12)
    trainer.train(12)
    ASKED.clear()
    restore(Snapshot.from_frame(trainer.state()))
    assert ASKED == [9]


def test_a_policy_without_state_that_acts_otherwise_is_found_out_too(install: Install) -> None:
    install("constant", Constant)
    trainer = Trainer("constant", samples=12)
    trainer.train(12)
    install(
        "constant",
        type("Constant", (Constant,), {"__module__": __name__, "kappa": 2.0, "__annotations__": {"kappa": float}}),
    )
    with pytest.raises(NotReproducibleError, match="about step 9"):
        restore(Snapshot.from_frame(trainer.state()))


class Counting(Policy):
    """Counts its acts, and tells of which steps it was asked."""

    _acted: Any = PrivateAttr(default=0)

    def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
        ASKED.append(observation.step)
        self._acted += 1
        return Choice(Action(kappa_loss=self._acted / 10))

    def state(self) -> Mapping[str, Any]:
        return {"acted": self._acted}

    def resume(self, state: Mapping[str, Any]) -> None:
        self._acted = int(state["acted"])


class Unsure(Counting):
    """Can do nothing with what it told."""

    def resume(self, state: Mapping[str, Any]) -> None:
        self._acted = 100
        raise ValueError("it is another release's")


class Untold(Counting):
    """Its state is no JSON."""

    def state(self) -> Mapping[str, Any]:
        return {"acted": object()}


@pytest.mark.parametrize(("policy", "asked"), [(Counting, []), (Unsure, [0, 3, 6, 9]), (Untold, [0, 3, 6, 9])])
def test_a_policy_that_tells_its_state_is_not_asked_again(install: Install, policy: type[Policy], asked: list) -> None:
    install("counting", policy)
    trainer = Trainer("counting", samples=12)
    trainer.swap("counting", "next_interval", shadow=True)
    trainer.train(12)
    snapshot = Snapshot.from_frame(take_snapshot(trainer.job).to_frame())
    ASKED.clear()
    trainer.job = restore(snapshot)
    assert [*asked, *asked] == ASKED  # the shadow too
    trainer.train(6)
    decisions = trainer.job.history.decisions
    assert [d.action.kappa_loss for d in decisions] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert [d.shadow.action.kappa_loss for d in decisions if d.shadow] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_what_it_did_after_its_state_was_told_is_asked_again(install: Install) -> None:
    install("counting", Counting)
    trainer = Trainer("counting", samples=12)
    trainer.train(6)
    told = take_snapshot(trainer.job).policy_state
    trainer.train(6)
    ASKED.clear()
    restore(take_snapshot(trainer.job).model_copy(update={"policy_state": told}))
    assert ASKED == [6, 9]


@pytest.mark.parametrize(
    ("first_steps", "step", "drawing"),
    [([0], 5, [1]), ([0, 10], 5, [1, 2]), ([0, 10], 10, [2]), ([0, 20, 10], 5, [1, 3]), ([0, 20, 10], 10, [3])],
)
def test_the_versions_that_are_still_to_draw(first_steps: list[int], step: int, drawing: list[int]) -> None:
    assert [v.version for v in versions(*first_steps).still_to_draw(step)] == drawing


def test_a_policy_that_cannot_be_made_any_more_is_one_that_fails(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as installed:
        installed.setitem(base._installed(), "student", SimpleNamespace(load=lambda: Student))
        trainer = Trainer("uniform", samples=12)
        trainer.train(3)
        trainer.swap("student")
    trainer.train(3)
    assert "got 'student'" in trainer.job.history.decisions[-1].detail["error"]
    assert sorted(trainer.epochs()[1]) == list(range(12))
    again = Job(trainer.job.spec)
    for event in trainer.journal:
        event.apply(again)
    again.restore_policy()
    assert Trainer(job=again).state() == trainer.state()


def test_what_a_policy_draws_is_never_what_a_plan_draws() -> None:
    passes = [(step, number) for step in range(100) for number in range(3)]
    of_plans = {round(u * 2**52 - 0.5) for step, number in passes for u in uniforms(JOB.seed, step, number, 4)}
    for version in versions(0, 5, 10).versions:
        for number in range(100):
            drawn = versions(0)._rng(version, number).bit_generator.random_raw(4)
            assert of_plans.isdisjoint(int(bits) >> 12 for bits in drawn)


def test_a_job_may_have_had_so_many_policies_and_shadows_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bss_service.job.job.MAX_VERSIONS", 3)
    trainer = Trainer()
    trainer.swap("fixed")
    trainer.swap("uniform")
    with pytest.raises(ConflictError, match="policy must be one of at most 3 that a job may have had"):
        trainer.swap("fixed")
    for policy in ("fixed", "uniform", "fixed"):
        trainer.swap(policy, "next_interval", shadow=True)
    with pytest.raises(ConflictError, match="at most 3"):
        trainer.swap("uniform", "next_interval", shadow=True)
    trainer.train(5)
