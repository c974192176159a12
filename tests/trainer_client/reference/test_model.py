"""The reference network."""

import numpy as np
import pytest
import torch

from trainer_client.reference.data import Dataset
from trainer_client.reference.fusion import FUSIONS
from trainer_client.reference.model import WIDTH, build_model


def a_dataset(*modalities: np.ndarray) -> Dataset:
    labels = np.array([0, 1, 2, 0, 1, 2])
    split = np.array([0, 0, 1, 1, 2, 2], dtype=np.uint8)
    return Dataset("made", {f"m{k}": m for k, m in enumerate(modalities)}, labels, split, ("a", "b", "c"))


VECTORS = np.ones((6, 5), np.float32)
SIGNALS = np.ones((6, 3, 100), np.float32)
IMAGES = np.ones((6, 3, 32, 32), np.float32)
TOKENS = np.array([[1, 2, 0]] * 6)


@pytest.mark.parametrize(
    "modalities",
    [(VECTORS, SIGNALS), (IMAGES, TOKENS), (VECTORS, VECTORS, VECTORS), (TOKENS, SIGNALS, IMAGES, VECTORS)],
)
def test_each_kind_of_modality_has_an_encoder(modalities: tuple[np.ndarray, ...]) -> None:
    model = build_model(a_dataset(*modalities), seed=0)
    unimodal, joint, features = model([torch.from_numpy(m) for m in modalities])
    assert [tuple(logits.shape) for logits in (*unimodal, joint)] == [(6, 3)] * (len(modalities) + 1)
    assert [tuple(embedding.shape) for embedding in features] == [(6, WIDTH)] * len(modalities)


def test_weights_follow_from_the_seed_alone() -> None:
    dataset = a_dataset(VECTORS, TOKENS)
    torch.manual_seed(1)
    first = build_model(dataset, seed=7).state_dict()
    state = torch.random.get_rng_state()
    second = build_model(dataset, seed=7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_fusion_makes_one_prediction_of_any_number_of_modalities(fusion: str) -> None:
    model = build_model(a_dataset(VECTORS, TOKENS, SIGNALS), seed=0, fusion=fusion)
    outputs = model([torch.from_numpy(m) for m in (VECTORS, TOKENS, SIGNALS)])
    assert outputs.joint.shape == (6, 3)
    shares = model.joint.shares(outputs.features)
    if fusion in ("concat", "sum"):
        assert torch.allclose(torch.stack(shares).sum(0), outputs.joint, atol=1e-6)
    else:
        assert shares is None


def test_fusions_with_weights_of_ones_worked_out_by_hand() -> None:
    first, second = torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    joint = {}
    for name, fusion in FUSIONS.items():
        layer = fusion(2, 2, 1)
        for parameter in layer.parameters():
            torch.nn.init.ones_(parameter)
        joint[name] = layer([first, second], []).item()
    assert joint["concat"] == 0 + 2 + 3 + 5 + 1
    assert joint["sum"] == (0 + 2 + 1) + (3 + 5 + 1)
    assert joint["film"] == 3 * 3 + 3 + 3 * 5 + 3 + 1  # scale and shift are 0 + 2 + 1 each
    assert joint["gated"] == pytest.approx(2 * 9 / (1 + np.exp(-3)) + 1)


def test_an_unknown_fusion_is_named() -> None:
    with pytest.raises(ValueError, match="fusion must be one of concat, sum, film, gated, got 'mean'"):
        build_model(a_dataset(VECTORS, TOKENS), seed=0, fusion="mean")
