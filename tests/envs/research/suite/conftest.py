"""A suite of two tiny tasks and two methods, whose runs are made in this process over the tests' service."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.research.suite import cells
from envs.research.suite.spec import Suite, read_suite
from tests.support.services import Service
from tests.trainer_client.support.clusters import clusters

SUITE = """
seeds = 2
trials = 2
epochs = 2

[tasks.clean]
data = "clusters.npz"
samples = 96

[tasks.noisy]
data = "clusters.npz"
samples = 96
noisy_labels = 0.4

[methods.uniform]

[methods.mine]
policy = "balance"
tune = {ema = [0.2, 1.0]}
"""


@dataclass
class Here:
    """Runs cells one after another; it is interrupted behind so many."""

    most: int = 1000
    slots: int = 1

    def map(self, function: Callable[[Any], Any], cells: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        for place, cell in enumerate(cells):
            if self.most == 0:
                raise KeyboardInterrupt
            self.most -= 1
            yield place, function(cell)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the suite's file and its data."""
    return written(tmp_path_factory.mktemp("suite"))


def written(folder: Path, shift: int = 0) -> Path:
    """shift: how many classes further the labels of test samples are."""
    data = clusters()
    labels = np.where(data.split == 2, (data.labels + shift) % len(data.classes), data.labels)
    names = {"modalities": np.array([*data.modalities]), "classes": np.array(data.classes)}
    np.savez(folder / "clusters.npz", y=labels, split=data.split, **names, **data.modalities)
    (folder / "tiny.toml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def suite(folder: Path) -> Suite:
    return read_suite(str(folder / "tiny.toml"), folder)


@pytest.fixture(scope="module", autouse=True)
def shared(service: Service) -> Iterator[None]:
    """One service, and one thread, which `run_cell` sets."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "_service", lambda: service)
        yield
    torch.set_num_threads(threads)


def forget() -> None:
    """What this process remembers of data files."""
    for remembered in (cells._load, cells._file_identity, cells.digest):
        remembered.cache_clear()
