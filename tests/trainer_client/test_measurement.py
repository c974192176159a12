"""What is measured of a step's logits."""

import numpy as np
import pytest
import torch

from bss_service.core import measurement as formulas
from trainer_client import measure, multimodal_loss


@pytest.fixture
def logits() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    unimodal = [torch.randn(16, 5, generator=generator) for _ in range(3)]
    return unimodal, torch.randn(16, 5, generator=generator), torch.randint(5, (16,), generator=generator)


def test_torch_measures_what_numpy_measures(logits: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]) -> None:
    unimodal, joint, labels = logits
    measured = measure(unimodal, joint, labels, unimodal_weight=0.3)
    log_p = formulas.log_softmax(np.stack([x.numpy() for x in unimodal]), np)
    np.testing.assert_allclose(measured["similarity"], formulas.similarity(np.exp(log_p), np), rtol=1e-5)
    expected = 0.7 * torch.nn.functional.cross_entropy(joint, labels, reduction="none")
    expected += 0.3 * sum(torch.nn.functional.cross_entropy(x, labels, reduction="none") for x in unimodal)
    torch.testing.assert_close(measured["loss"], expected)
    rows = torch.arange(16)
    heads = torch.stack([torch.softmax(x, 1)[rows, labels] for x in [*unimodal, joint]], dim=1)
    torch.testing.assert_close(measured["probability"], heads)


def test_the_loss_that_is_trained_is_the_loss_that_is_measured(
    logits: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor],
) -> None:
    unimodal, joint, labels = logits
    torch.testing.assert_close(multimodal_loss(unimodal, joint, labels), measure(unimodal, joint, labels)["loss"])


def test_measuring_leaves_no_graph_behind(logits: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]) -> None:
    unimodal, joint, labels = logits
    joint.requires_grad_(True)
    assert not measure(unimodal, joint, labels)["loss"].requires_grad
    assert multimodal_loss(unimodal, joint, labels).requires_grad


def test_half_precision_logits_are_measured_in_single_precision(
    logits: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor],
) -> None:
    unimodal, joint, labels = logits
    assert measure([x.bfloat16() for x in unimodal], joint.bfloat16(), labels)["loss"].dtype == torch.float32


def test_one_unimodal_head_has_nothing_to_be_similar_to(
    logits: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor],
) -> None:
    unimodal, joint, labels = logits
    measured = measure(unimodal[:1], joint, labels)
    assert {name: tuple(values.shape) for name, values in measured.items()} == {"loss": (16,), "probability": (16, 2)}
    ce = torch.nn.functional.cross_entropy
    expected = 0.5 * ce(joint, labels, reduction="none") + 0.5 * ce(unimodal[0], labels, reduction="none")
    torch.testing.assert_close(measured["loss"], expected)


def test_without_unimodal_heads_the_loss_is_that_of_the_joint_head(
    logits: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor],
) -> None:
    _, joint, labels = logits
    measured = measure([], joint, labels)
    assert {name: tuple(values.shape) for name, values in measured.items()} == {"loss": (16,), "probability": (16, 1)}
    torch.testing.assert_close(measured["loss"], torch.nn.functional.cross_entropy(joint, labels, reduction="none"))
