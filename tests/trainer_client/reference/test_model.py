"""The reference network."""

import numpy as np
import pytest
import torch

from trainer_client.reference.data import Dataset
from trainer_client.reference.model import build_model


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
    unimodal, joint = model([torch.from_numpy(m) for m in modalities])
    assert [tuple(logits.shape) for logits in (*unimodal, joint)] == [(6, 3)] * (len(modalities) + 1)


def test_weights_follow_from_the_seed_alone() -> None:
    dataset = a_dataset(VECTORS, TOKENS)
    torch.manual_seed(1)
    first = build_model(dataset, seed=7).state_dict()
    state = torch.random.get_rng_state()
    second = build_model(dataset, seed=7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)
