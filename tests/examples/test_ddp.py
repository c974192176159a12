from collections.abc import Callable

import pytest

from trainer_client import SchedulerClient

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.long  # tests/trainer_client/loops/test_ddp.py has ranks
def test_ranks_get_disjoint_shares_and_one_process_goes_on_alone(
    run: Callable[..., list[str]], client: SchedulerClient, job_name: str
) -> None:
    (together,) = run("ddp.py", "--epochs", "1", under=TORCHRUN)
    (alone,) = run("ddp.py", "--epochs", "2")
    assert together.endswith("samples by rank [1024, 1024], repeated 0")
    assert alone.startswith("epoch 1:")
    assert alone.endswith("samples by rank [2048], repeated 0")
    state = client.job(job_name)
    assert state.validation is not None
    assert (state.steps_fed_back, state.validation.step) == (64, 64)
