"""Students: their gradients are autograd's, what they measure is core's, and none meets another."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from benchmarks.speed.plain_student import PlainStudent
from bss_service.core import measurement
from bss_service.core.signals import EVIDENCE
from envs.students import JOINT_WEIGHT, UNIMODAL_WEIGHT, Students
from envs.tasks import Lesson
from tests.envs.lessons import lesson_of
from trainer_client import ConfusionMeter, measure

G = 8
UNEQUAL = [lesson_of((7, 5), 3, 40), lesson_of((4, 9), 5, 60, seed=1, rate=0.05), lesson_of((9, 9), 2, 24, seed=2)]
THREE_VIEWS = [lesson_of((7, 5, 2), 3), lesson_of((4, 9, 9), 4, 50, seed=1, rate=0.3)]


def enrolled(
    lessons: Sequence[Lesson], seeds: Sequence[int] | None = None, tested: bool = True, evidence: bool = False
) -> Students:
    """A student for each lesson, whose weights depend on its seed alone."""
    modalities = len(lessons[0].train.modalities)
    students = Students(len(lessons), modalities, 9, 5, G, tested=tested, evidence=evidence)
    for place, lesson in enumerate(lessons):
        students.enrol(place, lesson, np.random.default_rng(seeds[place] if seeds else place))
    return students


def batches_of(lesson: Lesson, steps: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(len(lesson.train.labels), size=(steps, G))


def parameters(student: PlainStudent) -> np.ndarray:
    return np.concatenate([p.detach().numpy().reshape(-1) for p in student.network.parameters()])


def assert_same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert set(one) == set(other) == {"similarity", "loss", "probability"}
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("lessons", [UNEQUAL, THREE_VIEWS], ids=["2 modalities", "3 modalities"])
@pytest.mark.parametrize("steps", [1, 12])
def test_the_written_out_gradients_are_those_of_autograd(lessons: list[Lesson], steps: int) -> None:
    students = enrolled(lessons)
    plain = [PlainStudent.of(students, b, lesson) for b, lesson in enumerate(lessons)]
    batches = [batches_of(lesson, steps) for lesson in lessons]
    students.train(batches)
    for b, student in enumerate(plain):
        before = parameters(student)
        student.train(batches[b])
        after = parameters(PlainStudent.of(students, b, lessons[b]))
        np.testing.assert_allclose(after, parameters(student), atol=2e-6)
        assert np.abs(after - before).max() > 1e-3  # something was learnt


def test_nothing_is_computed_for_students_whose_interval_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    step = Students._step
    monkeypatch.setattr(
        Students, "_step", lambda self, *given: (computed.append(len(given[0]) // (2 * G)), step(self, *given))
    )
    batches = [batches_of(lesson, steps) for lesson, steps in zip(UNEQUAL, (1, 4, 2), strict=True)]
    enrolled(UNEQUAL).train(batches)
    assert computed == [3, 2, 1, 1]


@pytest.mark.parametrize("lessons", [UNEQUAL, THREE_VIEWS], ids=["2 modalities", "3 modalities"])
def test_what_is_measured_is_what_core_makes_of_a_plain_network_s_logits(lessons: list[Lesson]) -> None:
    students = enrolled(lessons)
    plain = [PlainStudent.of(students, b, lesson) for b, lesson in enumerate(lessons)]
    batches = [batches_of(lesson, 1) for lesson in lessons]
    for student, batch, measured in zip(plain, batches, students.train(batches), strict=True):
        modalities = [torch.from_numpy(view[batch[0]]) for view in student.lesson.train.modalities]
        with torch.no_grad():
            joint, unimodal = student.network(modalities)
        logs = measurement.log_softmax(np.stack([*(u.numpy() for u in unimodal), joint.numpy()]), np)
        labels = student.lesson.train.labels[batch[0]]
        similarity = measurement.similarity(np.exp(logs[:-1]), np)
        loss = measurement.multimodal_loss(
            logs[-1], logs[:-1], labels, np, joint_weight=JOINT_WEIGHT, unimodal_weight=UNIMODAL_WEIGHT
        )
        np.testing.assert_allclose(measured["similarity"][0], similarity, atol=1e-5)
        np.testing.assert_allclose(measured["loss"][0], loss, rtol=1e-5)
        np.testing.assert_allclose(
            measured["probability"][0], np.exp(measurement.true_label(logs, labels, np)).T, rtol=2e-5
        )


@pytest.mark.parametrize("lessons", [UNEQUAL, THREE_VIEWS], ids=["2 modalities", "3 modalities"])
def test_the_signals_of_evidence_are_those_of_a_plain_network_too(lessons: list[Lesson]) -> None:
    students = enrolled(lessons, evidence=True)
    plain = [PlainStudent.of(students, b, lesson) for b, lesson in enumerate(lessons)]
    batches = [batches_of(lesson, 1) for lesson in lessons]
    reports = students.validate()
    for student, batch, measured, report in zip(plain, batches, students.train(batches), reports, strict=True):
        labels = torch.from_numpy(student.lesson.train.labels[batch[0]])
        with torch.no_grad():
            joint, unimodal = student.network([torch.from_numpy(x[batch[0]]) for x in student.lesson.train.modalities])
        assert set(measured) == {signal.name for signal in EVIDENCE}
        for name, values in measure(unimodal, joint, labels).items():
            np.testing.assert_allclose(measured[name][0], values, rtol=1e-4, atol=1e-5, err_msg=name)
        meter = ConfusionMeter()
        with torch.no_grad():
            joint, unimodal = student.network([torch.from_numpy(x) for x in student.lesson.validation.modalities])
        meter.add(unimodal, joint, torch.from_numpy(student.lesson.validation.labels))
        assert report.confusion is not None
        expected, got = (
            {(int(t), int(k)): float(m) for t, k, m in zip(c.label, c.predicted, c.mass, strict=True)}
            for c in (meter.matrix(), report.confusion)
        )
        assert got == pytest.approx(expected, rel=1e-4)


def row_weights(steps: int, seed: int = 0) -> np.ndarray:
    """Loss weights (s, G) with mean 1 over a batch, some of them 0."""
    weights = np.random.default_rng(seed).random((steps, G)).astype(np.float32)
    weights[:, :2] = 0
    weights /= weights.mean(axis=1, keepdims=True)
    return weights


@pytest.mark.parametrize("lessons", [UNEQUAL, THREE_VIEWS], ids=["2 modalities", "3 modalities"])
def test_weights_and_pull_are_those_of_a_plain_loss(lessons: list[Lesson]) -> None:
    """Whose slope is that of λ·log(1 − ⟨p, t⟩) (Liu et al. 2020, equation 3), but for 1 / 0 where a head is sure."""
    students = enrolled(lessons)
    plain = [PlainStudent.of(students, b, lesson) for b, lesson in enumerate(lessons)]
    batches = [batches_of(lesson, 9) for lesson in lessons]
    weights, pulls = [row_weights(9, b) for b in range(len(lessons))], [0.7, 1.5, 3.0][: len(lessons)]
    students.train(batches, weights, pulls)
    for b, student in enumerate(plain):
        train_with_pull(student, batches[b], weights[b], pulls[b])
        after = parameters(PlainStudent.of(students, b, lessons[b]))
        np.testing.assert_allclose(after, parameters(student), atol=5e-6)


def train_with_pull(student: PlainStudent, batches: np.ndarray, weights: np.ndarray, pull: float) -> None:
    lesson, memory = student.lesson, dict[int, torch.Tensor]()
    for batch, of_row in zip(batches, torch.from_numpy(weights), strict=True):
        modalities = [torch.from_numpy(view[batch]) for view in lesson.train.modalities]
        labels = torch.from_numpy(lesson.train.labels[batch])
        joint, unimodal = student.network(modalities)
        p = torch.softmax(torch.stack([*unimodal, joint]), dim=2)  # (M + 1, G, c)
        t = torch.stack([memory.get(int(i), torch.zeros_like(p[:, 0])) for i in batch], dim=1)
        own = p[:, torch.arange(G), labels]
        agreement = (p * t).sum(2)
        loss = -own.log() - pull * agreement / (1 - agreement.detach()).clamp(min=measurement.LEAST_DOUBT)
        shares = torch.tensor([UNIMODAL_WEIGHT] * len(unimodal) + [JOINT_WEIGHT])
        student.optimiser.zero_grad()
        (shares @ loss @ of_row / G).backward()
        student.optimiser.step()
        for i in set(batch.tolist()):
            now, before = p[:, batch.tolist().index(i)].detach(), memory.get(i)
            memory[i] = now if before is None else 0.7 * before + 0.3 * now


def test_weights_of_heads_mask_the_losses_of_heads() -> None:
    students = enrolled(UNEQUAL)
    plain = [PlainStudent.of(students, b, lesson) for b, lesson in enumerate(UNEQUAL)]
    batches = [batches_of(lesson, 5) for lesson in UNEQUAL]
    weights = [np.random.default_rng(b).integers(0, 2, (5, G, 3)).astype(np.float32) for b in range(len(UNEQUAL))]
    students.train(batches, weights)
    for b, student in enumerate(plain):
        train_with_heads(student, batches[b], weights[b])
        after = parameters(PlainStudent.of(students, b, UNEQUAL[b]))
        np.testing.assert_allclose(after, parameters(student), atol=5e-6)


def train_with_heads(student: PlainStudent, batches: np.ndarray, weights: np.ndarray) -> None:
    lesson = student.lesson
    for batch, of_heads in zip(batches, torch.from_numpy(weights), strict=True):
        joint, unimodal = student.network([torch.from_numpy(view[batch]) for view in lesson.train.modalities])
        labels = torch.from_numpy(lesson.train.labels[batch])
        losses = [torch.nn.functional.cross_entropy(z, labels, reduction="none") for z in (*unimodal, joint)]
        shares = torch.tensor([UNIMODAL_WEIGHT] * len(unimodal) + [JOINT_WEIGHT])
        student.optimiser.zero_grad()
        ((of_heads * torch.stack(losses, dim=1)).mean(dim=0) @ shares).backward()
        student.optimiser.step()


def test_a_row_of_weight_0_is_measured_and_changes_nothing() -> None:
    students = enrolled(UNEQUAL[:1])
    before = parameters(PlainStudent.of(students, 0, UNEQUAL[0]))
    measured = students.train([batches_of(UNEQUAL[0])], [np.zeros((4, G), np.float32)])[0]
    assert (measured["loss"] > 0).all()
    np.testing.assert_array_equal(parameters(PlainStudent.of(students, 0, UNEQUAL[0])), before)


def test_without_weights_and_pull_nothing_changes_bit_for_bit_and_no_memory_is_taken() -> None:
    plain, weighted, beside = (enrolled(UNEQUAL) for _ in range(3))
    for interval in range(3):
        batches = [batches_of(lesson, seed=interval) for lesson in UNEQUAL]
        ones = [None, np.ones((4, G), np.float32), None]
        results = (plain.train(batches), weighted.train(batches, ones, [0.0] * 3))
        others = beside.train(batches, [*ones[:2], row_weights(4)], [0.0, 0.0, 1.5])
        for b in range(3):
            assert_same(results[0][b], results[1][b])
        for b in range(2):
            assert_same(results[0][b], others[b])
    assert plain._memory is None
    assert weighted._memory is None


def test_what_a_student_remembers_goes_with_it() -> None:
    """Who comes to its place, and beside it, begins as one who is alone does."""
    alone, anew = enrolled([UNEQUAL[0]], [7]), enrolled(UNEQUAL[:2])
    anew.train([batches_of(lesson) for lesson in UNEQUAL[:2]], pull=[1.5, 1.5])
    anew.enrol(0, UNEQUAL[0], np.random.default_rng(7))
    anew.enrol(1, lesson_of((9, 9), 5, 200, seed=5), np.random.default_rng(9))
    for interval in range(2):
        batches = batches_of(UNEQUAL[0], seed=interval)
        assert_same(
            alone.train([batches], pull=[1.5])[0], anew.train([batches, batches_of(UNEQUAL[1])], pull=[1.5, 0.0])[0]
        )


def test_a_network_that_gives_all_classes_the_same_is_never_right() -> None:
    students = enrolled(UNEQUAL)
    for tensor in students._weights:
        tensor.zero_()
    assert [report.accuracy for report in students.validate()] == [0.0] * 3


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("lessons", [UNEQUAL, THREE_VIEWS], ids=["2 modalities", "3 modalities"])
def test_reports_are_those_of_a_plain_network(lessons: list[Lesson], split: str) -> None:
    students = enrolled(lessons)
    students.train([batches_of(lesson, 6) for lesson in lessons])
    for b, (lesson, report) in enumerate(zip(lessons, students.validate(split), strict=True)):
        expected = PlainStudent.of(students, b, lesson).validate(split)
        assert report.loss == pytest.approx(expected.loss, rel=1e-5)
        assert report.accuracy == pytest.approx(expected.accuracy)
        assert list(report.modalities) == list(expected.modalities)
        for head, other in zip(report.modalities.values(), expected.modalities.values(), strict=True):
            assert head.accuracy == pytest.approx(other.accuracy)
            assert head.probability == pytest.approx(other.probability, rel=1e-5)


def test_a_student_alone_and_the_same_among_five_go_the_same_way_bit_for_bit() -> None:
    others = [lesson_of((9, 9), 5, 90, seed=3), *UNEQUAL[1:], lesson_of((1, 1), 2, 20, seed=4)]
    alone, among = enrolled([UNEQUAL[0]], [7]), enrolled([*others[:2], UNEQUAL[0], *others[2:]], [1, 2, 7, 3, 4])
    for interval in range(3):
        batches = batches_of(UNEQUAL[0], seed=interval)
        theirs = [batches_of(lesson, 3 + b, interval) for b, lesson in enumerate(others)]
        measured = among.train([*theirs[:2], batches, *theirs[2:]])[2]
        assert_same(alone.train([batches])[0], measured)
        assert alone.validate() == among.validate()[2:3] == among.validate(place=2)
        assert alone.validate("test") == among.validate("test")[2:3]


@pytest.mark.parametrize("samples", [10, 26, 74, 162, 470, 999])
def test_reports_of_any_number_of_samples_are_the_same_beside_any_other(samples: int) -> None:
    lesson = lesson_of(samples=samples)
    alone = enrolled([lesson], [7]).validate()
    for other in (12, 100, 1200):
        beside = enrolled([lesson, lesson_of(samples=other, seed=1)], [7, 8])
        assert beside.validate()[:1] == beside.validate(place=0) == alone


def test_who_enrols_beside_does_not_matter_either() -> None:
    """A larger lesson makes room for itself and leaves the others where they are."""
    alone, among = enrolled([UNEQUAL[0]], [7]), enrolled([UNEQUAL[0], UNEQUAL[1]], [7, 8])
    among.enrol(1, lesson_of((9, 9), 5, 200, seed=5), np.random.default_rng(9))
    batches = batches_of(UNEQUAL[0])
    assert_same(alone.train([batches])[0], among.train([batches, batches_of(UNEQUAL[2])])[0])
    assert alone.validate() == among.validate()[:1]


def test_padding_of_features_and_classes_changes_no_more_than_rounding_does() -> None:
    exact, padded = Students(1, 2, 7, 3, G), Students(1, 2, 64, 10, G)
    for students in (exact, padded):
        students.enrol(0, UNEQUAL[0], np.random.default_rng(0))
    # Weights are drawn as wide as the padding: give both the same.
    for of_exact, of_padded in zip(exact._weights[:-1], padded._weights[:-1], strict=True):
        of_padded[:, : of_exact.shape[1]] = of_exact
    padded._weights[-1].view(2, 2, 10, -1)[:, :, :3] = exact._weights[-1].view(2, 2, 3, -1)
    one, other = (students.train([batches_of(UNEQUAL[0])])[0] for students in (exact, padded))
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    assert padded.validate()[0].loss == pytest.approx(exact.validate()[0].loss, rel=1e-5)


def test_a_student_whose_interval_is_over_stops() -> None:
    students, alone = enrolled(UNEQUAL[:2]), enrolled(UNEQUAL[:1])
    short, long = batches_of(UNEQUAL[0], 2), batches_of(UNEQUAL[1], 6)
    measured = students.train([short, long])
    assert [m["loss"].shape for m in measured] == [(2, G), (6, G)]
    assert_same(measured[0], alone.train([short])[0])
    assert students.validate()[0] == alone.validate()[0]


@pytest.mark.parametrize("steps", [(0, 3), (0, 0)])
def test_an_empty_interval_changes_nothing(steps: tuple[int, int]) -> None:
    students = enrolled(UNEQUAL[:2])
    before = students.validate()
    measured = students.train([batches_of(lesson, s) for lesson, s in zip(UNEQUAL[:2], steps, strict=True)])
    assert measured[0]["probability"].shape == (0, G, 3)
    assert [a == b for a, b in zip(students.validate(), before, strict=True)] == [s == 0 for s in steps]


def test_one_that_diverges_leaves_the_others_alone() -> None:
    hopeless = lesson_of(seed=6, rate=1e30)
    students, alone = enrolled([hopeless, UNEQUAL[0]], [1, 7]), enrolled([UNEQUAL[0]], [7])
    for interval in range(2):
        batches = batches_of(UNEQUAL[0], seed=interval)
        lost, fine = students.train([batches_of(hopeless, 8), batches])
        assert_same(fine, alone.train([batches])[0])
        assert students.validate()[1] == alone.validate()[0]
    assert not np.isfinite(lost["loss"]).all()
    assert not np.isfinite(students.validate()[0].loss)


def test_a_place_that_diverged_can_be_taken_anew() -> None:
    students, fresh = enrolled([lesson_of(rate=1e30)], [1]), enrolled([UNEQUAL[0]], [7])
    students.train([batches_of(UNEQUAL[0], 8)])
    students.enrol(0, UNEQUAL[0], np.random.default_rng(7))
    batches = batches_of(UNEQUAL[0])
    assert_same(students.train([batches])[0], fresh.train([batches])[0])
    assert students.validate() == fresh.validate()


def test_a_student_learns_and_the_test_split_is_there_only_where_asked_for() -> None:
    students = enrolled([lesson_of((7, 5), 3, 80)], tested=False)
    before = students.validate()[0]
    students.train([batches_of(UNEQUAL[0], 60)])
    assert students.validate()[0].loss < 0.7 * before.loss
    with pytest.raises(KeyError, match="test"):
        students.validate("test")
