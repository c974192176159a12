"""Networks small enough to be reckoned by hand, on features that are written down."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bss_service.core.evidence import posterior
from bss_service.core.evidence.features import FIELDS, MODALITY_FIELDS, Features
from bss_service.core.evidence.posterior import Judge

BOTH = len(FIELDS) + len(MODALITY_FIELDS)


def layer(inputs: int, outputs: int, **weights: float) -> tuple[np.ndarray, np.ndarray]:
    """A layer of zeros but for what is given as w_OUTPUT_INPUT and b_OUTPUT."""
    weight, bias = np.zeros((outputs, inputs)), np.zeros(outputs)
    for name, value in weights.items():
        kind, *place = name.split("_")
        (weight if kind == "w" else bias)[tuple(map(int, place))] = value
    return weight, bias


def seen(samples: list[int], first: list[float], of_modality: Any = None) -> Features:
    """Visited samples whose first feature is given; all others are 0."""
    of_sample = np.zeros((len(samples), len(FIELDS)), np.float32)
    of_sample[:, 0] = first
    modality = np.zeros((len(samples), 2, len(MODALITY_FIELDS)), np.float32)
    if of_modality is not None:
        modality[:, :, 0] = of_modality
    return Features(np.array(samples), of_sample, modality)


def test_the_label_and_its_rival_share_a_softmax() -> None:
    judge = Judge([layer(len(FIELDS), 3, w_0_0=1.0, b_1=np.log(2))], [layer(BOTH, 1)])
    evidence = judge.judge(4, seen([1, 3], [0.0, np.log(3)]))
    assert np.isnan(evidence.right[[0, 2]]).all()
    assert evidence.right[[1, 3]].tolist() == pytest.approx([1 / 4, 3 / 6])
    assert evidence.rival[[1, 3]].tolist() == pytest.approx([2 / 4, 2 / 6])
    assert evidence.wrong_modality[[1, 3]].tolist() == [[0.5, 0.5]] * 2


def test_each_modality_is_judged_by_its_own_features_beside_the_samples() -> None:
    modality = [layer(BOTH, 1, **{"w_0_0": 1.0, f"w_0_{len(FIELDS)}": 2.0})]
    judge = Judge([layer(len(FIELDS), 3)], modality)
    evidence = judge.judge(1, seen([0], [1.0], [[0.5, -1.5]]))
    assert evidence.wrong_modality[0].tolist() == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))])


def test_there_is_a_tanh_between_layers() -> None:
    label = [layer(len(FIELDS), 1, w_0_0=2.0), layer(1, 3, w_0_0=1.0)]
    evidence = Judge(label, [layer(BOTH, 1)]).judge(1, seen([0], [0.7]))
    weight = np.exp(np.tanh(1.4))
    assert evidence.right[0] == pytest.approx(weight / (weight + 2))


def test_logits_far_out_are_certainties() -> None:
    judge = Judge([layer(len(FIELDS), 3, w_0_0=1e4)], [layer(BOTH, 1, w_0_0=1e4)])
    evidence = judge.judge(2, seen([0, 1], [4.0, -4.0]))
    assert evidence.right.tolist() == [1.0, 0.0]
    assert evidence.wrong_modality.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_how_many_are_judged_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    widths = [len(FIELDS), 8, 8, 3]
    label = [(rng.normal(size=(b, a)), rng.normal(size=b)) for a, b in pairwise(widths)]
    features = Features(
        np.arange(100),
        rng.normal(size=(100, len(FIELDS))).astype(np.float32),
        rng.normal(size=(100, 2, len(MODALITY_FIELDS))).astype(np.float32),
    )
    judge = Judge(label, [(rng.normal(size=(1, BOTH)), rng.normal(size=1))])
    whole = judge.judge(100, features)
    monkeypatch.setattr(posterior, "ROWS", 7)
    parts = judge.judge(100, features)
    np.testing.assert_allclose(parts.right, whole.right, rtol=1e-6)
    np.testing.assert_allclose(parts.wrong_modality, whole.wrong_modality, rtol=1e-6)


@pytest.mark.parametrize(
    ("label", "modality", "sentence"),
    [
        ([], [layer(BOTH, 1)], "label must have 3 outputs, got no layer"),
        ([layer(len(FIELDS), 2)], [layer(BOTH, 1)], "label must have 3 outputs, got 2"),
        ([layer(5, 3)], [layer(BOTH, 1)], rf"label must continue {len(FIELDS)} inputs, got a weight \(3, 5\)"),
        ([layer(len(FIELDS), 3)], [layer(BOTH, 4), layer(3, 1)], "modality must continue 4 inputs"),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_name(label: Any, modality: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Judge(label, modality)
