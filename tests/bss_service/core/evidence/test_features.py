"""What is read of samples and runs: small worlds in which it can be told by hand."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bss_service.core.arrays import Floats, Int64
from bss_service.core.evidence.features import FIELDS, LIMIT, MODALITY_FIELDS, features
from bss_service.core.samples.table import SampleTable
from bss_service.core.signals import EVIDENCE, Signals
from bss_service.protocol.validation import ModalityReport, ValidationReport

SIGNALS = Signals(EVIDENCE, 3)  # two unimodal heads and the joint one


@dataclass(frozen=True)
class Matrix:
    label: Int64
    predicted: Int64
    mass: Floats

    @classmethod
    def of(cls, rows: list[list[float]]) -> "Matrix":
        dense = np.array(rows)
        return cls(*np.nonzero(dense), dense[np.nonzero(dense)])


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def table(samples: int = 6, **columns: Any) -> SampleTable:
    """Samples of classes 0 and 1 in turn, all alike but for what is given of each; all visited once."""
    alike = {
        "similarity": 0.5,
        "loss": 1.0,
        "probability": [0.6, 0.4, 0.5],
        "summed_probability": 0.5,
        "margin": 1.0,
        "other_probability": [0.3, 0.2, 0.25],
        "summed_other_probability": 0.2,
        "predicted_class": [0, 0, 0],
        "label": np.arange(samples) % 2,
        "other_class": 1 - np.arange(samples) % 2,
    } | columns
    made = SampleTable.empty(samples, SIGNALS)
    shapes = {name: (samples, *SIGNALS.shape(name)) for name in alike}
    arrays = {name: np.asarray(value, np.float32) for name, value in alike.items()}
    arrays = {name: np.broadcast_to(a if a.shape else a[None], shapes[name]) for name, a in arrays.items()}
    made.measure(np.arange(samples), np.zeros(samples, np.int64), SIGNALS.joined(arrays, (samples,)))
    return made


def read(made: SampleTable, *names: str, confusion: Matrix | None = None, accuracy: float | None = None) -> list[Any]:
    """Features by name, (k,) each."""
    heads = {
        "audio": ModalityReport(accuracy=0.7, probability=0.5),
        "video": ModalityReport(accuracy=0.4, probability=0.3),
    }
    report = ValidationReport(step=1, loss=1.0, accuracy=accuracy or 0.0, modalities=heads)
    values = features(made, [] if accuracy is None else [report], confusion).of_sample
    return [values[:, FIELDS.index(name)] for name in names]


def test_a_samples_own_numbers_are_its_features() -> None:
    [last, strong, weak, joint, lead, gap, joint_lead] = read(
        table(),
        "last_probability",
        "strongest_probability",
        "weakest_probability",
        "joint_probability",
        "lead",
        "head_gap",
        "joint_lead",
    )
    assert last == pytest.approx(logit(0.5) / 3, abs=1e-3)
    assert strong == pytest.approx(logit(0.6) / 3, abs=1e-3)
    assert weak == pytest.approx(logit(0.4) / 3, abs=1e-3)
    assert joint == pytest.approx(0, abs=1e-3)
    assert lead == pytest.approx(0.5 - 0.2, abs=3e-3)
    assert gap == pytest.approx(0.2, abs=1e-3)
    assert joint_lead == pytest.approx(-0.1, abs=1e-3)


def test_which_head_is_strong_is_of_the_run_not_of_the_sample() -> None:
    heads = np.tile([0.9, 0.2, 0.5], (6, 1))
    heads[0] = [0.1, 0.3, 0.5]
    [strong, rival] = read(table(probability=heads), "strongest_probability", "rival_strongest")
    assert strong[0] == pytest.approx(logit(0.1) / 3, abs=1e-2)
    assert strong[1] == pytest.approx(logit(0.9) / 3, abs=1e-2)
    assert rival == pytest.approx(0.3, abs=3e-3)


def test_ranks_are_among_all_and_among_those_of_the_label() -> None:
    [rank, class_rank] = read(table(summed_probability=[0.1, 0.2, 0.3, 0.4, 0.6, 0.5]), "rank", "class_rank")
    assert rank.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 1.0, 0.8])
    assert class_rank.tolist() == [0, 0, 0.5, 0.5, 1, 1]  # class 0: samples 0, 2, 4


def test_agreement_of_the_heads_is_told_apart_from_agreement_with_the_label() -> None:
    predicted = np.array([[0, 0, 9], [0, 0, 9], [1, 1, 9], [0, 1, 9], [0, 0, 9], [1, 1, 9]])  # labels: 0, 1, 0, 1, 0, 1
    against, right, share, ratio = read(
        table(predicted_class=predicted), "agree_against", "agree_with", "share_against", "against_of_disputed"
    )
    assert against.tolist() == [0, 1, 1, 0, 0, 0]
    assert right.tolist() == [1, 0, 0, 0, 1, 1]
    assert share == pytest.approx(2 / 6)
    assert ratio == pytest.approx(2 / 3)


def test_one_class_that_looks_like_another_and_not_the_other_way_round_is_asymmetric() -> None:
    rival = np.array([0.9, 0.1, 0.9, 0.1, 0.9, 0.1])
    [asymmetry] = read(table(summed_other_probability=rival), "asymmetry")
    expected = np.log((3 * 0.9 + 1) / (3 * 0.1 + 1))
    assert asymmetry.tolist() == pytest.approx([expected, -expected] * 3, abs=5e-3)


def test_excess_is_what_validation_does_not_show() -> None:
    """Half of class 0 looks like class 1 in training; of twenty validation samples of it one tenth does."""
    rival = np.array([0.5, 0.2, 0.5, 0.2, 0.5, 0.2])
    shown = Matrix.of([[18.0, 2.0], [4.0, 16.0]])
    [excess, known] = read(table(summed_other_probability=rival), "excess", "knows_confusion", confusion=shown)
    average = np.array([18 + 4, 2 + 16]) / 40
    of_zero = np.log((0.5 + 0.02) / ((2 + average[1]) / 21 + 0.02))
    of_one = np.log((0.2 + 0.02) / ((4 + average[0]) / 21 + 0.02))
    assert excess.tolist() == pytest.approx([of_zero, of_one] * 3, abs=5e-3)
    assert known.tolist() == [1] * 6
    [without, known] = read(table(summed_other_probability=rival), "excess", "knows_confusion")
    assert not without.any()
    assert not known.any()


def test_a_class_is_set_beside_how_validation_samples_of_it_are_recognised() -> None:
    """Four of class 0, two of class 1; eighteen of twenty are recognised in validation, and sixteen of twenty."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    made = table(label=labels, summed_probability=[0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
    shown = Matrix.of([[18.0, 2.0], [4.0, 16.0]])
    size, own, excess = read(made, "class_size", "class_probability", "class_excess", confusion=shown)
    assert size == pytest.approx(np.log(np.array([4, 2])[labels] * 2 / 6) / 2)
    assert own == pytest.approx(np.array([0.25, 0.7])[labels], abs=1e-3)
    recognised = (np.array([18, 16]) + 2 * 34 / 40) / 22
    assert excess == pytest.approx((recognised - [0.25, 0.7])[labels], abs=1e-3)
    [without] = read(made, "class_excess")
    assert not without.any()


