"""Losses with weights, and pulled towards what the heads said before."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from trainer_client import Pull, ScheduledBatch, multimodal_loss, weighted

CE = torch.nn.functional.cross_entropy
LABELS = torch.tensor([0, 1, 2])


# Weights of a batch.


def batch_of(
    weights: list[float] | None = None, modality_weights: list[list[float]] | None = None, pull: float = 0.0
) -> ScheduledBatch:
    weights_of = None if weights is None else np.array(weights, np.float32)
    by_head = None if modality_weights is None else np.array(modality_weights, np.float32)
    return ScheduledBatch(0, np.arange(3), 0, 1, 0, np.full(3, 0.25, np.float32), weights_of, by_head, pull)


def test_a_weighted_loss_is_the_mean_of_losses_times_weights() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    weighted(losses, batch_of([1.5, 0.0, 1.5])).backward()
    assert weighted(losses, batch_of([1.5, 0.0, 1.5])).item() == pytest.approx(3.5)
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert weighted(losses, batch_of(None)).item() == pytest.approx(3.0)


@pytest.mark.parametrize("strange", [float("inf"), float("nan")])
def test_a_probe_whose_loss_is_not_finite_changes_nothing(strange: float) -> None:
    losses = torch.tensor([1.0, strange, 6.0], requires_grad=True)
    loss = weighted(losses, batch_of([1.5, 0.0, 1.5]))
    loss.backward()
    assert loss.item() == pytest.approx(3.5)
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([0.5, 0.0, 0.5])


def test_losses_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"losses must be one of each sample, \(3,\), got \(\)"):
        weighted(torch.tensor(1.0), batch_of([1.0, 1.0, 1.0]))


def test_losses_of_masked_heads_do_not_count() -> None:
    torch.manual_seed(0)
    audio, video, joint = torch.randn(3, 3, 4)
    labels = torch.tensor([0, 1, 2])
    masked = batch_of(None, [[1, 1, 1], [0, 1, 0], [0, 0, 0]])
    losses = multimodal_loss([audio, video], joint, labels, unimodal_weight=0.5, batch=masked)
    whole = multimodal_loss([audio, video], joint, labels, unimodal_weight=0.5)
    of_video = torch.nn.functional.cross_entropy(video, labels, reduction="none")
    assert losses.tolist() == pytest.approx([whole[0].item(), 0.5 * of_video[1].item(), 0.0])


def test_importance_weights_are_the_inverse_of_how_likely_each_draw_was() -> None:
    assert batch_of(None).importance(8).tolist() == [0.5, 0.5, 0.5]
    assert replace(batch_of(None), probabilities=None).importance(8).tolist() == [1.0, 1.0, 1.0]


# Pull.


def heads(seed: int = 0) -> torch.Tensor:
    """Logits of two unimodal heads and the joint one, (3, g, c)."""
    return torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(seed))


def pulled(pull: Pull, logits: torch.Tensor, strength: float = 1.5) -> torch.Tensor:
    audio, video, joint = logits
    return multimodal_loss([audio, video], joint, LABELS, batch=batch_of(pull=strength), pull=pull)


def test_a_first_look_and_no_strength_change_nothing() -> None:
    plain = multimodal_loss([heads()[0], heads()[1]], heads()[2], LABELS)
    pull = Pull(samples=5, classes=4, heads=3)
    torch.testing.assert_close(pulled(pull, heads(), strength=0.0), plain, rtol=0, atol=0)
    assert pull.state_dict() == {}  # and takes no memory
    torch.testing.assert_close(pulled(pull, heads()), plain, rtol=0, atol=0)


def test_the_slope_is_that_of_targets_that_lean_to_what_was_said_before() -> None:
    """The softmax less y + λ·p⊙(t − ⟨p, t⟩)/(1 − ⟨p, t⟩), by hand."""
    pull = Pull(samples=5, classes=4, heads=3)
    pulled(pull, heads())
    logits = heads(1).requires_grad_()
    pulled(pull, logits).sum().backward()
    t, p = torch.softmax(heads(), 2).half().float(), torch.softmax(logits.detach(), 2)
    agreement = (p * t).sum(2, keepdim=True)
    target = torch.nn.functional.one_hot(LABELS, 4) + 1.5 * p * (t - agreement) / (1 - agreement)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, 0.5 * (p - target), rtol=1e-3, atol=1e-5)


def test_what_is_remembered_is_a_moving_average_of_each_sample() -> None:
    pull = Pull(samples=5, classes=4, heads=3)
    for seed in (0, 1):
        pulled(pull, heads(seed))
    first, second = (torch.softmax(heads(seed), 2) for seed in (0, 1))
    memory = pull.state_dict()["memory"]
    torch.testing.assert_close(memory[:, :3].float(), first + 0.3 * (second - first), rtol=0, atol=2e-3)
    assert (memory[:, 3:] == 0).all()


def test_a_checkpoint_carries_it() -> None:
    pull, again = (Pull(samples=5, classes=4, heads=3) for _ in range(2))
    pulled(pull, heads())
    again.load_state_dict(pull.state_dict())
    torch.testing.assert_close(pulled(again, heads(1)), pulled(pull, heads(1)), rtol=0, atol=0)
    again.load_state_dict({})
    assert again.state_dict() == {}
    with pytest.raises(ValueError, match=r"memory must have shape \(3, 6, 4\), got \(3, 5, 4\)"):
        Pull(samples=6, classes=4, heads=3).load_state_dict(pull.state_dict())


def test_its_size_is_told_and_bounded() -> None:
    assert Pull(samples=1000, classes=10, heads=3).nbytes == 60_000
    with pytest.raises(ValueError, match="most_bytes must be at least 6000000000, for 1000000 samples, 1000 classes"):
        Pull(samples=10**6, classes=1000, heads=3)


def test_a_pull_needs_the_batch() -> None:
    audio, video, joint = heads()
    with pytest.raises(ValueError, match=r"batch must be sampler.batch_of\(index\)"):
        multimodal_loss([audio, video], joint, LABELS, pull=Pull(samples=5, classes=4, heads=3))


def test_heads_that_agree_with_themselves_wholly_give_a_finite_slope() -> None:
    pull, sure = Pull(samples=5, classes=4, heads=3), (50 * heads()).requires_grad_()
    pulled(pull, sure.detach())
    loss: Any = pulled(pull, sure).sum()
    loss.backward()
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()
