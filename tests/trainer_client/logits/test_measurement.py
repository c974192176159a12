"""What is measured of a step's logits."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bss_service.core import measurement as formulas
from bss_service.core.signals import BUILT_IN, PAPER, Signal, Signals
from tests.support.simulated import spec
from trainer_client import (
    LabelError,
    ScheduledBatchSampler,
    SchedulerClient,
    measure,
    multimodal_loss,
)
from trainer_client.exchange.transfer import packed
from trainer_client.logits import measurement as module

Batch = tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]
CE = torch.nn.functional.cross_entropy
LOGITS = torch.arange(40.0).sin().reshape(8, 5)
LABELS = torch.arange(8) % 5
both = pytest.mark.parametrize("function", [measure, multimodal_loss], ids=["measure", "multimodal_loss"])


@pytest.fixture
def logits() -> Batch:
    generator = torch.Generator().manual_seed(0)
    unimodal = [torch.randn(16, 5, generator=generator) for _ in range(3)]
    return unimodal, torch.randn(16, 5, generator=generator), torch.randint(5, (16,), generator=generator)


def test_torch_measures_what_numpy_measures(logits: Batch) -> None:
    unimodal, joint, labels = logits
    measured = measure(unimodal, joint, labels, unimodal_weight=0.3)
    log_p = formulas.log_softmax(np.stack([x.numpy() for x in unimodal]), np)
    np.testing.assert_allclose(measured["similarity"], formulas.similarity(np.exp(log_p), np), rtol=1e-5)
    expected = 0.7 * torch.nn.functional.cross_entropy(joint, labels, reduction="none")
    expected += 0.3 * sum(torch.nn.functional.cross_entropy(x, labels, reduction="none") for x in unimodal)
    torch.testing.assert_close(measured["loss"], expected)
    rows = torch.arange(16)
    heads = torch.stack([torch.softmax(x, 1)[rows, labels] for x in [*unimodal, joint]], dim=1)
    torch.testing.assert_close(measured["probability"], heads)


def test_heads_are_summed_and_the_rival_is_the_likeliest_other_class() -> None:
    """By hand: two heads and three classes; the label is the likeliest of the first sample, and not of the second."""
    unimodal = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    joint = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    measured = measure([unimodal], joint, torch.tensor([0, 2]))
    summed = torch.softmax(torch.tensor([[3.0, 0.0, 2.0], [1.0, 4.0, 1.0]]), 1)
    expected = {
        "label": [0, 2],
        "margin": [3 - 2, 1 - 4],
        "other_class": [2, 1],
        "summed_probability": [summed[0, 0], summed[1, 2]],
        "summed_other_probability": [summed[0, 2], summed[1, 1]],
        "predicted_class": [[0, 0], [1, 0]],
        "other_probability": torch.stack([torch.softmax(x, 1)[[0, 1], [2, 1]] for x in (unimodal, joint)], 1).tolist(),
    }
    for name, values in expected.items():
        torch.testing.assert_close(measured[name], torch.tensor(values, dtype=torch.float32), rtol=1e-5, atol=1e-5)


def test_what_a_job_does_not_declare_is_not_computed(logits: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    unimodal, joint, labels = logits
    asked: list[int] = []
    monkeypatch.setattr(formulas, "label_and_rival", lambda *_: asked.append(1) or pytest.fail("computed"))
    measured = measure(unimodal, joint, labels)
    own = measured | {"own": joint[:, 0]}
    assert packed(own, Signals([*PAPER, Signal("own", "a number")], heads=4), 16).read().shape == (16, 7)
    assert asked == []


def test_what_is_computed_later_is_of_the_batch_as_it_was(logits: Batch) -> None:
    unimodal, joint, labels = logits
    expected = dict(measure(unimodal, joint, labels))
    later = measure(unimodal, joint, labels)
    labels.add_(1).remainder_(5)
    joint.zero_()
    for name, values in expected.items():
        torch.testing.assert_close(later[name], values, rtol=0, atol=0)


def test_a_class_that_is_masked_out_is_a_rival_all_the_same() -> None:
    logits = torch.tensor([[1.0, -torch.inf], [-torch.inf, 1.0]])
    measured = measure([logits], logits, torch.tensor([0, 0]))
    assert measured["other_class"].tolist() == [1, 1]
    assert measured["summed_probability"].tolist() == [1.0, 0.0]
    assert torch.isfinite(measured["margin"]).all()


def test_a_hundred_thousand_classes_need_no_square_of_them() -> None:
    logits = torch.zeros(4, 100_000)
    logits[range(4), [5, 99_999, 70_000, 1]] = 3.0
    measured = measure([logits, logits], logits, torch.tensor([5, 0, 1, 1]))
    assert measured["other_class"][1:3].tolist() == [99_999, 70_000]
    assert measured["predicted_class"][:, 0].tolist() == [5, 99_999, 70_000, 1]
    assert (measured["margin"] > 0).tolist() == [True, False, False, True]


def test_the_loss_that_is_trained_is_the_loss_that_is_measured(
    logits: Batch,
) -> None:
    unimodal, joint, labels = logits
    torch.testing.assert_close(multimodal_loss(unimodal, joint, labels), measure(unimodal, joint, labels)["loss"])


def test_measuring_leaves_no_graph_behind(logits: Batch) -> None:
    unimodal, joint, labels = logits
    joint.requires_grad_(True)
    assert not measure(unimodal, joint, labels)["loss"].requires_grad
    assert multimodal_loss(unimodal, joint, labels).requires_grad


def test_half_precision_logits_are_measured_in_single_precision(
    logits: Batch,
) -> None:
    unimodal, joint, labels = logits
    assert measure([x.bfloat16() for x in unimodal], joint.bfloat16(), labels)["loss"].dtype == torch.float32


def test_one_unimodal_head_has_nothing_to_be_similar_to(
    logits: Batch,
) -> None:
    unimodal, joint, labels = logits
    measured = measure(unimodal[:1], joint, labels)
    assert "similarity" not in measured
    assert measured["probability"].shape == (16, 2)
    ce = torch.nn.functional.cross_entropy
    expected = 0.5 * ce(joint, labels, reduction="none") + 0.5 * ce(unimodal[0], labels, reduction="none")
    torch.testing.assert_close(measured["loss"], expected)


def test_without_unimodal_heads_the_loss_is_that_of_the_joint_head(
    logits: Batch,
) -> None:
    _, joint, labels = logits
    measured = measure([], joint, labels)
    assert "similarity" not in measured
    assert measured["probability"].shape == (16, 1)
    torch.testing.assert_close(measured["summed_probability"], measured["probability"][:, 0])
    torch.testing.assert_close(measured["loss"], torch.nn.functional.cross_entropy(joint, labels, reduction="none"))


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at labels, as where they lie on a device."""
    monkeypatch.setattr(module, "_is_on_host", lambda labels: False)


