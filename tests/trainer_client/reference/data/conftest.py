"""Worlds for the data tests: a small set made up here, and the built-in ones made once a session."""

from pathlib import Path

import numpy as np
import pytest

from trainer_client.reference.data import Dataset, load


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data-cache")


@pytest.fixture(scope="session")
def emoji(cache: Path) -> Dataset:
    return load("emoji", cache)


@pytest.fixture(scope="session")
def watch(cache: Path) -> Dataset:
    return load("watch", cache)


@pytest.fixture
def small() -> Dataset:
    """300 samples, 100 a split, of 4 classes, seen as vectors, token ids and images."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 1000, (300, 6))
    tokens[:, 4:] = 0
    return Dataset(
        name="small",
        modalities={
            "vector": rng.standard_normal((300, 5)).astype(np.float32),
            "text": tokens,
            "image": rng.standard_normal((300, 3, 4, 4)).astype(np.float32),
        },
        labels=rng.integers(0, 4, 300),
        split=(np.arange(300) % 3).astype(np.uint8),
        classes=("a", "b", "c", "d"),
        captions=tuple(f"sample {index}" for index in range(300)),
    )
