"""A batch sampler whose order the scheduler decides."""

import itertools
import logging
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from bss_service.core.arrays import Int64
from bss_service.protocol import MAX_COUNT, JobSpec, ModalityReport, Scores, ValidationReport
from trainer_client.client import BACKOFF, SchedulerClient
from trainer_client.courier import Courier, OnOutage, ScheduledBatch, Stats
from trainer_client.errors import DoubleShardingError, OutageError, StrangeAnswerError
from trainer_client.measure import Measurement
from trainer_client.outbox import FeedbackItem, Transfer, ValidationItem, packed, restored, saved

log = logging.getLogger(__name__)

STATE_VERSION: Final = 1
SCORES_CHUNK: Final = 2**18  # samples of a measuring pass in one message
SOON: Final = 1.0  # seconds to send what is queued when a loop ends by an exception
RANKS_SECONDS: Final = 10.0  # at most so long, a checkpoint waits for the feedback of the other ranks
T = TypeVar("T")


class WithIndex(Dataset[tuple[int, Any]]):
    """A dataset that gives each sample together with its index, so that feedback finds its batch."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, Any]]:
        """All samples of a batch in one call, where the dataset can do that."""
        batched = getattr(self.dataset, "__getitems__", None)
        samples = batched(indices) if batched is not None else [self.dataset[index] for index in indices]
        return list(zip(indices, samples, strict=True))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


class ScheduledBatchSampler(Sampler[list[int]]):
    """For `DataLoader(WithIndex(dataset), batch_sampler=…)`: the scheduler chooses what is in each batch.

    Creates the job, or attaches to it, and yields this rank's share of each global batch as sample indices. A thread
    fetches batches ahead and brings feedback back; the training loop waits for neither. The batches are this rank's
    already: nothing must shard them again (Accelerate's `prepare`, Lightning's `use_distributed_sampler`).

    rank, world_size: by default those of torch.distributed, else of the environment (RANK, WORLD_SIZE), else 0 of 1.
    prefetch: batches fetched ahead of the loader. on_outage: what happens when a batch is needed and the service has
    been out of reach for `outage_after` seconds: "wait" for it, "raise" OutageError, or go on with a "local" uniform
    order over what is left of the epoch, of which the service is told afterwards.

    It ends in bounded time whatever the service does: `close` takes its timeout and a second, leaving a `with` block
    by an exception two seconds, the end of the process without either six.
    """

    def __init__(
        self,
        client: SchedulerClient | str,
        spec: JobSpec,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        prefetch: int = 16,
        on_outage: OnOutage = "wait",
        outage_after: float = 10.0,
    ) -> None:
        self.client = SchedulerClient(client) if isinstance(client, str) else client
        self.spec = spec
        self.rank, self.world_size = _placement(rank, world_size)
        if spec.batch_size % self.world_size:
            raise ValueError(f"world_size must divide the batch size {spec.batch_size}, got {self.world_size}")
        if not 1 <= prefetch <= MAX_COUNT:
            raise ValueError(f"prefetch must be at least 1 and at most {MAX_COUNT}, got {prefetch}")
        if on_outage not in ("wait", "local", "raise"):
            raise ValueError(f"on_outage must be wait, local or raise, got {on_outage!r}")
        if on_outage == "local" and self.world_size > 1:
            raise ValueError(
                f"on_outage must be wait or raise with more than one rank, got local with {self.world_size}: ranks "
                "that lose the service at different steps would draw different batches"
            )
        self._calendar = spec.calendar()
        self._is_placed_by_default = rank is None
        self._patience = None if on_outage == "wait" else outage_after
        self._interrupted = False
        state = self._insist(lambda once: once.create_job(spec))
        self.joined_at = state.next_step  # steps that were handed out before this process came
        self._courier = Courier(
            self.client, spec, self.rank, self.world_size, prefetch, on_outage, outage_after, state.next_step
        )
        own = self.client if isinstance(client, str) else None
        self._finalizer = weakref.finalize(self, _close, self._courier, own, 5.0)
        self._own_client = own
        self._position = 0  # first step not yet yielded
        self._started = 0  # where the latest iteration began
        self._exhausted = True  # whether it ended by itself
        self._last_fed = -1
        self._fed = False
        self._by_indices: dict[bytes, list[int]] = {}  # this rank's rows -> steps given out, oldest first
        self._recall()

    # What a DataLoader calls.

    def __iter__(self) -> Iterator[list[int]]:
        self._check_placement()
        self._settle()
        epoch = self._calendar.epoch_of(self._position)
        self._courier.begin(self._position, self._calendar.epoch_start(epoch + 1))
        self._started, self._exhausted = self._position, False
        while (batch := self._courier.take()) is not None:
            rows = self._rows(batch)
            self._by_indices.setdefault(rows.tobytes(), []).append(batch.step)
            self._position = batch.step + 1
            yield rows.tolist()
        self._exhausted = not self._interrupted

    def __len__(self) -> int:
        """Batches of the epoch that the next batch belongs to."""
        epoch = self._calendar.epoch_of(self._position)
        return self._calendar.epoch_start(epoch + 1) - self._calendar.epoch_start(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch (from 0), unless the position is within it already; without a call, epochs follow in turn."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if self._calendar.epoch_of(self._position) != epoch:
            self._settle()
            self._skip_to(self._calendar.epoch_start(epoch))

    @property
    def batch_size(self) -> int:
        """Asked for by those alone who share out a batch sampler among ranks, such as Accelerate and Lightning."""
        if self.world_size == 1:
            raise AttributeError("batch_size")
        self._refuse_sharding("something asks for its batch_size in order to shard it")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ScheduledBatchSampler can't be sent to another process or copied: create one there")

    # What a training loop calls.

    def batch_of(self, index: Tensor | Sequence[int] | Int64) -> ScheduledBatch:
        """The batch with these sample indices (g,), in the order in which `WithIndex` gave them.

        ValueError if this rank was given no such batch, or its feedback is in.
        """
        rows = np.atleast_1d(np.asarray(index.cpu() if isinstance(index, Tensor) else index, dtype=np.int64))
        steps = self._by_indices.get(rows.tobytes())
        if not steps:
            self._check_sharding(rows)
            raise ValueError(
                f"index must be a batch of this rank that has no feedback yet, as WithIndex gave it, got {rows[:8]}…"
            )
        return self._courier.open_steps()[steps[0]]

    def feedback(
        self, index: int | np.integer[Any] | Tensor | Sequence[int], measurement: Measurement | None = None
    ) -> None:
        """Say that a batch was trained on, and what was measured of it. Call it once after every step.

        index: the indices (g,) that `WithIndex` gave with the batch, or the number of the step. It returns at once:
        values on a device are copied and sent in the background.
        """
        batch = self._open_step(int(index)) if isinstance(index, int | np.integer) else self.batch_of(index)
        share = self.spec.batch_size // self.world_size
        if measurement is not None and len(measurement.similarity) != share:
            raise ValueError(f"measurement must have {share} samples, got {len(measurement.similarity)}")
        heads = len(self.spec.modalities) + 1
        if measurement is not None and measurement.probabilities.shape[1] != heads:
            raise ValueError(f"measurement must have {heads} heads, got {measurement.probabilities.shape[1]}")
        self._fed = True
        self._last_fed = max(self._last_fed, batch.step)
        self._send(batch, None if measurement is None else packed(measurement))

    def validation(
        self, *, loss: float, accuracy: float, modalities: Mapping[str, tuple[float, float]], step: int | None = None
    ) -> None:
        """Report a validation, from one rank. The reward of the intervals since the last report comes of it.

        loss, accuracy: of the joint head; modalities: (accuracy, mean true-label probability) of each unimodal head;
        step: steps trained so far, by default `batches_trained`. It returns at once. A report that is not finite (a
        diverged model) is left out, with a warning.
        """
        if set(modalities) != set(self.spec.modalities):
            raise ValueError(f"modalities must be {self.spec.modalities}, got {sorted(modalities)}")
        numbers = [loss, accuracy, *(number for head in modalities.values() for number in head)]
        if not np.isfinite(np.array([float(number) for number in numbers])).all():
            warnings.warn(f"a validation report was left out: it is not finite, {numbers}", stacklevel=2)
            return
        report = ValidationReport(
            step=self.batches_trained if step is None else step,
            loss=float(loss),
            accuracy=_share(accuracy),
            modalities={
                name: ModalityReport(accuracy=_share(a), probability=_share(p)) for name, (a, p) in modalities.items()
            },
        )
        self._courier.put(ValidationItem(report))

    def scores(self, indices: Int64, measurement: Measurement) -> None:
        """Send a measuring pass over samples `indices` (k,), such as `curriculum` wants before training."""
        values = packed(measurement).read()
        for start in range(0, len(indices), SCORES_CHUNK):
            part = slice(start, start + SCORES_CHUNK)
            message = Scores(indices=np.asarray(indices[part], dtype=np.int64), values=values[part])
            self._insist(partial(SchedulerClient.scores, name=self.spec.name, scores=message))

    @property
    def batches_trained(self) -> int:
        """Steps trained on, counted from the job's start: those before the first that has no feedback yet.

        In a loop that never gives feedback, those that were yielded.
        """
        return min(self._courier.open_steps(), default=self._position) if self._fed else self._position

    @property
    def stats(self) -> Stats:
        """What scheduling cost so far."""
        return self._courier.stats

    def interrupt(self) -> None:
        """End the iteration at its next batch, and any waiting for the service; safe in a signal handler.

        The sampler then gives out nothing more: what is left to do is `state_dict` and `close`.
        """
        self._interrupted = True
        self._courier.interrupt()

    def flush(self, timeout: float = 30.0) -> bool:
        """Send all feedback now; False if that did not succeed in `timeout` seconds."""
        return self._courier.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Send what is queued, at most for `timeout` seconds, and end the thread."""
        self._finalizer.detach()
        _close(self._courier, self._own_client, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(5.0 if kind is None and not self._interrupted else SOON)

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Where training is: counts the batches trained on, not those that loader workers hold in advance.

        A batch counts as trained on once its feedback is given; where a loop never gives feedback, once it is
        yielded. Holds only numbers, strings and tensors, and with them the feedback still on its way.

        With several ranks it waits until the service has the feedback of all of them, so that the state of any one
        rank is enough: at most `RANKS_SECONDS`, after which it warns. It calls no other rank.
        """
        step = self.batches_trained
        if self.world_size > 1 and self._fed and not self._have_all_fed(step):
            warnings.warn(
                f"a checkpoint of step {step} is taken without the feedback of all ranks, for which the service would "
                f"wait its patience of {self.spec.patience:g} s after a resumption",
                stacklevel=2,
            )
        return {
            "version": STATE_VERSION,
            "job": self.spec.name,
            "step": step,
            "fed": self._fed,
            "unsent": [saved(item) for item in self._courier.unsent()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was; on any number of ranks. Raises ValueError for another job's state."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"version must be {STATE_VERSION}, got {state.get('version')!r}")
        if state["job"] != self.spec.name:
            raise ValueError(f"job must be {self.spec.name!r}, got {state['job']!r}")
        self._courier.reset()
        self._by_indices.clear()
        self._position = self._started = int(state["step"])
        self._fed = bool(state["fed"])
        self._exhausted, self._last_fed = True, -1
        self._recall()
        for item in state["unsent"]:
            # What the service has after all, it will take for a repetition.
            self._courier.restore(restored(item), self._position)

    # Inside.

    def _have_all_fed(self, step: int) -> bool:
        """Wait until the feedback of all ranks for the steps before this one has reached the service."""
        deadline = time.monotonic() + (SOON if self._interrupted else RANKS_SECONDS)
        once = self.client.without_retries()
        self.flush(deadline - time.monotonic())
        for tried in itertools.count():
            with suppress(OutageError):
                if once.job(self.spec.name).fed_back_until >= step:
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, BACKOFF[min(tried, len(BACKOFF) - 1)]))
        return False

    def _rows(self, batch: ScheduledBatch) -> Int64:
        share = self.spec.batch_size // self.world_size
        return batch.indices[self.rank * share : (self.rank + 1) * share]

    def _open_step(self, step: int) -> ScheduledBatch:
        batch = self._courier.open_steps().get(step)
        if batch is None:
            raise ValueError(f"step must be one that was given out and has no feedback yet, got {step}")
        return batch

    def _send(self, batch: ScheduledBatch, values: Transfer | None) -> None:
        self._forget_rows(batch)
        self._courier.put(FeedbackItem(batch.step, self.rank, self.world_size, values))

    def _forget_rows(self, batch: ScheduledBatch) -> None:
        key = self._rows(batch).tobytes()
        steps = self._by_indices.get(key, [])
        if batch.step in steps:
            steps.remove(batch.step)
        if not steps:
            self._by_indices.pop(key, None)

    def _settle(self) -> None:
        """Before another iteration: what became of the batches that were given out and have no feedback?

        An iteration that was broken off is taken up behind the last batch with feedback: what loader workers had
        pulled ahead, and what was only peeked at, comes again. All else was trained on without telling, and the
        service waits for it: it counts as not measured.
        """
        if not self._exhausted:
            self._position = max(self._started, self._last_fed + 1)
            for step, batch in self._courier.open_steps().items():
                if step >= self._position:
                    self._forget_rows(batch)
            self._courier.abandon(self._position)
            self._exhausted = True
        left = self._courier.open_steps()
        if left and self._fed:
            warnings.warn(
                f"no feedback was given for {len(left)} batches from step {min(left)} on: they count as not measured",
                stacklevel=3,
            )
        for batch in left.values():
            self._send(batch, None)

    def _skip_to(self, step: int) -> None:
        """Move on without training on what lies between; the service hands out every step in turn."""
        if step > self._position:
            warnings.warn(f"steps {self._position} to {step - 1} are skipped without training on them", stacklevel=3)
            self._courier.begin(self._position, step)
            while (batch := self._courier.take()) is not None:
                self._send(batch, None)
                self._position = batch.step + 1
        if not self._interrupted:
            self._position = step

    def _recall(self) -> None:
        """Where the local order is wanted, learn what the service handed out of this epoch to an earlier process."""
        epoch = self._calendar.epoch_of(self._position)
        step = self._calendar.epoch_start(max(0, epoch - 1))
        stop = min(self._courier.handed_out, self._calendar.epoch_start(epoch + 1))
        while self._courier.on_outage == "local" and step < stop:
            batches = self._insist(
                partial(SchedulerClient.batches, name=self.spec.name, start=step, count=min(1024, stop - step))
            )
            self._courier.remember(batches, self._position)
            step += len(batches.indices)

    def _insist(self, call: Callable[[SchedulerClient], T]) -> T:
        """Call until the service answers, in the training thread and as long as `on_outage` says."""
        once, started = self.client.without_retries(), time.monotonic()
        for tried in itertools.count():
            try:
                return call(once)
            except StrangeAnswerError:
                if tried >= len(BACKOFF):  # a wrong address, most likely
                    raise
            except OutageError as error:
                if self._interrupted or (self._patience is not None and time.monotonic() - started >= self._patience):
                    raise
                if tried % 10 == 5:
                    log.warning("scheduler out of reach, trying on: %s", error)
            time.sleep(BACKOFF[min(tried, len(BACKOFF) - 1)])
        raise AssertionError

    # How its batches may be shared out: not at all.

    def _check_placement(self) -> None:
        if self._is_placed_by_default and (now := _placement(None, None)) != (self.rank, self.world_size):
            raise ValueError(
                f"rank and world_size were {self.rank} of {self.world_size} when the sampler was created, got "
                f"{now[0]} of {now[1]} by now: create it after torch.distributed's process group, or give it both"
            )

    def _check_sharding(self, rows: Int64) -> None:
        """What became of a batch that this rank was not given, if that can be told."""
        given = [set(self._rows(batch).tolist()) for batch in self._courier.open_steps().values()]
        came = set(rows.tolist())
        if self.world_size > 1 and came not in given and (self._last_fed < 0 or any(came < whole for whole in given)):
            self._refuse_sharding(f"the loop trains on samples {rows[:8]}…, no batch of rank {self.rank}'s")

    def _refuse_sharding(self, found: str) -> NoReturn:
        raise DoubleShardingError(
            f"this sampler yields its rank's share of each batch already, but {found}: keep the DataLoader out of "
            "Accelerate's prepare(…), and give Lightning's Trainer use_distributed_sampler=False"
        )


def _share(value: float) -> float:
    """A share in [0, 1]; half precision may exceed it a little."""
    return min(1.0, float(value)) if value <= 1.001 else float(value)


def _close(courier: Courier, client: SchedulerClient | None, timeout: float) -> None:
    courier.close(timeout)
    if client is not None:
        client.close()


def _placement(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank and world_size must be given together, got {rank} and {world_size}")
    if rank is not None and world_size is not None:
        placement = rank, world_size
    elif torch.distributed.is_available() and torch.distributed.is_initialized():
        placement = torch.distributed.get_rank(), torch.distributed.get_world_size()
    else:
        placement = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= placement[0] < placement[1]:
        raise ValueError(f"rank must be at least 0 and less than world_size = {placement[1]}, got {placement[0]}")
    return placement
