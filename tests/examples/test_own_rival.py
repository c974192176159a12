"""The example of a rival of one's own."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.examples.conftest import EXAMPLES
from tests.trainer_client.reference.rivals.worlds import Pair, heads, started
from trainer_client.reference.rivals import create_rival, rival_names


def test_it_registers_a_rival_that_weighs_hard_samples_more() -> None:
    runpy.run_path(str(EXAMPLES / "own_rival.py"))
    assert "sharper" in rival_names()
    model = Pair()
    rival = started(create_rival("sharper", {"gamma": 2, "unimodal_weight": 0}), model)
    loss = rival.loss(heads(model, [[0.0, 0.0]], [[0.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(0.25 * np.log(2))  # p = 1/2


def test_it_is_one_file_of_at_most_sixty_lines() -> None:
    assert len((EXAMPLES / "own_rival.py").read_text().splitlines()) <= 60


@pytest.mark.long  # the same command line without an import of torch: tests/trainer_client/reference/test_command.py
def test_it_trains(run: Callable[..., list[str]], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=30)
    data = {"a": np.float32(rng.normal(size=(30, 3))), "b": np.float32(rng.normal(size=(30, 3)))}
    names = {"modalities": np.array(["a", "b"]), "classes": np.array(["x", "y"])}
    np.savez(tmp_path / "few.npz", y=y, split=np.arange(30, dtype=np.uint8) % 3, **data, **names)
    lines = run("own_rival.py", "--data", "few.npz", "--batch-size", "5", "--epochs", "1", "--rival", "sharper")
    assert any("test accuracy" in line for line in lines), sys.executable
