"""The formulas for NumPy arrays and torch tensors, against loops over Python floats and against the published code."""

import math
from itertools import combinations
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bss_service.core import measurement as measure
from bss_service.core.samples.scores import balance_score
from bss_service.core.sampling import normalised
from tests.conftest import Golden

both = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


@st.composite
def logits(draw: st.DrawFn) -> np.ndarray:
    """(M, G, c) for M of 2 to 4."""
    shape = (draw(st.integers(2, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 6)))
    return draw(arrays(np.float64, shape, elements=st.floats(-30, 30)))


def of(xp: ModuleType, array: np.ndarray) -> Any:
    return array if xp is np else torch.from_numpy(array)


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(v) for v in row]
    return [e / math.fsum(exponentials) for e in exponentials]


def cosine(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@both
@given(logits())
def test_similarity_is_the_mean_cosine_over_pairs_of_modalities(xp: ModuleType, values: np.ndarray) -> None:
    similarity = measure.similarity(xp.exp(measure.log_softmax(of(xp, values), xp)), xp)
    for sample, value in enumerate(np.asarray(similarity)):
        heads = [softmax(row) for row in values[:, sample].tolist()]
        cosines = [cosine(a, b) for a, b in combinations(heads, 2)]
        assert value == pytest.approx(math.fsum(cosines) / len(cosines), abs=1e-9)


@both
@given(logits(), st.floats(0, 1), st.floats(0, 1), st.data())
def test_the_loss_weighs_the_cross_entropies(
    xp: ModuleType, values: np.ndarray, joint_weight: float, unimodal_weight: float, data: st.DataObject
) -> None:
    labels = data.draw(arrays(np.int64, values.shape[1], elements=st.integers(0, values.shape[2] - 1)))
    logs = measure.log_softmax(of(xp, values), xp)
    loss = measure.multimodal_loss(
        logs[0], logs[1:], of(xp, labels), xp, joint_weight=joint_weight, unimodal_weight=unimodal_weight
    )
    for sample, value in enumerate(np.asarray(loss)):
        entropies = [-math.log(softmax(row)[labels[sample]]) for row in values[:, sample].tolist()]
        expected = joint_weight * entropies[0] + unimodal_weight * math.fsum(entropies[1:])
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)


@both
def test_heads_that_agree_have_similarity_1_and_heads_that_contradict_have_0(xp: ModuleType) -> None:
    first, second = [1.0, 0.0], [0.0, 1.0]
    heads = of(xp, np.array([[first, first], [first, second]]))
    assert measure.similarity(heads, xp).tolist() == [1.0, 0.0]


@both
def test_huge_logits_neither_overflow_nor_lose_the_answer(xp: ModuleType) -> None:
    logs = measure.log_softmax(of(xp, np.array([[1e38, -1e38, 0.0]], dtype=np.float32)), xp)
    assert np.exp(np.asarray(logs)).tolist() == [[1.0, 0.0, 0.0]]


@both
def test_a_single_class_is_always_right_and_always_agreed_on(xp: ModuleType) -> None:
    logs = measure.log_softmax(of(xp, np.array([[[5.0]], [[-2.0]]])), xp)
    labels = of(xp, np.array([0]))
    loss = measure.multimodal_loss(logs[0], logs, labels, xp, joint_weight=1, unimodal_weight=1)
    assert (measure.similarity(xp.exp(logs), xp).tolist(), loss.tolist()) == ([1.0], [0.0])


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_sample_does_not_touch_the_others(xp: ModuleType, bad: float) -> None:
    values = np.array([[[bad, bad], [1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]])
    with np.errstate(invalid="ignore"):
        similarity = measure.similarity(xp.exp(measure.log_softmax(of(xp, values), xp)), xp)
    assert np.isnan(np.asarray(similarity)).tolist() == [True, False]


@both
def test_the_value_at_the_label_is_picked_for_any_leading_axes(xp: ModuleType) -> None:
    values = of(xp, np.arange(12.0).reshape(2, 2, 3))
    assert measure.true_label(values, of(xp, np.array([2, 0])), xp).tolist() == [[2.0, 3.0], [8.0, 9.0]]


@both
@given(arrays(np.int64, st.integers(0, 6)), st.integers(1, 9), st.integers(-9, 9))
def test_labels_can_be_looked_up_at_and_say_which_mean_nothing(
    xp: ModuleType, labels: np.ndarray, classes: int, ignore_index: int
) -> None:
    usable, is_ignored, is_outside = measure.usable_labels(of(xp, labels), classes, ignore_index, xp)
    expected = [min(max(label, 0), classes - 1) for label in labels.tolist()]
    assert usable.tolist() == expected
    assert is_ignored.tolist() == [label == ignore_index for label in labels.tolist()]
    assert is_outside.tolist() == [not 0 <= label < classes for label in labels.tolist()]


def golden_scores(xp: ModuleType, golden: Golden) -> np.ndarray:
    unimodal = measure.log_softmax(of(xp, golden.unimodal), xp)
    loss = measure.multimodal_loss(
        measure.log_softmax(of(xp, golden.joint), xp),
        unimodal,
        of(xp, golden.labels),
        xp,
        joint_weight=golden.joint_weight,
        unimodal_weight=golden.unimodal_weight,
    )
    similarity = measure.similarity(xp.exp(unimodal), xp)
    return balance_score(np.asarray(similarity), np.asarray(loss))


@both
def test_sampling_probabilities_are_those_of_the_published_code(xp: ModuleType, golden: Golden) -> None:
    weights = np.log(1 + golden_scores(xp, golden) + 0.01)
    np.testing.assert_allclose(normalised(weights), golden.probabilities, rtol=1e-5)


@both
def test_the_ranking_is_that_of_the_published_code(xp: ModuleType, golden: Golden) -> None:
    assert np.argsort(-golden_scores(xp, golden), kind="stable").tolist() == golden.order.tolist()
