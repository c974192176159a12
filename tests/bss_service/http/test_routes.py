"""The interface over real HTTP: one contract, in JSON and in frames."""

import threading
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest

from bss_service.protocol.jobs import JobChange
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import EarlierSize, FeedbackRequest, LocalBatches, Scores, StepsRequest
from tests.support.services import Service
from tests.support.simulated import measured, order, report, spec, take, train, versions
from trainer_client.client import SchedulerClient
from trainer_client.errors import ConflictError, UnknownJobError


@pytest.mark.parametrize("wire", ["json", "frame"])
class TestEveryTransport:
    """What holds whichever way arrays travel."""

    @pytest.fixture
    def client(self, service: Service, wire: str) -> Iterator[SchedulerClient]:
        with service.client(wire=wire, retries=0) as scheduler:
            yield scheduler

    @pytest.fixture
    def name(self, job_name: str) -> str:
        return job_name

    def test_a_job_is_created_once_and_then_attached_to(self, client: SchedulerClient, name: str) -> None:
        assert client.create_job(spec(name)).created
        assert not client.create_job(spec(name)).created

    def test_an_epoch_holds_every_sample_once(self, client: SchedulerClient, name: str) -> None:
        job = spec(name, samples=48, batch_size=8, policy="balance_code")
        client.create_job(job)
        epochs = order(train(client, job, range(12))).reshape(2, 48)
        assert (np.sort(epochs, axis=1) == np.arange(48)).all()

    def test_a_message_may_be_long(self, client: SchedulerClient, name: str) -> None:
        samples = 250_000
        client.create_job(spec(name, samples=samples))
        x = np.linspace(0, 1, samples, dtype=np.float32)
        scores = Scores(indices=np.arange(samples), similarity=x, loss=x, probability=np.stack([x] * 3, axis=1))
        assert client.scores(name, scores).accepted == samples

    def test_groups_are_sent_once_and_draw_what_an_action_says_of_them(
        self, client: SchedulerClient, name: str
    ) -> None:
        job = spec(name, samples=1000, batch_size=100, groups=["web", "books"], policy="external")
        groups = (np.arange(1000) % 10 == 0).astype(np.uint16)
        assert not client.create_job(job).has_groups
        with pytest.raises(ConflictError, match="must be sent before step 0 can be drawn"):
            client.steps(name, StepsRequest(start=0))
        assert client.set_groups(name, groups).outcome == "applied"
        assert client.set_groups(name, groups).outcome == "repeated"
        client.set_action(name, 0, {"coverage": "draw", "mixture": {"books": 1.0}})
        assert client.job(name).has_groups
        drawn = client.steps(name, StepsRequest(start=0, count=2)).batches.indices
        assert (drawn % 10 == 0).all()
        assert client.decisions(name).decisions[0].action.mixture == {"books": 1.0}

    def test_asking_again_gives_the_same_bytes(self, client: SchedulerClient, name: str) -> None:
        client.create_job(spec(name))
        first = client.steps(name, StepsRequest(start=0, count=4)).batches
        again = client.steps(name, StepsRequest(start=0, count=4)).batches
        assert first.model_dump_json() == again.model_dump_json()

    def test_past_batches_can_be_read(self, client: SchedulerClient, name: str) -> None:
        job = spec(name)
        client.create_job(job)
        answers = train(client, job, range(40))
        past = client.batches(name, 2, 30)
        assert (past.indices.reshape(-1) == order(answers)[16:256]).all()
        assert past.scored_until.tolist() == np.concatenate([a.scored_until for a in answers])[2:32].tolist()

    def test_indices_are_int64_and_probabilities_float32(self, client: SchedulerClient, name: str) -> None:
        client.create_job(spec(name))
        batches = client.steps(name, StepsRequest(start=0)).batches
        assert (batches.indices.dtype, batches.probabilities.dtype) == (np.int64, np.float32)

    def test_repeated_feedback_says_so(self, client: SchedulerClient, name: str) -> None:
        client.create_job(spec(name))
        batches = client.steps(name, StepsRequest(start=0)).batches
        request = FeedbackRequest(feedback=measured(0, batches.indices[0]))
        assert client.feedback(name, request).feedback == ["applied"]
        assert client.feedback(name, request).feedback == ["repeated"]

    def test_feedback_travels_with_the_next_request(self, client: SchedulerClient, name: str) -> None:
        client.create_job(spec(name))
        batches = client.steps(name, StepsRequest(start=0)).batches
        answer = client.steps(name, StepsRequest(start=1, feedback=measured(0, batches.indices[0])))
        assert answer.feedback == ["applied"]
        assert client.job(name).steps_fed_back == 1

    def test_a_validation_report_is_answered_with_the_rewards_it_brings(
        self, client: SchedulerClient, name: str
    ) -> None:
        job = spec(name)
        client.create_job(job)
        client.validation(name, report(0))
        steps = job.calendar().epoch_start(1)
        batches = client.steps(name, StepsRequest(start=0, count=steps)).batches
        for step, indices in enumerate(batches.indices):
            client.feedback(name, FeedbackRequest(feedback=measured(step, indices)))
        answer = client.validation(name, report(steps))
        assert answer.outcome == "applied"
        assert len(answer.rewards) == 1
        assert client.validation(name, report(steps)).outcome == "repeated"

    def test_a_swap_takes_effect_at_the_step_it_announces(self, client: SchedulerClient, name: str) -> None:
        job = spec(name, policy="uniform")
        client.create_job(job)
        before = client.steps(name, StepsRequest(start=0, count=3)).batches
        swap = client.swap(name, "balance_code", at="now")
        after = take(client, name, range(6))
        assert (swap.policy_version, swap.first_step) == (2, 3)
        assert versions(after) == [1, 1, 1, 2, 2, 2]
        assert (order(after)[:24] == before.indices.reshape(-1)).all()
        assert len(np.unique(order(after))) == 48

    def test_a_measuring_pass_is_used_by_the_first_plan(self, client: SchedulerClient, name: str) -> None:
        job = spec(name, policy="curriculum")
        client.create_job(job)
        similarity = np.linspace(0, 1, 50, dtype=np.float32)
        client.scores(name, Scores(indices=np.arange(50), similarity=similarity, loss=np.ones(50, np.float32)))
        batches = client.steps(name, StepsRequest(start=0, count=6)).batches
        assert set(batches.indices.reshape(-1).tolist()) == set(range(41, 50))  # share .1864 of 50, most similar

    def test_batches_drawn_by_a_client_are_put_on_record(self, client: SchedulerClient, name: str) -> None:
        client.create_job(spec(name, policy="uniform"))
        served = client.steps(name, StepsRequest(start=0, count=2)).batches.indices.reshape(-1)
        rest = np.setdiff1d(np.arange(50), served)
        local = LocalBatches(start=2, indices=rest[:16].reshape(2, 8))
        assert client.local_batches(name, local).outcome == "applied"
        assert client.local_batches(name, local).outcome == "repeated"
        assert (client.batches(name, 2, 2).indices == local.indices).all()
        assert client.batches(name, 2, 2).policy_version.tolist() == [0, 0]
        after = client.steps(name, StepsRequest(start=4, count=2)).batches.indices.reshape(-1)
        assert len(np.unique(np.concatenate([served, rest[:16], after]))) == 48

    def test_a_job_has_more_samples_from_the_next_epoch_on(self, client: SchedulerClient, name: str) -> None:
        job = spec(name, policy="uniform", samples=16, tail="drop", patience=0.0)
        client.create_job(job)
        first = client.steps(name, StepsRequest(start=0)).batches
        grown = client.change_job(name, JobChange(samples=24, horizon=100)).spec
        assert (grown.samples, grown.earlier, grown.horizon) == (24, [EarlierSize(samples=16, until=1)], 100)
        assert client.change_job(name, JobChange(samples=24)).spec == grown  # as when a call is tried again
        with pytest.raises(ConflictError, match="samples must be at least 24") as refused:
            client.change_job(name, JobChange(samples=23))
        assert (refused.value.field, refused.value.value) == ("samples", 23)
        answer = client.steps(name, StepsRequest(start=0, count=2))
        assert answer.size == grown.size
        assert (answer.batches.indices[0] == first.indices[0]).all()
        epoch = take(client, name, range(2, 5))
        assert sorted(order([answer.batches])) == list(range(16))
        assert sorted(order(epoch)) == list(range(24))
        assert np.concatenate([part.epoch for part in epoch]).tolist() == [1, 1, 1]

    def test_the_same_key_is_always_the_same_sample(self, client: SchedulerClient, name: str) -> None:
        client.create_job(spec(name, samples=8))
        assert client.register_keys(name, ["a/1", "ä", "a/1"]).indices.tolist() == [0, 1, 0]
        answer = client.register_keys(name, [f"key {k}" for k in range(10)] + ["ä"])
        assert answer.indices.tolist() == [*range(2, 12), 1]
        assert (answer.known, answer.samples, answer.earlier) == (12, 12, [EarlierSize(samples=8, until=0)])
        again = client.register_keys(name, ["key 9"])
        assert (again.indices.tolist(), again.known, again.samples) == ([11], 12, 12)
        client.put_snapshot(f"{name}-copy", client.snapshot(name))
        assert client.register_keys(f"{name}-copy", ["key 9", "new"]).indices.tolist() == [11, 12]

    def test_the_decision_log_tells_what_was_chosen(self, client: SchedulerClient, name: str) -> None:
        client.create_job(spec(name, policy="bandit"))
        client.steps(name, StepsRequest(start=0))
        log = client.decisions(name)
        assert (log.total, log.decisions[0].policy, log.decisions[0].detail["arm"]) == (1, "bandit", "uniform")

    def test_a_sample_tells_when_it_was_drawn(self, client: SchedulerClient, name: str) -> None:
        job = spec(name, policy="uniform")
        client.create_job(job)
        drawn = order(train(client, job, range(13)))
        sample = client.sample(name, 7)
        assert [draw.step for draw in sample.draws] == sorted((np.flatnonzero(drawn == 7) // 8).tolist(), reverse=True)
        assert sample.times_measured >= 1
        assert sample.signals["similarity"] is not None

    def test_a_snapshot_carries_a_job_to_another_name(self, client: SchedulerClient, name: str) -> None:
        job = spec(name)
        client.create_job(job)
        train(client, job, range(9))
        client.put_snapshot(f"{name}-copy", client.snapshot(name))
        here = train(client, job, range(9, 30))
        there = train(client, job.model_copy(update={"name": f"{name}-copy"}), range(9, 30))
        assert (order(here) == order(there)).all()

    def test_a_deleted_job_is_gone_and_can_be_made_anew(self, client: SchedulerClient, name: str) -> None:
        client.create_job(spec(name))
        client.steps(name, StepsRequest(start=0))
        client.delete_job(name)
        with pytest.raises(UnknownJobError, match="is not known"):
            client.job(name)
        assert client.create_job(spec(name, seed=1)).next_step == 0


def test_jobs_are_compared_by_their_reports_and_their_reports_are_listed(
    service: Service, client: SchedulerClient, job_name: str
) -> None:
    for policy in ("uniform", "balance"):
        client.create_job(spec(f"{job_name}-{policy}", policy=policy))
        train(client, spec(f"{job_name}-{policy}", policy=policy), range(13))
    reports = client.validations(f"{job_name}-balance").reports
    assert [told.step for told in reports] == [6, 12]
    assert client.validations(f"{job_name}-balance", start=7).reports == reports[1:]
    answer = client.compare(f"{job_name}-balance", f"{job_name}-uniform")
    assert (answer.baseline, answer.steps, answer.policies[0].best.mean) == ("uniform", [6, 12], 0)
    with service.client(wire="json") as plain:
        assert plain.compare(f"{job_name}-balance", f"{job_name}-uniform") == answer


def test_jobs_that_cannot_be_compared_are_a_problem_with_the_field_and_both_values(
    service: Service, client: SchedulerClient, job_name: str
) -> None:
    client.create_job(spec(f"{job_name}-a", samples=50))
    client.create_job(spec(f"{job_name}-b", samples=60))
    answer = httpx.get(f"{service.url}/v1/compare?job={job_name}-a&job={job_name}-b")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert (answer.json()["field"], answer.json()["value"]) == ("samples", "[50, 60]")


def test_the_transports_agree(service: Service, job_name: str) -> None:
    drawn = []
    for wire in ("json", "frame"):
        with service.client(wire=wire) as client:
            job = spec(f"{job_name}-{wire}")
            client.create_job(job)
            drawn.append(order(train(client, job, range(30))))
    assert (drawn[0] == drawn[1]).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("samples", 51), ("seed", 1), ("batch_size", 4), ("policy", PolicySpec(name="uniform")), ("tail", "drop")],
)
def test_another_spec_of_a_known_job_is_a_conflict_that_names_the_field(
    client: SchedulerClient, job_name: str, field: str, value: object
) -> None:
    client.create_job(spec(job_name))
    with pytest.raises(ConflictError) as caught:
        client.create_job(spec(job_name).model_copy(update={field: value}))
    assert caught.value.field == field


