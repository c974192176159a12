"""Students of other kinds: set beside those of `envs.students`, and beside torch's own optimisers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from envs.research.training.networks import Kind, Networks
from envs.research.training.worlds import Size, world
from envs.students import HIDDEN, Students
from envs.tasks import Lesson
from tests.envs.lessons import lesson_of

G = 8
LESSONS = [lesson_of((7, 5), 3, 40), lesson_of((4, 9), 5, 60, seed=1, rate=0.05)]


def batches_of(lesson: Lesson, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(len(lesson.train.labels), size=(steps, G))


def test_dense_ones_with_plain_descent_are_students() -> None:
    """With loss weights, and with a pull."""
    students = Students(2, 2, 9, 5, G, tested=False, evidence=True)
    networks = Networks(Kind("sgd", HIDDEN), 2, 2, 9, 5, G)
    for place, lesson in enumerate(LESSONS):
        students.enrol(place, lesson, np.random.default_rng(place))
        networks.enrol(place, lesson, np.random.default_rng(place))
    theirs = [*students._weights[:-1], students._weights[-1].transpose(1, 2)]
    networks._weights = [weight.clone() for weight in theirs]
    networks._biases = [*(bias.clone() for bias in students._biases[:-1]), students._biases[-1].transpose(1, 2).clone()]
    batches = [batches_of(lesson, 12) for lesson in LESSONS]
    weights = np.tile(np.array([0, 2], np.float32), (12, G // 2))
    measured = [trained.train(batches, [weights, None], [1.5, 0.0]) for trained in (students, networks)]
    for one, other in zip(*measured, strict=True):
        assert set(one) == set(other)
        for name, values in one.items():
            np.testing.assert_allclose(other[name], values, rtol=2e-3, atol=1e-4, err_msg=name)
    for report, expected in zip(networks.validate(), students.validate(), strict=True):
        assert report.loss == pytest.approx(expected.loss, rel=1e-4)


@pytest.mark.parametrize("optimiser", ["momentum", "adam"])
def test_a_step_is_that_of_torch_s_optimiser(optimiser: str) -> None:
    kind = Kind("adam" if optimiser == "adam" else "momentum", (6,))
    networks = Networks(kind, 2, 2, 9, 5, G)
    for place in range(2):
        networks.enrol(place, replace(LESSONS[place], learning_rate=0.01), np.random.default_rng(place))
    plain = [parameter.clone().requires_grad_(True) for parameter in networks._parameters()]
    theirs = torch.optim.Adam(plain, 0.01) if optimiser == "adam" else torch.optim.SGD(plain, 0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    for _ in range(4):
        gradients = [torch.from_numpy(rng.standard_normal(p.shape).astype(np.float32)) for p in plain]
        networks._descend(networks._parameters(), gradients)
        for parameter, gradient in zip(plain, gradients, strict=True):
            parameter.grad = gradient
        theirs.step()
    for parameter, expected in zip(networks._parameters(), plain, strict=True):
        np.testing.assert_allclose(parameter.numpy(), expected.detach().numpy(), atol=1e-6)


def test_convolutions_find_a_motif_wherever_it_is() -> None:
    rng = np.random.default_rng(3)
    lesson = replace(world(Size(400, 2, classes=3, signals=True), rng), learning_rate=0.003)
    networks = Networks(Kind("adam", convolutions=True), 1, 2, 64, lesson.classes, G)
    networks.enrol(0, lesson, rng)
    before = networks.validate()[0]
    networks.train([batches_of(lesson, 300)])
    assert networks.validate()[0].loss < 0.8 * before.loss


def test_convolutions_beside_others_learn_what_they_learn_alone() -> None:
    lessons = [
        replace(world(Size(60, 2, classes=5, signals=True), np.random.default_rng(k)), learning_rate=0.01)
        for k in range(2)
    ]
    kind, classes = Kind("momentum", convolutions=True), max(lesson.classes for lesson in lessons)
    both, alone = (Networks(kind, number, 2, 64, classes, G) for number in (2, 1))
    both._shifted = alone._shifted = lambda data: data  # type: ignore[method-assign]
    for place, lesson in enumerate(lessons):
        both.enrol(place, lesson, np.random.default_rng(place))
    alone.enrol(0, lessons[0], np.random.default_rng(0))
    batches = [batches_of(lesson, 5, place) for place, lesson in enumerate(lessons)]
    one, other = alone.train(batches[:1])[0], both.train(batches)[0]
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-4)
    assert both.validate()[0].loss == pytest.approx(alone.validate()[0].loss, rel=1e-4)