def test_what_was_learnt_is_set_beside_what_held_over_the_whole_run() -> None:
    """Validation accuracies 0.3, 0.8, 0.6, the first before anything was learnt; at two of four visits all are hit."""
    reports = [ValidationReport(step=k, loss=1.0, accuracy=a, modalities={}) for k, a in enumerate([0.3, 0.8, 0.6])]
    made = table(margin=-1.0)
    for step, margin in enumerate([1.0, 1.0, -1.0], start=1):
        values = {signal.name: np.full((6, *SIGNALS.shape(signal.name)), margin, np.float32) for signal in EVIDENCE}
        made.measure(np.arange(6), np.full(6, step), SIGNALS.joined(values, (6,)))
    columns = features(made, reports, None).of_sample
    of = {name: columns[0, k] for k, name in enumerate(FIELDS)}
    assert of["mean_generalisation"] == pytest.approx(0.7 - 0.5)
    assert of["fall"] == pytest.approx(0.2)


def test_a_run_tells_how_far_its_probabilities_spread() -> None:
    [spread] = read(table(summed_probability=[0.25, 0.75] * 3), "spread")
    assert spread.tolist() == pytest.approx([0.25] * 6, abs=1e-3)


def test_many_classes_are_read_as_few_are() -> None:
    few, confusion = table(), Matrix.of([[18.0, 2.0], [4.0, 16.0]])
    far = 90_000  # the second class
    many = table(label=np.arange(6) % 2 * far, other_class=(1 - np.arange(6) % 2) * far)
    spread = Matrix(confusion.label * far, confusion.predicted * far, confusion.mass)
    for name in ("asymmetry", "excess", "class_excess", "class_rank", "classes"):
        [expected], [got] = read(few, name, confusion=confusion), read(many, name, confusion=spread)
        np.testing.assert_allclose(got, expected)


def test_a_class_that_validation_never_saw_is_taken_for_an_average_one() -> None:
    [excess] = read(table(), "excess", confusion=Matrix.of([[0.0, 10.0], [0.0, 0.0]]))
    assert excess[1] == pytest.approx(np.log((0.2 + 0.02) / (0 + 0.02)), abs=2e-2)


