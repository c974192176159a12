from collections.abc import Callable

import pytest

from trainer_client import SchedulerClient


@pytest.mark.long  # tests/trainer_client/loops/frameworks/test_grain.py has the sampler
def test_grains_loader_trains(run: Callable[..., list[str]], client: SchedulerClient, job_name: str) -> None:
    lines = run("frameworks/grain_loop.py", "--epochs", "3")
    assert [line.split(":")[0] for line in lines] == ["epoch 0", "epoch 1", "epoch 2"]
    state = client.job(job_name)
    assert state.validation is not None
    assert (state.fed_back_until, state.validation.step) == (3 * 32, 3 * 32)