def test_a_swapped_job_is_still_attached_to_by_its_first_spec(client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    client.swap(job_name, "uniform", at="now")
    assert client.create_job(spec(job_name)).policy.policy.name == "uniform"


def test_a_swap_to_what_already_rules_changes_nothing(client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    client.steps(job_name, StepsRequest(start=0))
    swap = client.swap(job_name, "uniform")
    assert swap.changed
    assert not client.swap(job_name, "uniform").changed
    assert client.job(job_name).pending_policy == swap.model_copy(update={"changed": False})


def test_a_job_that_has_grown_is_attached_to_by_what_it_was_and_is(client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    client.steps(job_name, StepsRequest(start=0))
    for samples in (60, 70):
        client.change_job(job_name, JobChange(samples=samples))
    for samples in (50, 70):
        state = client.create_job(spec(job_name, samples=samples))
        assert (state.created, state.spec.samples) == (False, 70)
    with pytest.raises(ConflictError, match=r"is 70, got 71: a job has more by a change of it \(PATCH\)") as told:
        client.create_job(spec(job_name, samples=71))
    assert told.value.field == "samples"


def test_ranks_that_register_the_same_keys_at_once_get_the_same_samples(
    service: Service, client: SchedulerClient, job_name: str
) -> None:
    client.create_job(spec(job_name, samples=8))
    keys = [f"shard-{k}" for k in range(3000)]
    came: list[list[int]] = []

    def ask(part: list[str]) -> None:
        with service.client() as mine:
            answered = dict(zip(part, mine.register_keys(job_name, part).indices.tolist(), strict=True))
            came.append([answered[key] for key in keys])

    threads = [threading.Thread(target=ask, args=(part,)) for part in (keys, keys[::-1], keys)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert came[0] == came[1] == came[2]
    assert sorted(came[0]) == list(range(3000))
    assert client.job(job_name).spec.samples == 3000


def test_ranks_share_a_global_batch_whatever_their_number(client: SchedulerClient, job_name: str) -> None:
    alone, many = spec(f"{job_name}-1"), spec(f"{job_name}-4")
    for job in (alone, many):
        client.create_job(job)
    one = order(train(client, alone, range(18)))
    for step in range(18):
        answers = [client.steps(many.name, StepsRequest(start=step, rank=r, world_size=4)).batches for r in range(4)]
        assert all((a.indices == answers[0].indices).all() for a in answers)
        assert (answers[0].indices.reshape(-1) == one[8 * step : 8 * step + 8]).all()
        for rank in reversed(range(4)):
            rows = answers[0].indices[0, 2 * rank : 2 * rank + 2]
            request = FeedbackRequest(rank=rank, world_size=4, feedback=measured(step, rows))
            assert client.feedback(many.name, request).feedback == ["applied"]
        if step + 1 in (6, 12, 18):
            client.validation(many.name, report(step + 1))


def test_health_readiness_and_metrics_answer(service: Service, client: SchedulerClient, job_name: str) -> None:
    client.create_job(spec(job_name))
    client.steps(job_name, StepsRequest(start=0, count=2))
    with httpx.Client(base_url=service.url) as http:
        assert http.get("/healthz").json() == {"status": "alive"}
        assert http.get("/readyz").json() == {"status": "ready"}
        metrics = http.get("/metrics").text
    assert 'bss_requests_total{method="POST",route="/v1/jobs/{job}/steps",status="200"}' in metrics
    assert "bss_batches_total " in metrics
    assert job_name not in metrics


SHOWN = (
    "create_job",
    "change_job",
    "register_keys",
    "attach",
    "scores",
    "steps",
    "feedback",
    "describe_samples",
    "validation",
    "swap_policy",
)


def test_the_examples_of_the_openapi_document_work(start_service: Callable[..., Service]) -> None:
    service = start_service()
    with httpx.Client(base_url=service.url) as http:
        document = http.get("/openapi.json").json()
        bodies = {
            operation["operationId"]: (method, path, operation["requestBody"]["content"]["application/json"])
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if "application/json" in operation.get("requestBody", {}).get("content", {})
        }
        others = {operation for operation in bodies if operation not in SHOWN}
        assert others == {"local_batches", "set_action", "set_groups", "put_snapshot", "open_window"}, (
            "they fit another moment of a job"
        )
        for operation in SHOWN:
            method, path, content = bodies[operation]
            answer = http.request(method, path.replace("{job}", "run-1"), json=content["example"])
            assert answer.is_success, answer.text
