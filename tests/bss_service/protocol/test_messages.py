"""The messages, over JSON and over frames: the same contract for both."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bss_service import protocol
from bss_service.core.action import Action
from bss_service.core.observation import FIELDS
from bss_service.core.signals import Signal
from bss_service.protocol import (
    actions,
    artefacts,
    decisions,
    frames,
    jobs,
    message,
    policies,
    samples,
    training,
    validation,
)
from bss_service.protocol.jobs import JobSpec, RewardSpec
from bss_service.protocol.message import Message
from bss_service.protocol.training import Feedback, FeedbackRequest, Scores, StepsRequest
from bss_service.protocol.validation import ValidationReport
from tests.support.additions import with_additions

Send = Callable[[type[Message], dict[str, Any]], Message]


def over_json(kind: type[Message], message: dict[str, Any]) -> Message:
    return kind.model_validate_json(json.dumps(message, default=as_lists))


def as_lists(array: np.ndarray) -> Any:
    """As JSON has it: null where a number is not known."""
    return (np.where(np.isnan(array), None, array) if array.dtype.kind == "f" else array).tolist()


def over_frames(kind: type[Message], message: dict[str, Any]) -> Message:
    return kind.from_frame(frames.encode(message))


def as_answer(send: Send, kind: type[Message], message: dict[str, Any]) -> Message:
    if send is over_frames:
        return kind.from_answer(frames.encode(message), frames.CONTENT_TYPE)
    return kind.from_answer(json.dumps(message, default=as_lists).encode(), "application/json")


both = pytest.mark.parametrize("send", [over_json, over_frames])
SERIES = {"name": "accuracy", "head": "joint", "unit": "1", "values": np.array([0.5, 0.75])}
HISTOGRAM = {"name": "loss", "unit": "1", "edges": np.array([0.0, 1.0, 2.0]), "counts": np.array([3, 1]), "unknown": 2}


SPEC = {"name": "job", "samples": 10, "modalities": ["audio", "video"], "batch_size": 4}
ROWS = np.array([[0.25, 0.5]], dtype=np.float32)
FEEDBACK = {
    "step": np.array([7]),
    "similarity": ROWS,
    "loss": np.array([[2.0, np.nan]], np.float32),
    "probability": np.full((1, 2, 3), 0.5, np.float32),
}
SIGNALS = JobSpec(**SPEC).measurements()  # of which a batch's share has two samples
BATCHES = {
    "start": 3,
    "indices": np.array([[16_777_217, 2**40]]),
    "probabilities": ROWS,
    "policy_version": np.array([1]),
    "epoch": np.array([0]),
    "scored_until": np.array([2]),
}
POLICY = {"name": "fixed", "parameters": {"kappa_loss": 1.5, "link": "linear"}}
POLICY_ANSWER = {"policy": POLICY, "policy_version": 2, "first_step": 10, "changed": True}
CONFUSION: dict[str, Any] = {
    "label": np.array([0, 3]),
    "predicted": np.array([1, 3]),
    "mass": np.array([2.0, 0.5], np.float32),
}
REPORT = {"step": 4, "loss": 0.5, "accuracy": 0.25, "modalities": {"audio": {"accuracy": 0.5, "probability": 0.75}}}
TRAINER = {
    "rank": 1,
    "world_size": 2,
    "client": "c0ffee",
    "host": "gpu-1",
    "process": 4711,
    "machine": "m",
    "group": "g",
    "left": True,
}
SCORES = {
    "indices": np.array([3, 1]),
    "similarity": ROWS[0],
    "loss": ROWS[0],
    "probability": np.ones((2, 3), np.float32),
}
STATE = {
    "spec": {**SPEC, "policy": POLICY, "interval": 5, "lag": 2, "tail": "drop", "horizon": 100, "patience": 0.5},
    "created": True,
    "next_step": 8,
    "epoch": 1,
    "epoch_start": 6,
    "policy": POLICY_ANSWER,
    "pending_policy": POLICY_ANSWER,
    "shadow": {**POLICY_ANSWER, "shadow": True},
    "steps_fed_back": 5,
    "fed_back_until": 5,
    "samples_measured": 9,
    "validation": REPORT,
    "rewards": [0.5, None],
}
DECISION = {
    "first_step": 0,
    "end_step": 5,
    "epoch": 0,
    "policy_version": 1,
    "policy": "bandit",
    "observation": np.full(len(FIELDS), 0.5, np.float32),
    "action": Action(kappa_loss=1.0, link="linear").as_dict(),
    "propensity": 0.25,
    "detail": {"arm": "hard", "probabilities": {"hard": 0.25}},
    "gain": None,
    "reward": 0.5,
}
SAMPLE = {
    "index": 3,
    "signals": {"similarity": 0.5, "loss": None, "probability": {"audio": 0.5, "joint": None}},
    "balance_score": -0.5,
    "first_score": None,
    "times_measured": 2,
    "last_measured": 7,
    "draws": [{"step": 7, "probability": 0.5, "policy_version": 1}],
}
EVIDENCE_OF_ONE: dict[str, Any] = {
    "right": 0.25,
    "rival": 0.5,
    "pair": 0.75,
    "wrong_modality": {"audio": 0.25, "video": 0.0},
    "label": 3,
    "likeliest": 1,
    "predicted": {"audio": 1, "video": 3},
}
SAMPLE_ROW = {"index": 3, "evidence": EVIDENCE_OF_ONE, "loss": None, "draws": 2, "last_measured": 7}
MANIFEST: dict[str, Any] = {
    "format": "bss-policy/1",
    "name": "trained",
    "observation_schema": "0" * 64,
    "action_schema": "0" * 64,
    "action": {"kind": "discrete", "names": ["uniform", "hard"]},
    "network": {"activation": "relu", "hidden": [64, 32], "distribution": "categorical"},
    "normaliser": {"clip": 10.0, "epsilon": 1e-8},
    "training": {"command": "train", "seeds": [0, 1], "tasks": {"noisy": None}},
    "evaluation": {"return": -0.5},
    "sha256": "f" * 64,
}
JUDGE: dict[str, Any] = {
    "format": "bss-judge/1",
    "name": "judge",
    "feature_schema": "0" * 64,
    "label": [32, 32],
    "modality": [16],
    "training": {"command": "train"},
    "evaluation": None,
    "sha256": "f" * 64,
}
POLICY_ROW = {"name": "fixed", "description": "One action.", "parameters": {"ema": {"default": 0.5}}, "error": None}
SHADOW = {
    "shadow": 1,
    "policy": "balance",
    "action": Action(kappa_loss=1.0, link="linear").as_dict(),
    "propensity": 1.5,
    "detail": {"raw_action": [0.5, -2.0]},
}
OBSERVATION = {
    "first_step": 5,
    "epoch": 1,
    "policy": "external",
    "policy_version": 2,
    "trainer_waiting": True,
    "action_set": False,
    "awaits_action": True,
    "fields": ["progress", "measured_share"],
    "schema_hash": "0a",
    "vector": ROWS[0],
}
DIFFERENCE = {"mean": 0.25, "low": -0.5, "high": None}
COMPARED = {
    "policy": "balance",
    "verdict": "can't tell yet",
    "best": DIFFERENCE,
    "last": {"mean": 0.5},
    "seeds": [1],
    "jobs": ["run-1"],
    "baseline_jobs": ["run-1-control"],
    "spread": 0.125,
    "spread_from": "late validations",
    "more_seeds": 12,
    "curve": [DIFFERENCE, {"mean": 0.0}],
}
SIZE = {"samples": 60, "earlier": [{"samples": 40, "until": 2}, {"samples": 50, "until": 5}]}
MESSAGES: dict[type[Message], dict[str, Any]] = {
    policies.PolicySpec: POLICY,
    jobs.RewardSpec: {"metric": "accuracy", "balance_weight": 0.5, "discount": 0.9},
    jobs.JobSpec: SPEC,
    training.Feedback: FEEDBACK,
    training.FeedbackRequest: {"rank": 1, "world_size": 2, "feedback": FEEDBACK},
    training.StepsRequest: {"rank": 1, "world_size": 2, "feedback": FEEDBACK, "start": 8, "count": 2},
    training.FeedbackAnswer: {"feedback": ["applied", "repeated", "late"]},
    training.Batches: BATCHES,
    training.StepsAnswer: {"feedback": ["applied"], "batches": BATCHES, "policy_error": "ValueError: no weights"},
    validation.ModalityReport: {"accuracy": 0.5, "probability": 0.25},
    validation.Confusion: CONFUSION,
    validation.ValidationReport: REPORT,
    validation.ValidationAnswer: {"outcome": "applied", "rewards": [0.5, None]},
    validation.ValidationLog: {"start": 7, "reports": [REPORT]},
    validation.Difference: DIFFERENCE,
    validation.PolicyComparison: COMPARED,
    validation.Comparison: {
        "sentence": "can't tell yet",
        "baseline": "uniform",
        "level": 0.975,
        "steps": [10, 20],
        "policies": [COMPARED],
        "unpaired": ["run-7"],
    },
    training.Scores: SCORES,
    training.ScoresAnswer: {"accepted": 2},
    training.Trainer: TRAINER,
    training.AttachRequest: {**TRAINER, "resume": True, "instead_of": ["deadbeef"]},
    training.AttachAnswer: {"next_step": 7, "steps_fed_back": 5, "fed_back_until": 4},
    policies.SwapRequest: {"policy": POLICY, "at": "next_interval", "shadow": True},
    policies.PolicyAnswer: POLICY_ANSWER,
    actions.ActionRequest: {"first_step": 5, "action": "hard", "propensity": 0.25, "detail": {"agent": ["ppo", 3]}},
    actions.ActionAnswer: {"outcome": "replaced", "first_step": 5, "policy_version": 2},
    actions.ObservationAnswer: OBSERVATION,
    training.LocalBatches: {"start": 3, "indices": np.array([[1, 2, 3, 4]])},
    training.LocalBatchesRequest: {"start": 3, "indices": np.array([[1, 2, 3, 4]]), "client": "c0ffee"},
    training.LocalBatchesAnswer: {"outcome": "repeated"},
    jobs.JobState: STATE,
    jobs.ShareEstimate: {"share": 0.25, "low": 0.125, "high": 0.5},
    jobs.EvidenceState: {
        "step": 12,
        "wrong_labels": {"share": 0.25, "low": 0.125, "high": 0.5},
        "wrong_pairs": {"share": 0.0, "low": 0.0, "high": 0.125},
        "left_out": 3,
        "weakest_modality": "audio",
    },
    jobs.JobChange: {"horizon": 100, "patience": 2.5, "samples": 60},
    training.EarlierSize: {"samples": 40, "until": 2},
    training.JobSize: SIZE,
    training.Window: {"first_step": 6, "samples": np.array([3, 1, 1, 0])},
    training.WindowAnswer: {"outcome": "replaced", "end_step": 8},
    samples.SampleKeys: {"keys": ["shard-0/17", "ä"]},
    samples.KeysAnswer: {**SIZE, "indices": np.array([0, 7]), "known": 8},
    jobs.JobList: {"jobs": [STATE]},
    jobs.SampleGroups: {"groups": np.array([0, 2, 1, 0])},
    jobs.GroupsAnswer: {"outcome": "applied", "first_step": 12},
    decisions.Chosen: {key: DECISION[key] for key in ("action", "propensity", "detail")},
    decisions.Decision: DECISION,
    decisions.DecisionLog: {"start": 0, "total": 1, "decisions": [DECISION, {**DECISION, "shadow": SHADOW}]},
    samples.DrawRow: {"step": 7, "probability": 0.5, "policy_version": 1},
    samples.SampleState: SAMPLE,
    samples.SampleEvidence: EVIDENCE_OF_ONE,
    samples.SampleRow: SAMPLE_ROW,
    samples.SampleList: {"order": "label", "step": 12, "known": 6, "samples": [SAMPLE_ROW, SAMPLE_ROW]},
    artefacts.BoxAction: {"kind": "box", "dimension": 2, "fields": ["share", "ema"]},
    artefacts.DiscreteAction: MANIFEST["action"],
    artefacts.NetworkSpec: MANIFEST["network"],
    artefacts.NormaliserSpec: MANIFEST["normaliser"],
    artefacts.PolicyManifest: MANIFEST,
    artefacts.JudgeManifest: JUDGE,
    policies.PolicyRow: POLICY_ROW,
    policies.PolicyList: {"policies": [POLICY_ROW], "artefacts": [MANIFEST], "judges": [JUDGE]},
    decisions.ShadowChoice: SHADOW,
    jobs.AccessAnswer: {"scope": "read"},
    jobs.Series: SERIES,
    jobs.SeriesAnswer: {
        "of": "validation",
        "unit": "step",
        "x": np.array([10.0, 20.0]),
        "rows": 2,
        "series": [SERIES],
        "versions": [POLICY_ANSWER],
        "shadows": [],
    },
    samples.Histogram: HISTOGRAM,
    samples.HistogramList: {"step": 12, "histograms": [HISTOGRAM]},
    samples.DensityAnswer: {
        "step": 12,
        "similarity": np.array([-1.0, 1.0]),
        "loss": np.array([0.0, 4.0]),
        "counts": np.array([[1, 0], [2, 3]]),
    },
    samples.SampleDescriptions: {"index": np.array([3, 5]), "pictures": np.zeros((2, 4, 6, 3), np.uint8)},
    samples.DescriptionRow: {"index": 3, "kind": "text"},
    samples.DescriptionList: {"descriptions": [{"index": 3, "kind": "text"}, {"index": 5, "kind": "picture"}]},
}

ANSWERS = (
    training.FeedbackAnswer,
    training.StepsAnswer,
    training.Batches,
    training.ScoresAnswer,
    training.LocalBatchesAnswer,
    validation.ValidationAnswer,
    validation.ValidationLog,
    validation.Comparison,
    actions.ActionAnswer,
    actions.ObservationAnswer,
    policies.PolicyAnswer,
    policies.PolicyList,
    artefacts.PolicyManifest,
    artefacts.JudgeManifest,
    decisions.DecisionLog,
    samples.SampleState,
    samples.SampleList,
    jobs.JobState,
    jobs.JobList,
    jobs.AccessAnswer,
    jobs.GroupsAnswer,
    jobs.SeriesAnswer,
    samples.HistogramList,
    samples.DensityAnswer,
    samples.DescriptionList,
)
BY_SIGNAL = (training.Feedback, training.Scores)  # their other fields are signals, which the job knows


@pytest.mark.filterwarnings("error")
def test_an_empty_array_may_have_any_dtype() -> None:
    empty = {"indices": np.empty(0, np.complex64), "similarity": np.empty(0, np.bool_), "loss": np.empty(0)}
    assert [a.dtype for a in Scores(**empty).model_dump(exclude_none=True).values()] == ["int64", "float32", "float32"]


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth > 1 else []


@both
def test_free_json_is_nested_at_most_so_deep_that_it_can_be_read_from_within_a_snapshot(send: Send) -> None:
    request = {"first_step": 0, "action": "hard", "detail": {"agent": nested(message.MAX_NESTING - 1)}}
    assert send(actions.ActionRequest, request)
    with pytest.raises(pydantic.ValidationError, match=r"detail\n.*nested at most 32 deep"):
        send(actions.ActionRequest, {**request, "detail": {"agent": nested(message.MAX_NESTING)}})
    with pytest.raises(pydantic.ValidationError, match=r"parameters\n.*nested at most 32 deep"):
        send(policies.PolicySpec, {"name": "fixed", "parameters": {"x": nested(150)}})


@both
@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
class TestEveryMessage:
    def test_it_survives_the_way(self, send: Send, kind: type[Message]) -> None:
        message = kind.model_validate(MESSAGES[kind])
        sent = json.loads(message.model_dump_json()) if send is over_json else message.model_dump()
        assert_same(send(kind, sent), message)

    def test_it_says_what_was_put_in(self, send: Send, kind: type[Message]) -> None:
        arrived = send(kind, MESSAGES[kind]).model_dump(exclude_unset=True)
        np.testing.assert_equal(arrived, MESSAGES[kind])

    def test_an_unknown_field_is_refused_by_name(self, send: Send, kind: type[Message]) -> None:
        reason = "must be an array" if kind in BY_SIGNAL else "Extra inputs"
        with pytest.raises(pydantic.ValidationError, match=rf"no_such_field\n.*{reason}"):
            send(kind, {**MESSAGES[kind], "no_such_field": 1})

    def test_a_field_that_is_missing_is_named(self, send: Send, kind: type[Message]) -> None:
        for name, field in kind.model_fields.items():
            if field.is_required():
                with pytest.raises(pydantic.ValidationError, match=rf"{name}\n  Field required"):
                    send(kind, {key: value for key, value in MESSAGES[kind].items() if key != name})


@both
@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
class TestEveryAnswer:
    def test_what_a_newer_service_added_is_left_out(self, send: Send, kind: type[Message]) -> None:
        newer = with_additions(MESSAGES[kind], arrays=send is over_frames)
        assert_same(as_answer(send, kind, newer), send(kind, MESSAGES[kind]))

    def test_what_is_missing_is_named(self, send: Send, kind: type[Message]) -> None:
        for name, field in kind.model_fields.items():
            if field.is_required():
                with pytest.raises(pydantic.ValidationError, match=rf"{name}\n  Field required"):
                    as_answer(send, kind, {key: value for key, value in MESSAGES[kind].items() if key != name})


@both
def test_a_client_survives_a_new_word_for_what_became_of_a_request(send: Send) -> None:
    steps = {**MESSAGES[training.StepsAnswer], "feedback": ["applied", "sampled"]}
    assert as_answer(send, training.StepsAnswer, steps).feedback == ["applied", "sampled"]
    for kind in (validation.ValidationAnswer, training.LocalBatchesAnswer, actions.ActionAnswer):
        assert as_answer(send, kind, {**MESSAGES[kind], "outcome": "later"}).outcome == "later"
        with pytest.raises(pydantic.ValidationError, match="outcome"):
            as_answer(send, kind, {**MESSAGES[kind], "outcome": 1})
        with pytest.raises(pydantic.ValidationError, match="outcome"):
            send(kind, {**MESSAGES[kind], "outcome": "later"})


@both
def test_a_client_reads_signals_and_observations_that_have_more_fields(send: Send) -> None:
    entropy = {"name": "entropy", "meaning": "of the joint head's prediction"}
    newer = {**STATE, "spec": {**STATE["spec"], "signals": ["loss", {**entropy, "unit": "nats"}]}}
    state = as_answer(send, jobs.JobState, newer)
    assert state.spec.signals == [*JobSpec(**SPEC, signals=["loss"]).signals, Signal(**entropy)]
    with pytest.raises(pydantic.ValidationError, match="unexpected keyword argument 'unit'"):
        send(jobs.JobState, newer)
    seen = {**dict.fromkeys(FIELDS, 0.5), "added_later": 0.25}
    decision = {**DECISION, "action": {**DECISION["action"], "added_later": 1.0}, "observation": seen}
    assert_same(as_answer(send, decisions.Decision, decision), send(decisions.Decision, DECISION))


def assert_same(one: Message, other: Message) -> None:
    np.testing.assert_equal(one.model_dump(), other.model_dump())
    for name in type(one).model_fields:
        if isinstance(getattr(other, name), np.ndarray):
            assert getattr(one, name).dtype == getattr(other, name).dtype


def test_every_message_there_is_is_tested() -> None:
    def kinds(base: type[Message]) -> set[type[Message]]:
        return {base}.union(*map(kinds, base.__subclasses__()))

    here = {kind for kind in kinds(Message) if kind.__module__.startswith(f"{protocol.__name__}.")}
    assert here - {Message, training.Ranked} == set(MESSAGES)


@st.composite
def feedbacks(draw: st.DrawFn) -> Feedback:
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    number = st.floats(width=32, allow_infinity=False)
    steps = draw(arrays(np.int64, shape[0], elements=st.integers(0, 2**31 - 1)))
    if draw(st.booleans()):
        return Feedback(step=steps, values=draw(arrays(np.float32, (*shape, draw(st.integers(1, 5))), elements=number)))
    names = draw(st.sets(st.sampled_from(["similarity", "loss", "entropy"])))
    return Feedback(step=steps, **{name: draw(arrays(np.float32, shape, elements=number)) for name in names})


@both
@given(feedbacks())
def test_any_feedback_arrives_bit_for_bit(send: Send, feedback: Feedback) -> None:
    assert_same(send(Feedback, feedback.model_dump(exclude_none=True)), feedback)


@both
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("step", np.array([0.5]), "must hold int64 values, got float64"),
        ("step", np.array([True]), "must hold int64 values, got bool"),
        ("step", np.array([-1]), r"must lie in \[0, 2.14748e\+09\], got -1 at \[0\]"),
        ("step", np.array([2**31 + 10]), "must lie in"),
        ("step", np.array([2**63], np.uint64), "must hold int64 values, got 9223372036854775808"),
        ("step", np.array([[7]]), r"must have shape \(F\), got \(1, 1\)"),
        ("step", 7, r"must be an array of shape \(F\), got int"),
        ("step", None, r"must be an array of shape \(F\), got NoneType"),
        ("step", "7", "must be an array"),
        ("step", {"0": 7}, "must be an array"),
        ("similarity", np.array([[np.inf, 0.5]]), r"must hold finite values, got inf at \[0, 0\]"),
        ("similarity", np.array([0.5, 0.5]), r"must have shape \(F, G / W\), got \(2,\)"),
        ("similarity", np.ones((1,) * 60), "must have shape"),
        ("similarity", [["a", "b"]], "must hold float32 values|must be an array"),
        ("loss", np.array([[0.5, -np.inf]]), "must hold finite values, got -inf"),
        ("loss", np.array([[0.5, 1e39]]), r"must hold finite values, got 1e\+39"),
        ("values", np.ones((1, 2)), r"must have shape \(F, G / W, S\), got \(1, 2\)"),
        ("values", np.full((1, 2, 5), np.inf), "must hold finite values, got inf"),
    ],
)
def test_a_wrong_array_is_refused_with_its_name_and_the_value(send: Send, field: str, value: Any, reason: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=reason) as refused:
        send(FeedbackRequest, {"feedback": {**FEEDBACK, field: value}})
    assert field in str(refused.value)


@both
@pytest.mark.parametrize(
    ("signals", "reason"),
    [
        ({"similarity": np.array([[0.5, 1.5]])}, r"similarity must lie in \[-1, 1\], got 1.5 at \[0, 1\]"),
        ({"similarity": np.ones((1, 2, 1))}, r"similarity must have shape \(1, 2\), got \(1, 2, 1\)"),
        ({"loss": np.ones((1, 3))}, r"loss must have shape \(1, 2\), got \(1, 3\)"),
        ({"loss": np.ones((2, 2))}, r"loss must have shape \(1, 2\), got \(2, 2\)"),
        ({"probability": np.full((1, 2, 3), -0.5)}, r"probability must lie in \[0, 1\], got -0.5 at \[0, 0, 0\]"),
        ({"probability": np.ones((1, 2))}, r"probability must have shape \(1, 2, 3\), got \(1, 2\)"),
        ({"probability": np.ones((1, 3, 3))}, r"probability must have shape \(1, 2, 3\), got \(1, 3, 3\)"),
        (
            {"probabilities": np.ones((1, 2, 3))},
            "probabilities is not a signal of this job",
        ),
        ({"values": np.ones((1, 2, 4))}, r"values must have shape \(1, 2, 5\), got \(1, 2, 4\)"),
        ({"values": np.full((1, 2, 5), 1.5)}, r"similarity must lie in \[-1, 1\], got 1.5 at \[0, 0\]"),
        ({"values": np.ones((1, 2, 5)), "loss": ROWS}, "values must stand alone, got loss beside it"),
    ],
)
def test_what_does_not_fit_the_signals_of_the_job_is_refused(send: Send, signals: dict[str, Any], reason: str) -> None:
    feedback = send(Feedback, {"step": np.array([7]), **signals})
    with pytest.raises(ValueError, match=reason):
        feedback.measurements(SIGNALS, share=2)


@both
def test_signals_come_by_name_or_all_in_one_array_and_nan_is_what_is_not_known(send: Send) -> None:
    by_name = send(Feedback, {key: FEEDBACK[key] for key in ("step", "loss", "probability")}).measurements(SIGNALS, 2)
    expected = np.array([[[np.nan, 2.0, 0.5, 0.5, 0.5], [np.nan, np.nan, 0.5, 0.5, 0.5]]], np.float32)
    np.testing.assert_array_equal(by_name, expected)
    dense = send(Feedback, {"step": np.array([7]), "values": expected}).measurements(SIGNALS, 2)
    np.testing.assert_array_equal(dense, expected)


def test_rows_of_unequal_length_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="rows of unequal length"):
        over_json(Feedback, {**FEEDBACK, "loss": [[0.5], [0.5, 0.5]]})


@pytest.mark.parametrize("value", [2**70, -(2**70), None, "1", [1]])
def test_what_is_no_number_or_too_large_for_one_is_refused(value: object) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"step\n.* must"):
        over_json(Feedback, {**FEEDBACK, "step": [value]})


@both
@pytest.mark.parametrize("value", [1.0005, -1.0005])
def test_half_precision_may_round_a_little_out_of_the_range(send: Send, value: float) -> None:
    rows = np.array([[value, 0.5]], np.float32)
    values = send(Feedback, {**FEEDBACK, "similarity": rows}).measurements(SIGNALS, 2)
    assert SIGNALS.of("similarity", values).tolist() == rows.tolist()


@both
def test_numbers_of_another_width_are_converted(send: Send) -> None:
    narrow = {"step": np.array([7], np.uint8), "similarity": ROWS.astype(np.float16), "loss": np.array([[1, 2]])}
    feedback = send(Feedback, narrow).model_dump(exclude_none=True)
    assert {name: array.dtype for name, array in feedback.items()} == {
        "step": np.int64,
        "similarity": np.float32,
        "loss": np.float32,
    }


@both
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "../etc"),
        ("name", "a" * 101),
        ("name", "job\n"),
        ("name", 5),
        ("samples", 0),
        ("samples", -1),
        ("samples", 10.5),
        ("samples", "10"),
        ("samples", 2**40),
        ("modalities", []),
        ("modalities", ["audio", "audio"]),
        ("modalities", ["audio", ""]),
        ("modalities", "audio"),
        ("modalities", ["audio", "joint"]),
        ("batch_size", 0),
        ("batch_size", 11),
        ("seed", -1),
        ("seed", 2**63),
        ("policy", "uniform"),
        ("policy", {"name": ""}),
        ("interval", 0),
        ("lag", -1),
        ("tail", "keep"),
        ("horizon", 0),
        ("patience", -1.0),
        ("patience", 4000.0),
        ("unimodal_heads", 1),
        ("signals", []),
        ("signals", ["entropy"]),
        ("signals", ["loss", "loss"]),
        ("signals", [{"name": "loss", "meaning": "another"}]),
        ("signals", [{"name": "a b", "meaning": "no name"}]),
        ("signals", [{"name": "values", "meaning": "a name that messages use"}]),
        ("signals", [{"name": "entropy", "meaning": ""}]),
        ("signals", [{"name": "entropy", "meaning": "of the output", "low": 1.0, "high": 0.0}]),
        ("signals", [{"name": "entropy", "meaning": "of the output", "kept": "latest"}]),
        ("reward", {"metric": "f1"}),
        ("reward", {"balance_weight": -1.0}),
        ("reward", {"discount": 1.5}),
    ],
)
def test_a_wrong_spec_is_refused_by_field(send: Send, field: str, value: object) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        send(JobSpec, {**SPEC, field: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_spec_holds_finite_numbers(value: float) -> None:
    for name, kind, fields in [
        ("patience", JobSpec, SPEC),
        ("balance_weight", RewardSpec, {}),
        ("loss", ValidationReport, REPORT),
    ]:
        with pytest.raises(pydantic.ValidationError, match=name):
            over_json(kind, {**fields, name: value})


@both
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mass": np.ones(3, np.float32)}, "must have the same length, at most 262144, got"),
        ({"mass": np.array([-1, 1], np.float32)}, "mass"),
        ({"label": np.array([-1, 1])}, "label"),
        ({"predicted": np.array([0, 2**24])}, "predicted"),
    ],
)
def test_a_confusion_matrix_that_is_none_is_refused(send: Send, change: dict[str, Any], named: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=named):
        send(validation.Confusion, {**CONFUSION, **change})


@both
@pytest.mark.parametrize("loss", [1e300, -1e300])
def test_a_validation_loss_beyond_float32_is_refused(send: Send, loss: float) -> None:
    """Else the difference of two of them could be infinite, and no reward could be told from it."""
    with pytest.raises(pydantic.ValidationError, match="loss"):
        send(ValidationReport, {**REPORT, "loss": loss})


@both
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rank": 2}, "rank must be less than world_size = 2, got 2"),
        ({"rank": -1}, "rank"),
        ({"world_size": 0}, "world_size"),
        ({"start": -1}, "start"),
        ({"start": 2**31}, "start"),
        ({"count": 0}, "count"),
        ({"count": 4097}, "count"),
    ],
)
def test_a_wrong_request_for_steps_is_refused_by_field(send: Send, changes: dict[str, int], named: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=named):
        send(StepsRequest, {**MESSAGES[StepsRequest], **changes})


@both
@pytest.mark.parametrize("field", ["similarity", "loss", "probability"])
def test_scores_need_a_row_for_each_index(send: Send, field: str) -> None:
    scores = send(Scores, {**SCORES, field: SCORES[field][:1]})
    with pytest.raises(ValueError, match=rf"{field} must have shape \(2, ?3?\), got \(1, ?3?\)"):
        scores.measurements(SIGNALS)


@both
def test_a_negative_sample_is_refused(send: Send) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"indices\n.*got -3 at \[0\]"):
        send(Scores, {**SCORES, "indices": np.array([-3, 1])})


def test_an_observation_is_shown_by_name_in_json_and_read_back() -> None:
    decision = decisions.Decision(**{**DECISION, "observation": dict.fromkeys(FIELDS, 0.5)})
    shown = json.loads(decision.model_dump_json())
    assert shown["observation"] == dict.fromkeys(FIELDS, 0.5)
    assert_same(decisions.Decision(**shown), decision)


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (dict.fromkeys(FIELDS[1:], 0.5), f"is of another schema: it lacks {FIELDS[0]}"),
        (dict.fromkeys([*FIELDS, "more"], 0.5), "is of another schema"),
        ([0.5] * 3, rf"must hold {len(FIELDS)} numbers, got 3"),
        ([2.0] * len(FIELDS), r"must lie in \[-1, 1\], got 2.0"),
    ],
)
def test_an_observation_of_another_schema_is_refused(observation: object, reason: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=reason):
        decisions.Decision(**{**DECISION, "observation": observation})
