"""What a client takes for an answer, and what becomes of a run whose service answers wrongly, slowly or without end."""

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bss_service.protocol.jobs import JobChange
from bss_service.protocol.samples import SampleDescriptions
from bss_service.protocol.training import AttachRequest
from tests.support.services import Service
from tests.support.simulated import measured, report, spec
from tests.support.trained import made_up
from tests.trainer_client.support.hostile import END, Hostile, Pieces, dripping, endless, said, with_body
from trainer_client import (
    BrokenAnswerError,
    ConflictError,
    FeedbackRequest,
    LocalBatches,
    OutageError,
    RefusedError,
    ScheduledBatchSampler,
    SchedulerClient,
    SchedulerError,
    Scores,
    StepsRequest,
)
from trainer_client.client import TRIES
from trainer_client.exchange import attachment

MIB = 2**20
GENEROUS = 15.0  # seconds, on a busy machine; a drip takes a minute for the shortest answer
under_every_choice = pytest.mark.parametrize("on_outage", ["wait", "raise", "local"])


@pytest.fixture
def box(service: Service) -> Iterator[Hostile]:
    """Between clients and the shared service."""
    box = Hostile(service.port)
    yield box
    box.close()


@pytest.fixture
def caller(box: Hostile) -> Iterator[SchedulerClient]:
    with SchedulerClient(box.url, timeout=2.0, retries=0, max_answer=MIB) as client:
        client.jobs()  # it has met the scheduler
        yield client


def train(sampler: ScheduledBatchSampler, epochs: int = 1) -> int:
    """Train some epochs; how many steps there were."""
    steps = 0
    for _ in range(epochs):
        for _ in sampler:
            sampler.feedback(steps)
            steps += 1
    return steps


# How long.


@pytest.mark.parametrize("body_only", [True, False], ids=["body", "all of it"])
def test_an_answer_that_drips_is_an_outage_when_the_time_of_the_call_is_over(
    box: Hostile, caller: SchedulerClient, job_name: str, body_only: bool
) -> None:
    caller.create_job(spec(job_name))
    box.reply = dripping(body_only)
    started = time.monotonic()
    with pytest.raises(OutageError, match="Timeout") as caught:
        caller.job(job_name)
    assert time.monotonic() - started < GENEROUS
    assert caught.value.silent


@under_every_choice
def test_a_run_goes_on_as_the_user_chose_where_answers_drip(box: Hostile, job_name: str, on_outage: Any) -> None:
    box.only = "steps"
    job = spec(job_name, patience=0.0)
    started = time.monotonic()
    with (
        SchedulerClient(box.url, timeout=2.0) as client,
        ScheduledBatchSampler(job, client, on_outage=on_outage, outage_after=2.0, prefetch=1) as sampler,
    ):
        batches = iter(sampler)
        next(batches)
        sampler.feedback(0)
        box.reply = dripping(body_only=True)
        if on_outage == "wait":
            while not box.asked:
                time.sleep(0.01)
            box.reply = None
        if on_outage == "raise":
            with pytest.raises(OutageError, match="out of reach"):
                [next(batches) for _ in range(3)]
        else:
            assert len([next(batches) for _ in range(3)]) == 3
        assert (sampler.stats.local_batches > 0) == (on_outage == "local")
    assert time.monotonic() - started < 3 * GENEROUS