def marks(values: torch.Tensor) -> list[bool]:
    return (values.contiguous().view(torch.int32) == module.WRONG_LABEL).tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_labels_of_any_integer_dtype_are_the_same_labels(logits: Batch, dtype: torch.dtype) -> None:
    unimodal, joint, labels = logits
    measured, expected = measure(unimodal, joint, labels.to(dtype)), measure(unimodal, joint, labels)
    for name, values in expected.items():
        torch.testing.assert_close(measured[name], values, rtol=0, atol=0)
    assert torch.equal(multimodal_loss(unimodal, joint, labels.to(dtype)), multimodal_loss(unimodal, joint, labels))


def test_a_label_of_a_small_dtype_is_no_ignore_index_of_a_large_one() -> None:
    joint = torch.zeros(1, 200)
    label = torch.tensor([156], dtype=torch.uint8)  # −100 modulo 256
    assert measure([], joint, label)["loss"].tolist() == pytest.approx([np.log(200)])


@both
@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (LABELS[:, None], r"integers of shape \(8,\), .* got int64 of shape \(8, 1\): labels.squeeze\(1\)$"),
        (LABELS[:, None].float(), r"got float32 of shape \(8, 1\): labels.squeeze\(1\).long\(\)$"),
        (LABELS[:7], r"got int64 of shape \(7,\): give one label for each row"),
        (LABELS[0], r"got int64 of shape \(\): give one label for each row"),
        (LABELS.double(), r"got float64 of shape \(8,\): labels.long\(\), if they are whole numbers"),
        (LABELS > 2, r"got bool of shape \(8,\): labels.long\(\) makes False class 0 and True class 1"),
        ((LOGITS > 0).long(), r"got int64 of shape \(8, 5\): several labels a sample .* labels.int\(\).argmax\(1\)"),
        (LOGITS > 0, r"got bool of shape \(8, 5\): several labels a sample"),
        (LABELS.to(torch.uint16), r"got uint16 of shape \(8,\): labels.long\(\)"),
    ],
)
def test_labels_of_another_form_are_refused_with_what_to_do(function: Any, labels: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"labels must be .*{sentence}"):
        function([LOGITS, LOGITS], LOGITS, labels)


