"""MLA, beside two updates worked out by hand."""

import math

import torch
from torch import nn

from tests.trainer_client.reference.rivals.worlds import Pair, heads, started, step
from trainer_client.reference.rivals.steps.mla import ByCertainty, Mla, blinded

LOG3 = math.log(3)


def linear() -> nn.Linear:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.eye_(layer.weight)
    return layer


def test_the_second_modality_hardly_moves_what_the_head_knows_of_the_first() -> None:
    # a: (log 3, 0), so p = (3/4, 1/4) and W becomes [[1 + log 3/4, 0], [-log 3/4, 1]]. P then has .1/(.1 + log 3^2) =
    # .076514 at [0, 0]. b: (1, 1), logits (1 + .274653, 1 - .274653), p = (.633975, .366025), gradient -.366025 in
    # each entry of the first row, times P.
    model = Pair()
    model.heads = nn.ModuleDict({"a": linear(), "b": linear()})
    rival = started(Mla(), model)
    assert model.heads["a"] is model.heads["b"]
    step(rival, heads(model, [[LOG3, 0.0]], [[1.0, 1.0]]), [0])
    expected = torch.tensor([[1.302659, 0.366025], [-0.302659, 0.633975]])
    assert torch.allclose(model.heads["a"].weight, expected, atol=1e-5)


def test_the_projection_and_as_released_with_a_matrix_below_the_line() -> None:
    # P h = (1, 1). Paper: 1/(.1 + 2) = .476190 in each entry. Code: 1/(.1 + 1) = .909091, all over the norm 1.292061.
    both, one = torch.eye(2), torch.ones(2)
    paper = torch.tensor([[0.523810, -0.476190], [-0.476190, 0.523810]])
    code = torch.tensor([[0.070360, -0.703597], [-0.703597, 0.070360]])
    assert torch.allclose(blinded(both, one, 0.1, "paper"), paper, atol=1e-5)
    assert torch.allclose(blinded(both, one, 0.1, "code"), code, atol=1e-5)


def test_as_written_the_gradient_is_multiplied_by_the_transpose() -> None:
    # a: (log 3, 0) of class 0 and (-log 3, 0) of class 1, each with p = 3/4 for its own: the head's gradient is
    # [[-log 3/4, 0], [log 3/4, 0]], times the transpose of [[1, .5], [0, 1]]/1.5 the same over 1.5. Their mean is 0,
    # and so are b's embeddings: the projection has only its norm, 1.5, taken out.
    model = Pair()
    model.heads = nn.ModuleDict({"a": linear(), "b": linear()})
    rival = started(Mla(form="code"), model)
    rival.memory.update(projection=torch.tensor([[1.0, 0.5], [0.0, 1.0]]), updates=1)
    step(rival, heads(model, [[LOG3, 0.0], [-LOG3, 0.0]], [[0.0, 0.0]] * 2), [0, 1])
    expected = torch.tensor([[1 + LOG3 / 6, 0.0], [-LOG3 / 6, 1.0]])
    assert torch.allclose(model.heads["a"].weight, expected, atol=1e-6)


def test_a_very_large_alpha_is_alternation_alone() -> None:
    assert torch.allclose(blinded(torch.eye(2), torch.ones(2), 1e12, "paper"), torch.eye(2))


def test_the_surer_modality_counts_for_more() -> None:
    # Entropies of 3/4 and of 1/2: .562335 and .693147; e^-H = .569877 and .5; shares .532656 and .467344.
    logits = ByCertainty()([], [torch.tensor([[LOG3, 0.0]]), torch.tensor([[0.0, 0.0]])])
    assert torch.allclose(logits, torch.tensor([[0.532656 * LOG3, 0.0]]), atol=1e-5)