def test_heads_without_end_are_an_outage_too(box: Hostile, caller: SchedulerClient) -> None:
    box.reply = endless(b"", b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n" * 100)
    with pytest.raises(OutageError, match="did not answer"):
        caller.jobs()


def test_a_long_request_and_its_answer_have_more_time(box: Hostile, caller: SchedulerClient, job_name: str) -> None:
    def slowly(box: Hostile, answer: bytes) -> Pieces:
        for start in range(0, len(answer), 2**16):
            box.pause(0.5)
            yield answer[start : start + 2**16]

    caller.create_job(spec(job_name, samples=20_000))
    box.reply = slowly
    assert len(caller.snapshot(job_name)) > 5 * 2**16  # which takes longer than 2 s


# How much.


CALLS: dict[str, Callable[[SchedulerClient, str], Any]] = {
    "jobs": lambda client, name: client.jobs(),
    "steps": lambda client, name: client.steps(name, StepsRequest(start=0), spec=spec(name)),
    "decisions": lambda client, name: client.decisions(name),
    "snapshot": lambda client, name: client.snapshot(name),
    "policy_file": lambda client, name: client.policy_file("0" * 64),
    "upload": lambda client, name: client.upload_policy(b""),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("length", [b"", b"content-length: 5000000000\r\n", b"content-length: " + b"9" * 300 + b"\r\n"])
def test_an_answer_without_end_is_cut_off_before_it_fills_memory(
    box: Hostile, caller: SchedulerClient, job_name: str, call: str, length: bytes
) -> None:
    caller.create_job(spec(job_name))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.bss.frame\r\n" + length + b"\r\n"
    box.reply = endless(head, b"a" * MIB)
    tracemalloc.start()
    with pytest.raises(SchedulerError) as caught:
        CALLS[call](caller, job_name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB
    assert isinstance(caught.value, BrokenAnswerError | OutageError), caught.value
    if not length:
        assert "body must have at most" in str(caught.value)
    assert len(box.asked) <= TRIES


def test_of_the_batches_of_a_known_job_no_more_is_taken_than_they_can_have(
    box: Hostile, caller: SchedulerClient, job_name: str
) -> None:
    box.reply = endless(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", b" " * 2**16)
    with pytest.raises(BrokenAnswerError, match=r"body must have at most 2\d{5} bytes"):
        caller.batches(job_name, 0, 2, spec=spec(job_name))


def test_a_failure_without_end_is_told_by_its_beginning(box: Hostile, caller: SchedulerClient) -> None:
    head = b"HTTP/1.1 422 No\r\ncontent-type: application/problem+json\r\n\r\n"
    box.reply = endless(head, b"a" * MIB)
    with pytest.raises(RefusedError, match=r"^status 422: a{200}$"):
        caller.jobs()


def test_no_coded_answer_is_asked_for_or_taken(box: Hostile, caller: SchedulerClient) -> None:
    packed = gzip.compress(b" " * 100 * MIB)
    box.reply = lambda box, answer: iter([with_body(answer, packed, b"content-encoding: gzip")])
    tracemalloc.start()
    with pytest.raises(BrokenAnswerError, match="content-encoding must be identity, got 'gzip'"):
        caller.jobs()
    assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    tracemalloc.stop()
    assert all(b"accept-encoding: identity" in request.lower() for request in box.asked)


@pytest.mark.parametrize("sign", [b"[", b'{"a":'], ids=["arrays", "objects"])
@pytest.mark.parametrize("status", [b"200 OK", b"409 Conflict", b"503 Busy", b"404 Not Found"])
def test_an_answer_nested_without_end_is_told_like_any_other(
    box: Hostile, caller: SchedulerClient, sign: bytes, status: bytes
) -> None:
    def nested(box: Hostile, answer: bytes) -> Pieces:
        kind = b"content-type: application/" + (b"json" if status.startswith(b"2") else b"problem+json")
        yield with_body(answer, sign * 100_000, kind, status=status)

    box.reply = nested
    with pytest.raises(SchedulerError):
        caller.jobs()


def test_more_values_than_any_answer_has_are_not_parsed(box: Hostile, caller: SchedulerClient) -> None:
    def many(box: Hostile, answer: bytes) -> Pieces:
        yield with_body(answer, b'{"jobs":[' + b"{}," * 3_000_000 + b"{}]}", b"content-type: application/json")

    box.reply = many
    with pytest.raises(BrokenAnswerError, match="body must hold at most"):
        caller.jobs()


def test_mistakes_without_number_are_counted(box: Hostile, caller: SchedulerClient) -> None:
    def many(box: Hostile, answer: bytes) -> Pieces:
        yield with_body(answer, b'{"jobs":[' + b"0," * 100_000 + b"0]}", b"content-type: application/json")

    box.reply = many
    with pytest.raises(BrokenAnswerError, match="JobList: 100001 fields are wrong"):
        caller.jobs()


def test_cookies_are_not_kept(box: Hostile, caller: SchedulerClient) -> None:
    box.reply = lambda box, answer: iter([with_body(answer, answer.partition(END)[2], b"set-cookie: a=b")])
    caller.jobs()
    caller.jobs()
    assert len(box.asked) == 2
    assert b"cookie" not in box.asked[1].lower()


# What.


def put(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a field of a message, by dotted path; a function: makes the new value of the old."""

    def change(message: dict[str, Any]) -> None:
        *parents, last = field.split(".")
        for name in parents:
            message = message[int(name) if isinstance(message, list) else name]
        message[last] = value(message[last]) if callable(value) else value

    return change


def at_last(number: float) -> Callable[[np.ndarray], np.ndarray]:
    """An array with another last value."""

    def changed(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[(-1,) * array.ndim] = number
        return array

    return changed


def empty(message: dict[str, Any]) -> None:
    """Batches of no step."""
    for name, value in message["batches"].items():
        if isinstance(value, np.ndarray):
            message["batches"][name] = value[:0]


WRONG_STEPS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no batch at all": (empty, "batches.indices must be of 1 to 2 steps, got 0"),
    "a negative index": (put("batches.indices", at_last(-1)), r"batches.indices must lie in \[0, 49\], got -1"),
    "an index beyond": (put("batches.indices", at_last(50)), r"batches.indices must lie in \[0, 49\], got 50"),
    "narrow batches": (put("batches.indices", lambda a: a[:, :4]), r"batches.probabilities must have shape \(2, 4\)"),
    "more batches": (put("batches.indices", lambda a: np.vstack([a, a])), "batches.indices must be of 1 to 2 steps"),
    "another start": (put("batches.start", 5), "batches.start must be 0, as asked for, got 5"),
    "a negative start": (put("batches.start", -1), "batches.start must be 0, as asked for, got -1"),
    "flat indices": (put("batches.indices", np.ravel), "batches.indices: .* must have shape"),
    "indices as numbers with points": (
        put("batches.indices", lambda a: a.astype(np.float64)),
        "must hold int64 values",
    ),
    "probabilities above 1": (put("batches.probabilities", at_last(2.0)), "batches.probabilities must lie in"),
    "a probability below 0": (put("batches.probabilities", at_last(-1e-4)), "batches.probabilities must lie in"),
    "a probability that is no number": (put("batches.probabilities", at_last(np.nan)), "must hold finite values"),
    "narrow weights": (
        put("batches.weights", np.ones((2, 4), np.float32)),
        "batches.weights must have shape",
    ),
    "weights that were not asked for": (put("batches.weights", np.ones((2, 8), np.float32)), "must be null for a job"),
    "a negative weight": (put("batches.weights", np.full((2, 8), -1e-4, np.float32)), "batches.weights must lie in"),
    "an infinite weight": (put("batches.weights", np.full((2, 8), np.inf, np.float32)), "must hold finite values"),
    "a huge weight": (put("batches.weights", np.full((2, 8), 1e9, np.float32)), "batches.weights must lie in"),
    "flat modality weights": (put("batches.modality_weights", np.ones((2, 8), np.float32)), "must have shape"),
    "a pull of another length": (put("batches.pull", np.ones(7, np.float32)), "batches.pull must have shape"),
    "an infinite pull": (put("batches.pull", np.full(2, np.inf, np.float32)), "must hold finite values"),
    "another epoch": (
        put("batches.epoch", at_last(7)),
        r"batches.epoch must be \[0, 0\] for these steps, got \[0, 7\]",
    ),
    "a negative version": (put("batches.policy_version", at_last(-1)), "batches.policy_version must lie in"),
    "scores of later steps": (put("batches.scored_until", at_last(99)), "batches.scored_until must lie in"),
    "too few outcomes": (put("feedback", ["applied"]), "feedback must tell of 0 steps, got 1"),
    "batches missing": (lambda message: message.pop("batches"), "batches: Field required"),
    "a number too many digits long": (put("batches.start", 10**400), "batches.start"),
}


@pytest.mark.parametrize("wrong", WRONG_STEPS)
def test_batches_that_do_not_fit_the_job_or_the_request_are_told_by_field_and_value(
    box: Hostile, caller: SchedulerClient, job_name: str, wrong: str
) -> None:
    job = spec(job_name)
    caller.create_job(job)
    change, sentence = WRONG_STEPS[wrong]
    box.reply = said(change)
    with pytest.raises(BrokenAnswerError, match=sentence) as caught:
        caller.steps(job_name, StepsRequest(start=0, count=2), spec=job)
    assert caught.value.field.split(".")[0] in ("batches", "feedback", "body")
    assert f"{box.url} answered POST /v1/jobs/{job_name}/steps by what can't be right: " in str(caught.value)
    assert len(box.asked) == TRIES


def test_weights_of_heads_must_be_of_those_that_the_job_has(
    box: Hostile, caller: SchedulerClient, job_name: str
) -> None:
    job = spec(job_name, weighted=True)
    caller.create_job(job)
    box.reply = said(put("batches.modality_weights", np.ones((2, 8, 5), np.float32)))
    with pytest.raises(BrokenAnswerError, match=r"modality_weights must have shape \(2, 8, 3\), got \(2, 8, 5\)"):
        caller.steps(job_name, StepsRequest(start=0, count=2), spec=job)


Wrong = tuple[Callable[[SchedulerClient, str], Any], Callable[[dict[str, Any]], Any], str]
SENT = measured(0, np.arange(8))
WRONG_ANSWERS: dict[str, Wrong] = {
    "another job": (lambda c, n: c.job(n), put("spec.name", "other"), "spec.name must be"),
    "a job of another size": (lambda c, n: c.create_job(spec(n)), put("spec.samples", 51), "spec.samples must be 50"),
    "a job that has shrunk": (
        lambda c, n: c.change_job(n, JobChange(samples=60)),
        put("spec.samples", 59),
        "spec.samples must be at least 60, as sent, got 59",
    ),
    "a key of no sample": (lambda c, n: c.register_keys(n, ["a"]), put("indices", [1]), "indices must be less than 1"),
    "keys that share a sample": (
        lambda c, n: c.register_keys(n, ["a", "b"]),
        put("indices", [0, 0]),
        "indices must be alike for the same key, and for no others",
    ),
    "keys of a job that has shrunk": (
        lambda c, n: c.register_keys(n, ["a"], spec=spec(n)),
        put("samples", 49),
        "samples must be at least 50, got 49",
    ),
    "an epoch of less than a batch": (
        lambda c, n: c.register_keys(n, ["a"], spec=spec(n)),
        put("earlier", [{"samples": 7, "until": 1}]),
        "earlier must be of 8 samples or more, got 7",
    ),
    "a job ahead of time": (lambda c, n: c.job(n), put("next_step", 2**62), "next_step must lie in"),
    "a job before its time": (lambda c, n: c.job(n), put("fed_back_until", -1), "fed_back_until must lie in"),
    "a job in another epoch": (lambda c, n: c.job(n), put("epoch", 9), "epoch must be 0 at step"),
    "more measured than there are": (
        lambda c, n: c.job(n),
        put("samples_measured", 51),
        "samples_measured must lie in",
    ),
    "a place in no step": (
        lambda c, n: c.attach(n, AttachRequest(client="me", host="h", process=1, resume=True)),
        put("next_step", -1),
        "next_step must lie in",
    ),
    "outcomes of other feedback": (
        lambda c, n: c.feedback(n, FeedbackRequest(feedback=SENT)),
        put("feedback", ["applied"] * 2),
        "feedback must tell of 1 steps, got 2",
    ),
    "an endless log": (lambda c, n: c.decisions(n), put("total", 10**6), "decisions must be 100 of 1000000"),
    "another part of the log": (lambda c, n: c.decisions(n), put("start", 1), "start must be 0"),
    "another sample": (lambda c, n: c.sample(n, 3), put("index", -3), "index must be 3, as asked for, got -3"),
    "another order": (lambda c, n: c.samples(n, "loss"), put("order", "draws"), "order must be 'loss'"),
    "samples that are none": (
        lambda c, n: c.samples(n, "loss", spec=spec(n)),
        lambda m: m["samples"][0].update(index=-1),
        r"samples.index must lie in \[0, 49\], got -1",
    ),
    "another policy": (lambda c, n: c.swap(n, "uniform"), put("policy.name", "evil"), "policy.name must be 'uniform'"),
    "a policy from before": (lambda c, n: c.policy(n), put("first_step", -1), "first_step must lie in"),
    "half a measuring pass": (
        lambda c, n: c.scores(n, Scores(indices=np.arange(2), values=np.zeros((2, 5), np.float32))),
        put("accepted", 1),
        "accepted must be 2, as sent, got 1",
    ),
    "names of other numbers": (lambda c, n: c.observation(n), put("fields", ["a"]), "fields must name 50 numbers"),
    "an outcome that is none": (
        lambda c, n: c.local_batches(n, LocalBatches(start=1, indices=np.arange(8)[None] + 8)),
        put("outcome", 5),
        "outcome: ",
    ),
    "reports of before": (lambda c, n: c.validations(n, 2), put("start", 0), "start must be 2, as asked for"),
    "a report twice": (
        lambda c, n: (c.validation(n, report(1)), c.validations(n)),
        lambda m: m.update(reports=m["reports"] * 2) if "reports" in m else None,
        r"reports.step must rise from 0 .* got \[1, 1\]",
    ),
    "fewer described than were sent": (
        lambda c, n: c.describe(n, SampleDescriptions(index=[3, 5], texts=["a dog", "a cat"])),
        lambda m: m["descriptions"].pop(),
        r"descriptions.index must have all that were sent, lacks some, got \[5\]",
    ),
    "a sample described twice": (
        lambda c, n: c.describe(n, SampleDescriptions(index=[3], texts=["a dog"])),
        lambda m: m.update(descriptions=m["descriptions"] * 2),
        r"descriptions.index must rise from 0 .* got \[3, 3\]",
    ),
    "rewards that are none": (lambda c, n: c.validation(n, report(1)), put("rewards", ["x"]), "rewards.0: "),
    "policies that are none": (lambda c, n: c.policies(), put("policies", {}), "policies: "),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
def test_every_other_answer_is_held_against_its_question(
    box: Hostile, caller: SchedulerClient, job_name: str, wrong: str
) -> None:
    caller.create_job(spec(job_name))
    indices = caller.steps(job_name, StepsRequest(start=0)).batches.indices[0]
    caller.feedback(job_name, FeedbackRequest(feedback=measured(0, indices)))
    if wrong == "samples that are none":
        for step in range(1, 8):  # into the next interval, for which it is learnt
            indices = caller.steps(job_name, StepsRequest(start=step)).batches.indices[0]
            caller.feedback(job_name, FeedbackRequest(feedback=measured(step, indices)))
    call, change, sentence = WRONG_ANSWERS[wrong]
    box.reply = said(change)
    with pytest.raises(BrokenAnswerError, match=sentence):
        call(caller, job_name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("unpaired", ["other"]), "unpaired must be of"),
        (put("steps", [1, 1]), "steps must rise from 0"),
        (put("policies.0.jobs", ["other"]), "jobs must be of"),
        (put("policies.0.seeds", [0, 1]), "jobs must be 2, as seeds, got 1"),
        (put("policies.0.curve", []), "curve must have 1 steps, got 0"),
        (put("policies.0.best.mean", "evil"), "policies.0.best.mean"),
    ],
)
def test_a_comparison_is_of_the_jobs_that_were_asked_for(
    box: Hostile, caller: SchedulerClient, job_name: str, change: Any, sentence: str
) -> None:
    names = [f"{job_name}-{policy}" for policy in ("balance", "uniform")]
    for name, policy in zip(names, ("balance", "uniform"), strict=True):
        caller.create_job(spec(name, policy=policy))
        caller.steps(name, StepsRequest(start=0))
        caller.validation(name, report(1))
    assert caller.compare(*names).policies[0].jobs == names[:1]
    box.reply = said(change)
    with pytest.raises(BrokenAnswerError, match=sentence):
        caller.compare(*names)


def test_an_artefact_is_the_one_that_was_asked_for_or_sent(box: Hostile, caller: SchedulerClient) -> None:
    artefact, other = made_up("gaussian", (2,)), made_up("gaussian", (3,))
    sha256 = caller.upload_policy(artefact).sha256
    assert caller.policy_file(sha256) == artefact
    for wrong in (other, artefact[:-1] + b"\x07", b"nonsense"):
        box.reply = lambda box, answer, wrong=wrong: iter([with_body(answer, wrong)])  # type: ignore[misc]
        with pytest.raises(BrokenAnswerError, match=r"^body must be (the|an) artefact"):
            caller.policy_file(sha256)
    box.reply = said(put("sha256", "0" * 64))
    with pytest.raises(BrokenAnswerError, match="sha256 must be that of what was sent"):
        caller.upload_policy(artefact)


def test_an_answer_that_was_wrong_once_is_asked_for_again(box: Hostile, caller: SchedulerClient, job_name: str) -> None:
    job = spec(job_name)
    caller.create_job(job)

    def once(box: Hostile, answer: bytes) -> Pieces:
        box.reply = None
        return said(empty)(box, answer)

    box.reply = once
    assert len(caller.steps(job_name, StepsRequest(start=0, count=2), spec=job).batches.indices) == 2


# What becomes of a run.


@under_every_choice
@pytest.mark.parametrize("wrong", ["a negative index", "no batch at all", "narrow batches"])
def test_a_run_ends_by_an_answer_that_cannot_be_right_whatever_was_chosen_for_outages(
    box: Hostile, job_name: str, on_outage: Any, wrong: str
) -> None:
    box.only = "steps"
    with (
        SchedulerClient(box.url) as client,
        ScheduledBatchSampler(spec(job_name), client, on_outage=on_outage, outage_after=0.1, prefetch=2) as sampler,
    ):
        batches = iter(sampler)
        given = [next(batches)]
        sampler.feedback(0)
        box.reply = said(lambda message: WRONG_STEPS[wrong][0](message))
        with pytest.raises(BrokenAnswerError, match=r"batches\.\w+ must"):
            given.extend(batches)
        assert all(0 <= index < 50 for batch in given for index in batch)
        assert sampler.stats.local_batches == 0
        state = sampler.state_dict()
    assert state["step"] == 1
    box.reply = None
    with (
        SchedulerClient(box.url) as client,
        ScheduledBatchSampler(spec(job_name), client, on_outage=on_outage) as sampler,
    ):
        sampler.load_state_dict(state)
        assert len(list(sampler)) == 5  # the rest of the epoch


def test_what_was_handed_out_before_is_recalled_or_the_run_ends(box: Hostile, job_name: str) -> None:
    job = spec(job_name)
    with SchedulerClient(box.url) as client, ScheduledBatchSampler(job, client, prefetch=2) as sampler:
        batches = iter(sampler)
        next(batches)
        sampler.feedback(0)
        state = sampler.state_dict()
    box.only = "batches"

    def nothing(message: dict[str, Any]) -> None:
        empty({"batches": message})

    box.reply = said(nothing)
    with (
        SchedulerClient(box.url) as client,
        ScheduledBatchSampler(job, client, on_outage="local") as sampler,
        pytest.raises(BrokenAnswerError, match=r"batches\.indices must be of 1 to"),
    ):
        sampler.load_state_dict(state)


def refused(status: bytes, problem: bytes) -> Callable[[Hostile, bytes], Pieces]:
    def reply(box: Hostile, answer: bytes) -> Pieces:
        yield with_body(answer, problem, b"content-type: application/problem+json", status=status)

    return reply


def test_rank_0_waits_for_no_other(box: Hostile, job_name: str) -> None:
    box.only = "steps"
    box.reply = refused(b"425 Too Early", b'{"detail": "wait"}')
    with (
        SchedulerClient(box.url) as client,
        ScheduledBatchSampler(spec(job_name), client) as sampler,
        pytest.raises(BrokenAnswerError, match="status must not be 425 for rank 0"),
    ):
        next(iter(sampler))


def test_a_service_that_says_that_it_is_at_work_is_waited_for_and_is_not_away(box: Hostile, job_name: str) -> None:
    told = []

    def reply(box: Hostile, answer: bytes) -> Pieces:
        told.append(box)
        problem = b'{"detail": "being drawn", "field": "planning"}'
        kind = b"content-type: application/problem+json"
        yield with_body(answer, problem, kind, status=b"503 Busy") if len(told) < 3 else answer

    box.only, box.reply = "steps", reply
    with (
        SchedulerClient(box.url) as client,
        ScheduledBatchSampler(spec(job_name), client, on_outage="raise", outage_after=0.01) as sampler,
    ):
        assert len(next(iter(sampler))) == spec(job_name).batch_size
        assert sampler.stats.outages == 0
    assert len(told) >= 3


@pytest.mark.parametrize("value", [b'"gone"', b"[1]", b'{"a": 1}', b'"a/../b"', b"null"])
def test_a_place_that_is_never_free_is_not_asked_for_without_end(
    box: Hostile, job_name: str, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment, "_ended", {"gone"})
    box.only = "trainers"
    box.reply = refused(b"409 Conflict", b'{"detail": "taken", "field": "client", "value": ' + value + b"}")
    with SchedulerClient(box.url) as client, ScheduledBatchSampler(spec(job_name), client) as sampler:
        with pytest.raises(ConflictError, match="taken"):
            next(iter(sampler))
        assert len(box.asked) <= 2


def test_names_that_are_all_taken_are_not_tried_without_end(
    box: Hostile, job_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment, "MOST_NAMES", 5)
    box.reply = refused(b"409 Conflict", b'{"detail": "there"}')
    box.only = "POST /v1/jobs "
    with (
        SchedulerClient(box.url) as client,
        ScheduledBatchSampler(spec(job_name), client, if_exists="new") as sampler,
        pytest.raises(SchedulerError, match=f"{job_name}-5 are there already"),
    ):
        next(iter(sampler))
    assert len(box.asked) == 5


# How it reads.


CONTROLS = "\x1b]0;title\x07\x9b2J\x7f\u202e\u2066\u200b\u2028"


@pytest.mark.parametrize("status", [b"409 Conflict", b"503 Busy", b"200 OK"])
def test_no_text_of_an_answer_moves_a_cursor(box: Hostile, caller: SchedulerClient, status: bytes) -> None:
    problem = json.dumps({"detail": CONTROLS, "jobs": [CONTROLS]}, ensure_ascii=False)
    kind = b"content-type: application/" + (b"json" if status.startswith(b"2") else b"problem+json")
    box.reply = lambda box, answer: iter([with_body(answer, problem.encode(), kind, status=status)])
    with pytest.raises(SchedulerError) as caught:
        caller.jobs()
    assert str(caught.value).isprintable()
    assert repr(caught.value).isprintable()
    assert "\\x1b" in str(caught.value)
