"""Rivals over several processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer_client.reference.rivals.ranks import train
from trainer_client.reference.rivals import rival_class
from trainer_client.reference.rivals.registry import BUILT_IN

PARALLEL = [name for name in BUILT_IN if not rival_class(name).one_process]


def test_each_rival_runs_over_processes_or_says_why_not() -> None:
    assert PARALLEL == ["ogm_ge", "agm", "pmr", "mmpareto", "mslr", "smv", "lfm"]


@pytest.mark.long
def test_ranks_that_see_other_samples_keep_the_same_weights(tmp_path: Path) -> None:
    code = f"from {train.__module__} import train; import sys; train(int(sys.argv[1]), {PARALLEL}, sys.argv[2])"
    ranks = [subprocess.Popen([sys.executable, "-c", code, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in PARALLEL:
        assert torch.isfinite(first[name]).all()
        assert torch.equal(first[name], second[name]), name
