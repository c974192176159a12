"""Prompts that come k times in a row: the job counts prompts, and ranks share out whole ones."""

from itertools import count

import pytest
import torch
from torch.utils.data import DataLoader

from trainer_client import (
    JobSpec,
    Repeated,
    ScheduledBatchSampler,
    SchedulerClient,
    WithIndex,
    measure_rewards,
    signals_of,
)

NUMBERS = count()
PROMPTS, AT_ONCE, K = 24, 4, 3


@pytest.fixture
def spec() -> JobSpec:
    name = f"repeated-{next(NUMBERS)}"
    signals = signals_of(measure_rewards)
    return JobSpec(name=name, samples=PROMPTS, modalities=["prompt"], batch_size=AT_ONCE, signals=signals)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_prompt_comes_once_an_epoch_k_times_in_a_row(client: SchedulerClient, spec: JobSpec, workers: int) -> None:
    with ScheduledBatchSampler(spec, client) as sampler:
        repeated = Repeated(sampler, K)
        loader = DataLoader(WithIndex(range(PROMPTS)), batch_sampler=repeated, num_workers=workers)  # type: ignore[arg-type]
        assert len(loader) == PROMPTS // AT_ONCE
        for epoch in range(2):
            repeated.set_epoch(epoch)
            came: list[int] = []
            for index, prompts in loader:
                assert index.tolist() == prompts.tolist() and len(index) == AT_ONCE * K
                assert (index.view(-1, K) == index[::K, None]).all()
                came += index[::K].tolist()
                sampler.feedback(index[::K], measure_rewards(index / 10 + torch.arange(AT_ONCE * K) % K, K))
            assert sorted(came) == list(range(PROMPTS))
        assert sampler.flush()
        assert client.job(spec.name).steps_fed_back == 2 * PROMPTS // AT_ONCE
        assert client.sample(spec.name, 5).signals["reward"] == pytest.approx(1.5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_feeds_back_late_knows_the_last_batch(client: SchedulerClient, spec: JobSpec, workers: int) -> None:
    """As one that accumulates gradients; the next epoch begins where this one ends."""
    with ScheduledBatchSampler(spec, client) as sampler:
        loader = DataLoader(WithIndex(range(PROMPTS)), batch_sampler=Repeated(sampler, K), num_workers=workers)  # type: ignore[arg-type]
        for epoch in (1, 2):
            came: list[torch.Tensor] = []
            for index, _ in loader:
                came.append(index[::K])
                assert sampler.is_last_batch == (len(came) == len(loader))
            assert sampler.next_step == epoch * PROMPTS // AT_ONCE
            for prompts in came:
                sampler.skip(prompts)


def test_ranks_share_out_prompts_and_never_the_rows_of_one(client: SchedulerClient, spec: JobSpec) -> None:
    ranks = [ScheduledBatchSampler(spec, client, rank=rank, world_size=2) for rank in (0, 1)]
    shares = [next(iter(Repeated(rank, K))) for rank in ranks]
    together = client.batches(spec.name, 0).indices[0].tolist()
    assert shares[0] + shares[1] == [prompt for prompt in together for _ in range(K)]
    for rank in ranks:
        rank.close(0.1)


def test_a_run_goes_on_in_the_midst_of_an_epoch(client: SchedulerClient, spec: JobSpec) -> None:
    came: list[int] = []
    state = None
    for stop in (2, PROMPTS // AT_ONCE - 2):
        with ScheduledBatchSampler(spec, client) as sampler:
            if state is not None:
                sampler.load_state_dict(state)
            batches = iter(Repeated(sampler, K))
            for _ in range(stop):
                batch = next(batches)
                came += batch[::K]
                sampler.skip(batch[::K])
            state = sampler.state_dict()
    assert sorted(came) == list(range(PROMPTS))


def test_none_at_all_is_refused(client: SchedulerClient, spec: JobSpec) -> None:
    with ScheduledBatchSampler(spec, client) as sampler, pytest.raises(ValueError, match="at least 1, got 0"):
        Repeated(sampler, 0)
