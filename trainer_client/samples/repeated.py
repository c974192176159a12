"""A batch sampler that gives each sample several times in a row."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from trainer_client.sampler import ScheduledBatchSampler


class Repeated(Sampler[list[int]]):
    """Of a batch of g samples one of g·k rows, each k times in a row: for prompts of which k completions are made.

        sampler = ScheduledBatchSampler(JobSpec(…, batch_size=16, signals=signals_of(measure_rewards)))  # 16 prompts
        for index, prompts in DataLoader(WithIndex(prompts), batch_sampler=Repeated(sampler, 8)):  # 128 rows
            ...
            sampler.feedback(index[::8], measure_rewards(rewards, 8))

    The job counts prompts: its `batch_size`, its epochs, what comes once. Ranks share out prompts, never the rows of
    one. Raises ValueError for less than one of each.
    """

    def __init__(self, sampler: ScheduledBatchSampler, times: int) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        self.sampler = sampler
        self.times = times

    def __iter__(self) -> Iterator[list[int]]:
        return _Rows(iter(self.sampler), self.times)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """As of the sampler."""
        self.sampler.set_epoch(epoch)

    @property
    def batch_size(self) -> int:
        """Asked for by who shares out a batch sampler among ranks, which the sampler has done."""
        return self.sampler.batch_size


class _Rows(Iterator[list[int]]):
    """The batches with their repetitions. It asks on where there are no more, by which the sampler counts (`Pass`)."""

    def __init__(self, batches: Iterator[list[int]], times: int) -> None:
        self._batches, self._times = batches, times

    def __next__(self) -> list[int]:
        return [index for index in next(self._batches) for _ in range(self._times)]
