"""PMR, beside numbers worked out from the paper."""

import math

import pytest
import torch

from tests.trainer_client.reference.rivals.worlds import Loader, Pair, heads, started
from trainer_client.reference.rivals.losses.pmr import Pmr, lags

PROTOTYPES = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [-1.0, 0.0]]])


def loss(rival: Pmr) -> float:
    """Of one sample of class 0 at the origin: a is 0 and 5 away from its prototypes, b 1 and 1."""
    model = Pair()
    started(rival, model).memory["prototypes"] = PROTOTYPES
    return rival.loss(heads(model, [[0.0, 0.0]], [[0.0, 0.0]]), torch.tensor([0])).item()


def test_the_modality_behind_is_drawn_to_its_prototypes_and_the_other_held_back() -> None:
    # p of a = 1/(1 + exp(-5)) = .993307, of b = .5; gamma = .993307/.5 - 1 = .986614, beta = 0; PCE of b = log 2.
    # H of a = -.993307 log .993307 - .006693 log .006693 = .040180. The joint loss is log 2.
    expected = math.log(2) + 0.986614 * math.log(2) - 0.1 * 0.986614 * 0.040180
    assert loss(Pmr(mu=0.1, unimodal_weight=0)) == pytest.approx(expected, abs=1e-5)
    assert loss(Pmr(mu=0.1, regularised=0, unimodal_weight=0)) == pytest.approx(1.986614 * math.log(2), abs=1e-5)


def test_as_released_the_modality_behind_counts_in_full() -> None:
    assert loss(Pmr(form="code", unimodal_weight=0)) == pytest.approx(2 * math.log(2), abs=1e-5)


def test_weights_are_clipped() -> None:
    assert lags(torch.tensor([0.9, 0.3, 0.6]), "paper").tolist() == pytest.approx([0, 1, 0.5])
    assert lags(torch.tensor([0.9, 0.3, 0.6]), "code").tolist() == [0, 1, 1]
    assert lags(torch.tensor([0.5, 0.5]), "code").tolist() == [0, 0]


def test_prototypes_are_class_means_that_move_on_when_something_is_learnt() -> None:
    rival = started(Pmr(momentum=0.2, share=1))
    rival.on_epoch(Loader([[[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]], [[1.0, 1.0]] * 3], [0, 0, 1]))  # type: ignore[arg-type]
    rival.memory["epoch"] = 1
    rival.on_epoch(Loader([[[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]], [[1.0, 1.0]] * 3], [0, 0, 1]))  # type: ignore[arg-type]
    assert rival.memory["prototypes"][0].tolist() == [[2.0, 0.0], [0.0, 5.0]]
    rival.memory["epoch"] = 2
    rival.on_epoch(Loader([[[7.0, 0.0], [7.0, 0.0], [0.0, 5.0]], [[1.0, 1.0]] * 3], [0, 0, 1]))  # type: ignore[arg-type]
    assert torch.allclose(rival.memory["prototypes"][0][0], torch.tensor([0.8 * 7 + 0.2 * 2, 0.0]))