@both
@pytest.mark.parametrize(
    ("unimodal", "joint", "sentence"),
    [
        ([], LOGITS[0], r"joint_logits must have shape \(g, c\), .* got float32 of shape \(5,\).* torch.stack\("),
        ([], LOGITS[:, :1], r"joint_logits must have at least 2 classes, got float32 of shape \(8, 1\).* torch.cat\("),
        ([], LOGITS[:, :0], r"joint_logits must have at least 2 classes, got float32 of shape \(8, 0\)"),
        ([], LOGITS[None], r"joint_logits must have shape \(g, c\), one prediction a sample, got .* \(1, 8, 5\)"),
        ([], LOGITS.long(), r"joint_logits must be floating, .* got int64 of shape \(8, 5\)"),
        ([LOGITS, LOGITS.long()], LOGITS, r"unimodal_logits\[1\] must be floating"),
        (
            [LOGITS, LOGITS[:, :4]],
            LOGITS,
            r"unimodal_logits\[1\] must have the 5 classes of joint_logits, got .* \(8, 4\)",
        ),
        ([LOGITS[:7], LOGITS], LOGITS, r"unimodal_logits\[0\] must have a row for each of the 8 samples .* \(7, 5\)"),
    ],
)
def test_logits_of_another_form_are_refused_with_what_to_do(
    function: Any, unimodal: Any, joint: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        function(unimodal, joint, LABELS)


@both
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            (torch.stack([LOGITS, LOGITS]), LOGITS, LABELS),
            r"unimodal_logits must be a list .* got float32 of shape \(2, 8",
        ),
        (({"a": LOGITS}, LOGITS, LABELS), r"unimodal_logits must be a list of tensors .* got a dict"),
        ((None, LOGITS, LABELS), r"unimodal_logits must be a list of tensors .* or \[\], got None"),
        (([LOGITS.numpy()], LOGITS, LABELS), r"unimodal_logits\[0\] must be one tensor \(g, c\), got a ndarray"),
        (([], [LOGITS], LABELS), r"joint_logits must be one tensor \(g, c\), got a list of 1"),
        (
            ([], LOGITS, LABELS.tolist()),
            r"labels must be a tensor \(g,\), got a list of 8: give torch.as_tensor\(labels\)",
        ),
        (
            ([], LOGITS, LABELS.numpy()),
            r"labels must be a tensor \(g,\), got a ndarray: give torch.as_tensor\(labels\)",
        ),
    ],
)
def test_arguments_of_another_type_are_refused_with_what_to_do(function: Any, arguments: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        function(*arguments)


def test_two_logits_made_of_one_measure_a_binary_head() -> None:
    z = torch.tensor([2.0, -1.0, 0.5])
    measured = measure([], torch.stack([-z / 2, z / 2], 1), torch.tensor([1, 0, 1]))
    torch.testing.assert_close(measured["probability"][:, 0], torch.sigmoid(z * torch.tensor([1, -1, 1])))


@both
@pytest.mark.parametrize("label", [-1, -101, 5, 99])
def test_a_label_out_of_range_is_named_with_its_row(function: Any, label: int) -> None:
    labels = LABELS.clone()
    labels[3] = label
    sentence = f"labels must be 0 to 4, or ignore_index = -100 where a sample has none, got {label} in row 3"
    with pytest.raises(LabelError, match=sentence):
        function([LOGITS, LOGITS], LOGITS, labels)
    assert issubclass(LabelError, ValueError)


@pytest.mark.usefixtures("on_a_device")
@given(
    st.lists(st.integers(-3, 7), min_size=1, max_size=9),
    st.sampled_from([-100, -2, 2, 6]),
    st.sampled_from([torch.int64, torch.int8]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_of_ignored_and_wrong_labels_change_no_other_row(
    labels: list[int], ignore_index: int, dtype: torch.dtype
) -> None:
    y = torch.tensor(labels)
    g = torch.Generator().manual_seed(len(labels))
    unimodal = [torch.randn(len(y), 5, generator=g) for _ in range(2)]
    joint = torch.randn(len(y), 5, generator=g, requires_grad=True)
    ignored = y == ignore_index
    wrong = ~ignored & ((y < 0) | (y >= 5))
    right = ~ignored & ~wrong

    measured = measure(unimodal, joint, y.to(dtype), ignore_index=ignore_index)
    loss = multimodal_loss(unimodal, joint, y.to(dtype), ignore_index=ignore_index)
    only = measure([x[right] for x in unimodal], joint[right], y[right])
    for name in ("loss", "probability"):
        torch.testing.assert_close(measured[name][right], only[name], rtol=1e-6, atol=1e-7)
        assert measured[name][~right].isnan().all()
    assert torch.equal(measured["similarity"], measure(unimodal, joint, torch.zeros_like(y))["similarity"])
    assert marks(measured["loss"]) == wrong.tolist()
    assert marks(measured["probability"]) == wrong[:, None].expand(-1, 3).tolist()

    torch.testing.assert_close(loss[right], only["loss"], rtol=1e-6, atol=1e-7)
    assert (loss[ignored] == 0).all()
    assert loss[wrong].isnan().all()
    (gradient,) = torch.autograd.grad(loss.sum(), joint)
    (expected,) = torch.autograd.grad(0.5 * CE(joint[right], y[right], reduction="sum"), joint)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    assert (gradient[~right] == 0).all()


@pytest.mark.parametrize("ignore_index", [-100, -1, 2])
def test_the_loss_and_its_gradients_are_those_of_torch(logits: Batch, ignore_index: int) -> None:
    unimodal, joint, labels = logits
    heads = [x.clone().requires_grad_() for x in [*unimodal, joint]]
    labels[4] = labels[9] = ignore_index
    loss = multimodal_loss(heads[:-1], heads[-1], labels, unimodal_weight=0.3, ignore_index=ignore_index)
    entropies = [CE(x, labels, reduction="none", ignore_index=ignore_index) for x in heads]
    expected = 0.7 * entropies[-1] + 0.3 * (entropies[0] + entropies[1] + entropies[2])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    weights = torch.linspace(0.5, 2, 16)
    for got, wanted in zip(
        torch.autograd.grad((weights * loss).sum(), heads),
        torch.autograd.grad((weights * expected).sum(), heads),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


def test_samples_without_a_label_have_what_needs_none_and_nothing_else(logits: Batch) -> None:
    unimodal, joint, labels = logits
    labels[3] = -100
    measured = measure(unimodal, joint, labels)
    unknown = [not bool(known) for known in labels != -100]
    for name in ("similarity", "predicted_class"):
        assert measured.pop(name).isfinite().all()
    for name, values in measured.items():
        assert values.reshape(16, -1).isnan().all(dim=1).tolist() == unknown, name
    assert not any(marks(measured["loss"]))


def test_a_batch_of_none_is_measured() -> None:
    measured = measure([LOGITS[:0], LOGITS[:0]], LOGITS[:0], LABELS[:0])
    assert {name for name, values in measured.items() if values.shape == (0, 3)} == {
        name for name, signal in BUILT_IN.items() if signal.per_head
    }
    assert {name for name, values in measured.items() if values.shape == (0,)} == {
        name for name, signal in BUILT_IN.items() if not signal.per_head
    }


@pytest.mark.usefixtures("on_a_device")
def test_a_wrong_label_on_a_device_ends_the_run_with_its_step_and_sample(
    client: SchedulerClient, job_name: str
) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        batches = iter(sampler)
        index, others = next(batches), next(batches)
        labels = LABELS.clone()
        labels[5] = 5
        sampler.feedback(index, measure([LOGITS, LOGITS], LOGITS, labels))
        assert not sampler.flush()
        with pytest.raises(LabelError, match=f"got another in step 0, row 5, sample {index[5]}"):
            sampler.feedback(others, measure([LOGITS, LOGITS], LOGITS, LABELS))
    assert client.job(job_name).steps_fed_back == 0


def test_ignored_labels_are_counted_as_not_measured(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        labels = LABELS.clone()
        labels[5] = -100
        sampler.feedback(next(iter(sampler)), measure([LOGITS, LOGITS], LOGITS, labels))
        assert sampler.flush()
        assert sampler.stats.unmeasured_samples == 1


@pytest.mark.usefixtures("on_a_device")
def test_a_measuring_pass_names_the_row_of_a_wrong_label(client: SchedulerClient, job_name: str) -> None:
    with ScheduledBatchSampler(spec(job_name), client) as sampler:
        measured = measure([LOGITS, LOGITS], LOGITS, LABELS - 1)
        with pytest.raises(LabelError, match="in row 0"):
            sampler.scores(np.arange(8), measured)


@pytest.mark.gpu
@both
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_on_a_gpu_nothing_waits_for_labels(function: Any, where: str) -> None:
    logits, labels = LOGITS.cuda(), LABELS.to(where)
    function([logits, logits], logits, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        function([logits, logits], logits, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_on_a_gpu_a_wrong_label_marks_its_row_alone() -> None:
    labels = LABELS.clone()
    labels[2], labels[5], labels[6] = -1, 5, -100
    logits = LOGITS.cuda()
    measured = measure([logits, logits], logits, labels.cuda())
    expected = measure([LOGITS, LOGITS], LOGITS, LABELS)
    right = [0, 1, 3, 4, 7]
    torch.testing.assert_close(measured["loss"].cpu()[right], expected["loss"][right])
    assert marks(measured["loss"].cpu()) == [row in (2, 5) for row in range(8)]
    assert multimodal_loss([logits], logits, labels.cuda()).isnan().tolist() == [row in (2, 5) for row in range(8)]
