"""Data Remixing, beside assignments and updates worked out by hand."""

import math

import pytest
import torch

from tests.trainer_client.reference.rivals.worlds import Loader, Pair, heads, started, step
from trainer_client.reference.rivals.samples.remix import Remix, surety

LOG3 = math.log(3)
A, B = [[LOG3, 0.0], [0.5, 0.0]], [[0.5, 0.0], [LOG3, 0.0]]  # of the first sample a is surer, of the second b


def test_surety_is_the_divergence_from_the_uniform_one() -> None:
    logits = [torch.tensor([[LOG3, 0.0]]), torch.tensor([[0.0, 0.0]])]
    assert surety(logits)[:, 0].tolist() == pytest.approx([math.log(2) - 0.562335, 0], abs=1e-6)


def test_each_sample_trains_the_modality_that_says_least_of_it() -> None:
    model = Pair()
    rival = started(Remix(warm_up=0), model)
    rival.on_epoch(Loader([A, B], [0, 0]))  # type: ignore[arg-type]
    assert rival.memory["assigned"].tolist() == [1, 0]
    step(rival, heads(model, A, B, samples=[0, 1]), [0, 0])
    # Both heads say (.5, 0) of it: p = 1/(1 + e^-.5) = .622459, gradient 2 * -.377541 * .5, over its one sample.
    for encoder in model.encoders.values():
        assert torch.allclose(encoder.weight.detach(), torch.tensor([1.377541, 1.0]), atol=1e-5)


def test_before_that_all_are_trained_together() -> None:
    model = Pair()
    rival = started(Remix(alpha=0.5, warm_up=1), model)
    rival.on_epoch(Loader([A, B], [0, 0]))  # type: ignore[arg-type]
    given = heads(model, [[LOG3, 0.0]], [[0.0, 0.0]], samples=[0])
    expected = 1.5 * math.log(4 / 3) + 0.5 * math.log(2)
    assert rival.loss(given, torch.tensor([0])).item() == pytest.approx(expected)
