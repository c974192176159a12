"""Grain, for JAX: a sampler for its DataLoader, which needs no torch; feedback goes by the number of the step."""

import sys
import threading
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final, NoReturn

import grain
import numpy as np
from numpy.typing import ArrayLike

from bss_service.core.arrays import Int64
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import Feedback, FeedbackRequest, StepsRequest
from bss_service.protocol.validation import ValidationReport
from trainer_client.client import SchedulerClient
from trainer_client.errors import SchedulerError, TooEarlyError
from trainer_client.exchange.attachment import Attachment, IfExists, this_trainer
from trainer_client.exchange.foreground import Foreground
from trainer_client.exchange.placement import Placement
from trainer_client.retry import PAUSES

FETCHED: Final = 16  # steps in one call
KEPT: Final = 4096  # steps whose batches are kept


class ScheduledSampler:
    """For `grain.DataLoader`: which sample comes at each index is the scheduler's choice, the same each time.

        spec = JobSpec(name="run-1", samples=len(source), modalities=["text"], unimodal_heads=False, batch_size=64)
        sampler = ScheduledSampler(spec)
        batches = grain.transforms.Batch(sampler.share)
        loader = grain.DataLoader(data_source=source, sampler=sampler, operations=[batches])
        for step, batch in zip(range(steps), loader):
            ...
            sampler.feedback(step, {"loss": losses})
        sampler.close()

    Batch number k of the loader is this process' rows of step k, so no operation may drop samples. It has no end.
    Grain's own checkpoint of an iterator is all that a resumption needs, with if_exists="resume"; the model's says
    which step comes next. Grain's threads read ahead; worker processes are refused.

    url: of the service; None: what BSS_URL says. shard_options: as for Grain's samplers; shard r of W is rank r of W.
    if_exists: as for `ScheduledBatchSampler`.

    Grain reads over the ends of intervals (`ReadOptions`): what is asked for of the next one is held until its feedback
    has come, at most the job's patience, and a validation should be reported before the last feedback of an interval.
    Raises ValueError for a job whose losses are to be weighed, which a sampler can't tell.
    """

    def __init__(
        self,
        spec: JobSpec,
        url: str | None = None,
        *,
        shard_options: grain.sharding.ShardOptions | None = None,
        if_exists: IfExists = "fail",
    ) -> None:
        shard = shard_options or grain.sharding.NoSharding()
        if spec.weighted:
            raise ValueError("weighted must be False with Grain, got True: its loader has no place for weights")
        if spec.batch_size % shard.shard_count:
            raise ValueError(f"shard_count must divide the batch size {spec.batch_size}, got {shard.shard_count}")
        self._shard_options = shard  # where Grain's loader looks for it
        self.share = spec.batch_size // shard.shard_count  # rows of a batch that are this process'
        self._me = this_trainer(Placement(shard.shard_index, shard.shard_count))
        self._client = SchedulerClient(url)
        self._foreground = Foreground(self._client, None)
        self._changed = threading.Condition()
        self._batches: dict[int, Int64] = {}  # (G,) by step, in the order in which they were fetched
        self._under_way: list[int] = []  # steps that Grain's threads are fetching
        try:
            self.spec, _ = Attachment(self._foreground, self._me).to(spec, if_exists)
        except BaseException:
            self._client.close()
            raise

    def __getitem__(self, index: int) -> grain.RecordMetadata:
        """The sample at an index of the whole run, over all processes."""
        if index < 0:
            raise IndexError(f"index must be at least 0, got {index}")
        place, shard = divmod(index, self._shard_options.shard_count)  # Grain's shards take records in turn
        step, row = divmod(place, self.share)
        sample = int(self._batch(step)[shard * self.share + row])
        rng = np.random.Generator(np.random.Philox(key=self.spec.seed + index))
        return grain.RecordMetadata(index=index, record_key=sample, rng=rng)

    def __len__(self) -> int:
        return sys.maxsize

    def __repr__(self) -> str:
        """What Grain's checkpoints hold of it: one of another job, or other numbers, is refused by Grain."""
        spec, shards = self.spec, self._shard_options.shard_count
        return f"ScheduledSampler(job={spec.name!r}, batch_size={spec.batch_size}, shard_count={shards})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ScheduledSampler can't be sent to worker processes: give the DataLoader worker_count=0")

    def feedback(self, step: int, measurement: Mapping[str, ArrayLike] | None = None) -> None:
        """Say that a step was trained on, and what was measured of this process' rows.

        measurement: by signal (share,) or (share, H); None: nothing was. The call waits for the service.
        """
        values: dict[str, Any] = {
            name: np.asarray(v, dtype=np.float32)[None] for name, v in (measurement or {}).items()
        }
        feedback = Feedback(step=np.array([step]), **values)
        request = FeedbackRequest(feedback=feedback, **self._place())
        self._foreground.call(lambda client: client.feedback(self.spec.name, request))

    def validation(self, report: ValidationReport) -> None:
        """Report a validation, from one process."""
        self._foreground.call(lambda client: client.validation(self.spec.name, report))

    def close(self) -> None:
        """Give up the place, and end what Grain's threads wait for."""
        self._foreground.call(lambda client: client.detach(self.spec.name, self._me.client))
        self._foreground.interrupted = True
        self._client.abort()
        self._client.close()

    def _place(self) -> dict[str, Any]:
        return self._me.model_dump(include={"rank", "world_size", "client"})

    def _batch(self, step: int) -> Int64:
        """The global batch (G,) of a step; waits for it."""
        while (batch := self._known(step)) is None:
            try:
                self._fetch(step)
            finally:
                with self._changed:
                    self._under_way.remove(step)
                    self._changed.notify_all()
        return batch

    def _known(self, step: int) -> Int64 | None:
        """A batch that was fetched, or is being fetched; None: the calling thread is to fetch it.

        What is fetched for a later step is not waited for: it may be held until this one was trained on.
        """
        with self._changed:
            self._changed.wait_for(lambda: step in self._batches or all(other > step for other in self._under_way))
            if step not in self._batches:
                self._under_way.append(step)
            return self._batches.get(step)

    def _fetch(self, step: int) -> None:
        if self._foreground.interrupted:
            raise SchedulerError("the sampler is closed")
        request = StepsRequest(start=min(step, self._next()), count=FETCHED, **self._place())
        try:
            answer = self._foreground.call(
                lambda client: client.steps(self.spec.name, request, self.spec.patience, spec=self.spec)
            )
        except TooEarlyError:  # rank 0 has not asked for the interval yet
            time.sleep(PAUSES[0])
            return
        with self._changed:
            self._batches.update(enumerate(np.asarray(answer.batches.indices), request.start))
            for old in list(islice(self._batches, max(0, len(self._batches) - KEPT))):
                del self._batches[old]

    def _next(self) -> int:
        """A step that may be asked for: they are handed out in turn."""
        if self._batches:
            return next(reversed(self._batches)) + 1
        return self._foreground.call(lambda client: client.job(self.spec.name)).next_step
