"""A job driven from outside: each interval is planned with the action that came for it, and nobody races anybody."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydantic
import pytest

from bss_service.core.action import BEFORE_EVIDENCE, NAMED_ACTIONS, Action
from bss_service.core.observation import FIELDS, SCHEMA_HASH
from bss_service.errors import ConflictError
from bss_service.job.events import ActionSet, PlanDrawn, StepsServed
from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot, restore
from bss_service.journal.store import Store
from bss_service.protocol import frames
from bss_service.protocol.actions import MAX_DETAIL, ActionRequest, ObservationAnswer
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import Scores, StepsRequest
from tests.conftest import Trainer, replayed
from tests.support.services import Service
from tests.support.simulated import report, spec, train
from trainer_client import errors
from trainer_client.client import SchedulerClient

HARD = NAMED_ACTIONS["hard"]
INTERVAL = 2  # steps


def driven(name: str, **fields: Any) -> JobSpec:
    return spec(name, policy="external", **{"interval": INTERVAL, "patience": 30.0, **fields})


WIDTH = len(BEFORE_EVIDENCE)  # of vectors that any job can be drawn by


def vectors(count: int) -> np.ndarray:
    """Raw actions, some components of which must be clipped."""
    return np.random.default_rng(0).uniform(-1.5, 1.5, (count, WIDTH)).astype(np.float32)


def drive(client: SchedulerClient, name: str, actions: np.ndarray) -> list[ObservationAnswer]:
    """Act on as many intervals as there are actions; what was seen before each."""
    seen = []
    for k, action in enumerate(actions):
        seen.append(client.observation(name, wait=20))
        assert seen[-1].awaits_action, seen[-1]
        client.set_action(name, seen[-1].first_step, action, propensity=0.5 + k, detail={"number": k})
    return seen


def decisions(client: SchedulerClient, name: str) -> list[Decision]:
    return client.decisions(name, count=1000).decisions


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


# Over the interface.


@pytest.mark.parametrize("lag", [0, 1])
def test_no_interval_is_planned_without_the_action_given_for_it(
    client: SchedulerClient, job_name: str, background: ThreadPoolExecutor, lag: int
) -> None:
    job = driven(job_name, lag=lag)
    client.create_job(job)
    actions = vectors(50)
    training = background.submit(train, client, job, range(50 * INTERVAL), count=1)
    seen = drive(client, job_name, actions)
    training.result(timeout=30)
    log = decisions(client, job_name)
    assert [row.first_step for row in log] == [INTERVAL * k for k in range(50)]
    assert [row.detail for row in log] == [
        {"raw_action": action.tolist(), "agent": {"number": k}} for k, action in enumerate(actions)
    ]
    assert [row.action for row in log] == [Action.from_vector(action, BEFORE_EVIDENCE) for action in actions]
    assert [row.propensity for row in log] == [0.5 + k for k in range(50)]
    assert [row.observation.vector.tolist() for row in log] == [answer.vector.tolist() for answer in seen]


@pytest.mark.parametrize("wire", ["json", "frame"])
def test_the_observation_names_its_fields(service: Service, job_name: str, wire: Any) -> None:
    with service.client(wire=wire) as client:
        client.create_job(spec(job_name, policy="balance"))
        seen = client.observation(job_name)
    assert (seen.fields, seen.schema_hash, seen.vector.shape) == (list(FIELDS), SCHEMA_HASH, (len(FIELDS),))
    assert (seen.first_step, seen.epoch, seen.policy, seen.policy_version) == (0, 0, "balance", 1)
    assert not (seen.trainer_waiting or seen.action_set or seen.awaits_action)
    assert seen.vector.dtype == np.float32


def test_an_observation_is_awaited_no_longer_than_asked(client: SchedulerClient, job_name: str) -> None:
    client.create_job(driven(job_name))
    started = time.monotonic()
    assert not client.observation(job_name, wait=0.3).awaits_action
    assert 0.3 <= time.monotonic() - started < 5


def test_the_observation_waits_for_feedback_and_for_the_validation_before_the_request(
    client: SchedulerClient, job_name: str, background: ThreadPoolExecutor
) -> None:
    job = driven(job_name, interval=6)  # an epoch
    client.create_job(job)
    client.set_action(job_name, 0, "uniform")
    train(client, job, range(6))
    assert not client.observation(job_name, wait=0.2).awaits_action  # a report may still come
    asked = background.submit(client.steps, job_name, StepsRequest(start=6))
    seen = client.observation(job_name, wait=10)
    assert (seen.awaits_action, seen.trainer_waiting) == (True, True)
    assert seen.vector[FIELDS.index("has_validation")] == 1
    client.set_action(job_name, 6, "hard")
    asked.result(timeout=10)
    assert decisions(client, job_name)[-1].action == HARD


def test_without_an_action_in_time_the_one_before_is_used_again(client: SchedulerClient, job_name: str) -> None:
    job = driven(job_name, patience=0.2)
    client.create_job(job)
    train(client, job, range(INTERVAL))
    client.set_action(job_name, INTERVAL, "hard")
    train(client, job, range(INTERVAL, 3 * INTERVAL))
    first, acted, missed = decisions(client, job_name)
    assert (first.action, acted.action, missed.action) == (Action(), HARD, HARD)
    assert first.detail == {"fallback": "no action came in time: plain shuffling"}
    assert acted.detail == {"raw_action": "hard"}
    assert missed.detail == {"fallback": "no action came in time: that of the interval before"}


def test_an_action_may_come_before_the_trainer_asks(client: SchedulerClient, job_name: str) -> None:
    client.create_job(driven(job_name))
    answer = client.set_action(job_name, 0, {"kappa_loss": -2, "coverage": "draw"})
    assert (answer.outcome, answer.first_step, answer.policy_version) == ("applied", 0, 1)
    assert client.observation(job_name).action_set
    client.steps(job_name, StepsRequest(start=0))
    assert decisions(client, job_name)[0].action == HARD


def test_acting_again_repeats_or_replaces_until_the_interval_is_planned(client: SchedulerClient, job_name: str) -> None:
    client.create_job(driven(job_name))
    outcomes = [client.set_action(job_name, 0, name).outcome for name in ("hard", "hard", "balance", "hard")]
    client.steps(job_name, StepsRequest(start=0))
    outcomes.append(client.set_action(job_name, 0, "hard").outcome)  # its first answer was lost, say
    with pytest.raises(errors.ConflictError, match=f"next interval to be planned, {INTERVAL}, got 0"):
        client.set_action(job_name, 0, "balance")
    assert outcomes == ["applied", "repeated", "replaced", "replaced", "repeated"]


def test_an_action_needs_the_policy_external(client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name, policy="balance", interval=INTERVAL))
    with pytest.raises(errors.ConflictError, match=r"policy must be 'external' .* got 'balance' from step 0"):
        client.set_action(job_name, 0, "hard")
    client.swap(job_name, "external")
    client.set_action(job_name, 0, "hard")
    client.swap(job_name, "balance")
    client.swap(job_name, "external")
    assert not client.observation(job_name).action_set  # it was for another policy version


def test_a_swap_frees_a_trainer_that_waits_for_an_action(
    client: SchedulerClient, job_name: str, background: ThreadPoolExecutor
) -> None:
    client.create_job(driven(job_name, patience=600.0))
    asked = background.submit(client.steps, job_name, StepsRequest(start=0))
    assert client.observation(job_name, wait=10).awaits_action
    client.swap(job_name, "uniform")
    assert asked.result(timeout=10).batches.policy_version.tolist() == [2]


def test_a_stopped_service_lets_go_of_whoever_waits(start_service: Callable[..., Service]) -> None:
    service = start_service()
    with service.client(retries=0) as client, ThreadPoolExecutor(2) as pool:
        client.create_job(driven("job"))
        waiting = pool.submit(client.observation, "job", 60)
        time.sleep(0.3)
        assert service.stop() == 0
        with pytest.raises(errors.OutageError):
            waiting.result(timeout=10)


def test_what_was_acknowledged_survives_a_kill_before_the_plan(start_service: Callable[..., Service]) -> None:
    service = start_service()
    job = driven("job")
    with service.client() as client, ThreadPoolExecutor(1) as pool:
        client.create_job(job)
        client.set_action("job", 0, "uniform")
        train(client, job, range(INTERVAL))
        seen = client.observation("job")
        client.set_action("job", INTERVAL, vectors(1)[0], propensity=0.25)
        service.kill()
        service.start()
        assert client.observation("job").action_set
        assert client.set_action("job", INTERVAL, vectors(1)[0], propensity=0.25).outcome == "repeated"
        pool.submit(train, client, job, range(INTERVAL, 2 * INTERVAL)).result(timeout=10)
        service.kill()
        service.start()
        last = decisions(client, "job")[-1]
    assert (last.propensity, last.detail) == (0.25, {"raw_action": vectors(1)[0].tolist()})
    assert last.observation.vector.tolist() == seen.vector.tolist()


def test_a_driven_run_goes_through_kills_and_its_journal_replays(start_service: Callable[..., Service]) -> None:
    service = start_service()
    job = driven("job")
    actions = vectors(20)
    with service.client(retries=40) as client, ThreadPoolExecutor(1) as pool:
        client.create_job(job)
        training = pool.submit(train, client, job, range(20 * INTERVAL), 1)
        for k, action in enumerate(actions):
            seen = client.observation("job", wait=20)
            while not seen.awaits_action:  # the trainer has not asked again yet
                seen = client.observation("job", wait=20)
            client.set_action("job", seen.first_step, action)
            if k in (3, 11):
                service.kill()
                service.start()
        training.result(timeout=30)
        log = decisions(client, "job")
        drawn = client.batches("job", 0, 20 * INTERVAL).indices
    assert [row.detail["raw_action"] for row in log] == actions.tolist()
    service.stop()
    assert (drawn_by_replay(service.store, job) == drawn).all()


def drawn_by_replay(path: Path, job: JobSpec) -> np.ndarray:
    """All batches that the journal alone leads to."""
    store = Store(f"sqlite:///{path}")
    again, plans = Job(job), {}
    for entry in store.journal(job.name):
        entry.event(job).apply(again)
        plans |= {plan.first_step + k: batch for plan in again.plans for k, batch in enumerate(plan.indices)}
    store.close()
    return np.array([plans[step] for step in sorted(plans)])


def test_a_snapshot_carries_the_action_along(client: SchedulerClient, job_name: str) -> None:
    client.create_job(driven(job_name))
    client.set_action(job_name, 0, vectors(1)[0], detail={"who": "me"})
    client.put_snapshot(f"{job_name}-2", client.snapshot(job_name))
    drawn = [client.steps(name, StepsRequest(start=0)).batches.indices for name in (job_name, f"{job_name}-2")]
    assert (drawn[0] == drawn[1]).all()
    assert decisions(client, job_name) == decisions(client, f"{job_name}-2")


def test_both_calls_need_the_token(start_service: Callable[..., Service]) -> None:
    service = start_service(BSS_TOKEN="a-token-that-only-tests-use")
    with service.client(token="a-token-that-only-tests-use") as client:
        client.create_job(driven("job"))
        client.set_action("job", 0, "hard")
        assert client.observation("job").action_set
    with service.client(token="another-token-of-tests") as client:
        for call in (lambda: client.observation("job"), lambda: client.set_action("job", 0, "hard")):
            with pytest.raises(errors.UnauthorisedError):
                call()


ZEROS = [0.0] * WIDTH
BAD: list[tuple[str, str, Any, int, str]] = [
    ("PUT", "/action", {"first_step": 7, "action": ZEROS}, 409, "first_step"),
    ("PUT", "/action", {"first_step": -1, "action": ZEROS}, 422, "first_step"),
    ("PUT", "/action", {"first_step": "0", "action": ZEROS}, 422, "first_step"),
    ("PUT", "/action", {"action": ZEROS}, 422, "first_step"),
    ("PUT", "/action", {"first_step": 0}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": None}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": 3}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": []}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": ZEROS[1:]}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": [*ZEROS, 0.0]}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": [*ZEROS[1:], "0"]}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": [*ZEROS[1:], None]}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": [*ZEROS[1:], True]}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": [*ZEROS[1:], 10**400]}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": "nonesuch"}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": {"kappa_loss": 99}}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": {"kappa_loss": "1"}}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": {"kappa_loss": [1]}}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": {"kappa_loss": True}}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": {"emma": 1}}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": {"link": "chain"}}, 422, "action"),
    ("PUT", "/action", {"first_step": 0, "action": ZEROS, "propensity": 0}, 422, "propensity"),
    ("PUT", "/action", {"first_step": 0, "action": ZEROS, "propensity": -1}, 422, "propensity"),
    ("PUT", "/action", {"first_step": 0, "action": ZEROS, "propensity": 1e39}, 422, "propensity"),
    ("PUT", "/action", {"first_step": 0, "action": ZEROS, "propensity": "1"}, 422, "propensity"),
    ("PUT", "/action", {"first_step": 0, "action": ZEROS, "detail": []}, 422, "detail"),
    ("PUT", "/action", {"first_step": 0, "action": ZEROS, "detail": {"a": "a" * MAX_DETAIL}}, 422, "detail"),
    ("PUT", "/action", {"first_step": 0, "action": ZEROS, "surprise": 1}, 422, "surprise"),
    ("PUT", "/policy", {"policy": {"name": "external"}, "shadow": True}, 422, "policy.name"),
    ("GET", "/observation?wait=-1", None, 422, "wait"),
    ("GET", "/observation?wait=1e9", None, 422, "wait"),
    ("GET", "/observation?wait=nan", None, 422, "wait"),
    ("GET", "/observation?wait=x", None, 422, "wait"),
]


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    """Plain HTTP to a service with a driven job."""
    with service.client() as client:
        client.create_job(driven("bad-action"))
    with httpx.Client(base_url=f"{service.url}/v1/jobs/bad-action") as plain:
        yield plain


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), BAD)
def test_a_bad_action_is_named_and_changes_nothing(
    http: httpx.Client, method: str, path: str, body: Any, status: int, field: str
) -> None:
    before = http.get("/snapshot").content
    answer = http.request(method, path, json=body)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), problem
    assert problem["field"] == field, problem
    assert problem["detail"]
    assert http.get("/snapshot").content == before


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("place", ["action", "propensity", "detail"])
def test_numbers_that_are_not_finite_are_refused(http: httpx.Client, text: str, place: str) -> None:
    values = {"action": str(ZEROS), "propensity": "1", "detail": "{}"}
    values[place] = {"action": str([*ZEROS[1:], 7]).replace("7", text), "detail": f'{{"a": {text}}}'}.get(place, text)
    body = '{"first_step": 0, ' + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}"
    answer = http.put("/action", content=body.encode(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["field"].split(".")[0]) == (422, place), answer.text


def test_an_unknown_job_has_neither(http: httpx.Client) -> None:
    assert http.get("/../nobody/observation").status_code == 404
    assert http.put("/../nobody/action", json={"first_step": 0, "action": "hard"}).status_code == 404


# In memory.


@pytest.mark.parametrize("policy", ["external", "balance", "bandit"])
@pytest.mark.parametrize(("interval", "lag"), [(None, 0), (3, 0), (2, 1), (1, 3)])
def test_what_is_seen_before_a_plan_is_what_its_decision_logs(policy: str, interval: int | None, lag: int) -> None:
    trainer = Trainer(policy, samples=30, interval=interval, lag=lag)
    trainer.validate(report(0))
    for round_number in range(40):
        if trainer.job.served == trainer.job.planned_until:
            if round_number % 3 == 0:
                ones = np.full(2, 0.5, np.float32)
                trainer.measure(Scores(indices=np.array([3, 4]), similarity=ones, loss=ones))
            before = trainer.state()
            seen = trainer.job.observe()
            assert trainer.state() == before
            trainer.take()
            decision = trainer.job.history.decisions[-1]
            assert (decision.observation.step, decision.observation.epoch) == (seen.step, seen.epoch)
            assert decision.observation.vector.tobytes() == seen.vector.tobytes()
            trainer.feed(trainer.job.served - 1)
        else:
            trainer.train(1)


def test_a_journal_with_actions_replays() -> None:
    trainer = Trainer("external", samples=30, interval=3)
    rng = np.random.default_rng(0)
    for k in range(12):
        if k % 4 != 3:
            trainer.act(rng.uniform(-1, 1, WIDTH).tolist(), propensity=0.5, detail={"k": k})
        trainer.train(3)
    trainer.swap("balance", "next_interval")
    trainer.train(3)
    trainer.swap("external", "now")
    trainer.act("hard")
    trainer.train(4)
    trainer.act({"share": 0.5, "coverage": "subset"})
    assert trainer.job.action is not None
    assert replayed(Job(trainer.job.spec), trainer.journal) == trainer.state()


def test_a_snapshot_in_the_middle_of_a_driven_run_goes_on_alike() -> None:
    trainer = Trainer("external", samples=30, interval=3)
    for name in ("hard", "balance"):
        trainer.act(name)
        trainer.train(3)
    trainer.act([0.25] * WIDTH, detail={"deep": {"list": [1, None, "x"]}})
    again = Trainer(job=restore(Snapshot.from_frame(trainer.state())))
    again.batches = dict(trainer.batches)
    assert again.state() == trainer.state()
    for run in (trainer, again):
        run.train(3)
        run.act("anti")
        run.train(5)
    assert again.state() == trainer.state()


def test_a_snapshot_with_an_action_for_another_interval_is_refused() -> None:
    trainer = Trainer("external", interval=2)
    trainer.train(2)
    trainer.act("hard")
    state = frames.decode(trainer.state())
    state["action"]["first_step"] = 1
    with pytest.raises(pydantic.ValidationError, match=r"action\.first_step must follow the plans, 2, got 1"):
        Snapshot.from_frame(frames.encode(state))


def test_an_action_is_dropped_with_the_interval_that_it_was_for() -> None:
    trainer = Trainer("external", samples=40, interval=4)
    trainer.act("hard")
    trainer.take(4)
    trainer.act("hard")
    rest = sorted(set(range(40)) - set(np.concatenate([trainer.batches[s] for s in range(2)]).tolist()))
    trainer.adopt(2, [np.array(rest[:4])])  # the client went on by itself: the next interval begins elsewhere
    assert trainer.job.action is None
    with pytest.raises(ConflictError, match="3, got 4"):
        trainer.apply(ActionSet(ActionRequest(first_step=4, action="hard")))


def test_an_action_stays_with_its_interval_when_a_later_one_is_given_to_another_policy() -> None:
    trainer = Trainer("external", samples=40, interval=4)
    trainer.take(2)
    rest = sorted(set(range(40)) - set(np.concatenate([trainer.batches[s] for s in range(2)]).tolist()))
    trainer.adopt(2, [np.array(rest[:4])])
    trainer.act("hard")  # for step 3 alone, since the next interval begins at 4
    trainer.swap("balance", "next_interval")
    trainer.take(2)
    decisions = trainer.job.history.decisions[-2:]
    assert [(d.first_step, d.policy_version) for d in decisions] == [(3, 1), (4, 2)]
    assert decisions[0].detail == {"raw_action": "hard"}


@pytest.mark.parametrize("at", ["now", "next_interval"])
def test_an_action_goes_with_the_policy_that_it_was_for(at: str) -> None:
    trainer = Trainer("external", samples=40, interval=4)
    trainer.take(4)
    trainer.act("hard")
    trainer.swap("balance", at)
    assert trainer.job.action is None


def test_only_one_action_is_awaited_for_an_interval_drawn_anew() -> None:
    trainer = Trainer("balance", samples=40, interval=4)
    trainer.train(2)
    trainer.swap("external")
    assert (trainer.job.planned_until, trainer.job.awaits_action(), trainer.job.is_ready(2)) == (2, True, False)
    trainer.act("hard")
    assert (trainer.job.awaits_action(), trainer.job.is_ready(2)) == (False, True)
    assert trainer.apply(PlanDrawn()).end_step == 4
    trainer.apply(StepsServed(4))
    assert not trainer.job.awaits_action()  # not before the feedback of steps 2 and 3


@pytest.mark.parametrize("action", [vectors(1)[0].tolist(), [1] * WIDTH, "balance", {"share": 1, "link": "linear"}])
def test_a_repetition_is_told_from_the_log_too(action: Any) -> None:
    trainer = Trainer("external", samples=40, interval=4)
    request = ActionRequest(first_step=0, action=action, propensity=3, detail={"a": 1})
    assert trainer.apply(ActionSet(request)).outcome == "applied"
    trainer.train(5)
    again = restore(Snapshot.from_frame(trainer.state()))
    assert [ActionSet(request).apply(job).answer.outcome for job in (trainer.job, again)] == ["repeated", "repeated"]
    with pytest.raises(ConflictError):
        trainer.apply(ActionSet(request.model_copy(update={"propensity": 2.0})))


def test_detail_that_is_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(pydantic.ValidationError, match="detail"):
        ActionRequest(first_step=0, action="hard", detail={"a": deep})


def test_two_agents_at_once_leave_one_action(client: SchedulerClient, job_name: str) -> None:
    client.create_job(driven(job_name))
    start = threading.Barrier(2)

    def race(name: str) -> str:
        start.wait()
        return client.set_action(job_name, 0, name).outcome

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(race, ["hard", "anti"]))
    assert sorted(outcomes) == ["applied", "replaced"]
    batches = client.steps(job_name, StepsRequest(start=0)).batches
    assert len(batches.indices) == 1
    assert decisions(client, job_name)[0].detail["raw_action"] == ["hard", "anti"][outcomes.index("replaced")]
