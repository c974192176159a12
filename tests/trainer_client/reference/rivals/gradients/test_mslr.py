"""MSLR: rates by modality, worked out by hand."""

import math

import torch

from tests.trainer_client.reference.rivals.worlds import Loader, Pair, heads, started, step
from trainer_client.reference.rivals.gradients.mslr import Mslr

LOG3 = math.log(3)


def test_each_modality_learns_at_its_own_rate() -> None:
    model = Pair()
    rival = started(Mslr(first=2, second=0.5, strategy="keep", unimodal_weight=0), model)
    rival.on_epoch(Loader([], []))  # type: ignore[arg-type]
    step(rival, heads(model, [[LOG3, 0.0]], [[LOG3, 0.0]]), [0])
    # Joint logits (2 log 3, 0): the first class has 9/10, the gradient is -.1 * log 3 for both.
    assert torch.allclose(model.encoders["a"].weight.detach(), torch.tensor([1 + 0.2 * LOG3, 1.0]))
    assert torch.allclose(model.encoders["b"].weight.detach(), torch.tensor([1 + 0.05 * LOG3, 1.0]))


def test_dynamic_rates_follow_the_accuracy_over_its_mean_before() -> None:
    # a is right on both samples, before on .5 and .75 of them: 1/.625; b on one of two as before: 1.
    loader = Loader([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]], [0, 1])
    rival = started(Mslr(first=1, second=2, window=2))
    rival.memory.update(epoch=4, accuracies=[[0.1, 0.1], [0.5, 0.5], [0.75, 0.5]])
    rival.on_epoch(loader)  # type: ignore[arg-type]
    assert torch.allclose(torch.tensor(rival.memory["factors"]), torch.tensor([1.6, 2.0]))


def test_rates_stay_until_there_is_a_mean_to_compare_with() -> None:
    loader = Loader([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]], [0, 1])
    rival = started(Mslr(first=1, second=2, window=2))
    for epoch in range(3):  # of the untrained network nothing is measured
        rival.memory["epoch"] = epoch
        rival.on_epoch(loader)  # type: ignore[arg-type]
        assert rival.memory["factors"] == [1, 2]
    assert rival.memory["accuracies"] == [[1, 0.5]] * 2