def test_reports_tell_of_the_run() -> None:
    margins = [1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    training, validation, gap, strong, weak = read(
        table(margin=margins),
        "training_accuracy",
        "validation_accuracy",
        "generalisation",
        "validation_strongest",
        "validation_weakest",
        accuracy=0.8,
    )
    assert training == pytest.approx(5 / 6)
    assert validation == pytest.approx(0.8)
    assert gap == pytest.approx(0.8 - 5 / 6)
    assert (strong[0], weak[0]) == (pytest.approx(0.7), pytest.approx(0.4))


def test_only_visited_samples_have_features() -> None:
    made = SampleTable.empty(10, SIGNALS)
    nothing = features(made, [], None)
    assert nothing.of_sample.shape == (0, len(FIELDS))
    assert nothing.of_modality.shape == (0, 2, len(MODALITY_FIELDS))
    made.measure(np.array([7, 2]), np.zeros(2, np.int64), SIGNALS.joined(_one(), (2,)))
    read_of = features(made, [], None)
    assert read_of.visited.tolist() == [2, 7]
    assert read_of.of_sample.shape == (2, len(FIELDS))


def _one() -> dict[str, np.ndarray]:
    return {signal.name: np.full((2, *SIGNALS.shape(signal.name)), 1.0, np.float32) for signal in EVIDENCE}


def test_nothing_is_beyond_the_limit_or_unknown() -> None:
    rng = np.random.default_rng(0)
    made = table(200, margin=rng.standard_cauchy(200) * 1e4, summed_probability=rng.random(200) ** 20)
    made.latest["similarity"][3] = np.nan
    made_of = features(made, [], None)
    for values in (made_of.of_sample, made_of.of_modality):
        assert np.isfinite(values).all()
        assert np.abs(values).max() <= LIMIT


def test_the_same_samples_in_another_order_have_the_same_features() -> None:
    rng = np.random.default_rng(1)
    columns = {
        "summed_probability": rng.random(50),
        "margin": rng.standard_normal(50),
        "probability": rng.random((50, 3)),
        "summed_other_probability": rng.random(50),
        "label": rng.integers(5, size=50),
        "other_class": rng.integers(5, 9, size=50),
    }
    order = rng.permutation(50)
    values = features(table(50, **columns), [], None)
    moved = features(table(50, **{name: column[order] for name, column in columns.items()}), [], None)
    np.testing.assert_allclose(moved.of_sample, values.of_sample[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moved.of_modality, values.of_modality[order], rtol=1e-5, atol=1e-6)


def test_each_head_is_seen_beside_the_others() -> None:
    """Labels 0, 1, …: the first head predicts class 0 everywhere, the second the label."""
    predicted = np.stack([np.zeros(6), np.arange(6) % 2, np.zeros(6)], axis=1)
    seen = features(table(predicted_class=predicted), [], None).of_modality
    of = {name: seen[:, :, k] for k, name in enumerate(MODALITY_FIELDS)}
    assert of["probability"][0].tolist() == pytest.approx([logit(0.6) / 3, logit(0.4) / 3], abs=1e-3)
    assert of["rival_probability"][0].tolist() == pytest.approx([0.3, 0.2], abs=3e-3)
    assert of["lead"][0].tolist() == pytest.approx([0.2, -0.2], abs=1e-3)
    assert of["predicts_label"].T.tolist() == [[1, 0] * 3, [1] * 6]
    assert of["predicts_rival"].T.tolist() == [[0, 1] * 3, [0] * 6]
    assert of["differs"].T.tolist() == 2 * [[0, 1] * 3]
    assert of["strength"][0].tolist() == pytest.approx([0.1, -0.1], abs=1e-3)
    assert of["heads"] == pytest.approx(np.log(2))


def test_without_unimodal_heads_the_joint_head_stands_for_them() -> None:
    signals = Signals([signal for signal in EVIDENCE if signal.name != "similarity"], 1)
    made = SampleTable.empty(2, signals)
    values = {signal.name: np.full((2, *signals.shape(signal.name)), 0.0, np.float32) for signal in signals}
    values["probability"][:] = 0.9
    made.measure(np.arange(2), np.zeros(2, np.int64), signals.joined(values, (2,)))
    seen = features(made, [], None)
    assert seen.of_modality.shape == (2, 0, len(MODALITY_FIELDS))
    assert seen.of_sample[:, FIELDS.index("strongest_probability")] == pytest.approx(logit(0.9) / 3, abs=1e-2)
    assert seen.of_sample[:, FIELDS.index("similarity")] == pytest.approx(0)
