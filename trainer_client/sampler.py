"""A batch sampler whose order the scheduler decides."""

import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from bss_service.core.arrays import Int64
from bss_service.protocol.jobs import JobSpec, JobState
from bss_service.protocol.training import MAX_COUNT, Scores
from bss_service.protocol.validation import ModalityReport, ValidationReport
from trainer_client.client import SchedulerClient
from trainer_client.exchange.exchange import Exchange
from trainer_client.exchange.foreground import Foreground
from trainer_client.exchange.local import locally_drawn
from trainer_client.exchange.outage import OnOutage, Outage
from trainer_client.exchange.outbox import FeedbackItem, LocalItem, ValidationItem, restored, saved
from trainer_client.exchange.placement import double_sharding, placement
from trainer_client.exchange.prefetch import ScheduledBatch, scheduled
from trainer_client.exchange.stats import Stats
from trainer_client.exchange.transfer import Transfer, packed
from trainer_client.measurement import Measurement
from trainer_client.retry import Backoff
from trainer_client.with_index import rows_of

STATE_VERSION: Final = 1
SCORES_CHUNK: Final = 2**18  # samples of a measuring pass in one message
SOON: Final = 1.0  # seconds to send what is queued when a loop ends by an exception
RECALLED: Final = 1024  # batches in one answer when a run is taken up again
RANKS_SECONDS: Final = 10.0  # at most so long, a checkpoint waits for the feedback of the other ranks


class ScheduledBatchSampler(Sampler[list[int]]):
    """For `DataLoader(WithIndex(dataset), batch_sampler=…)`: the scheduler chooses what is in each batch.

    Creates the job, or attaches to it, and yields this rank's share of each global batch as sample indices. A thread
    fetches batches ahead and brings feedback back; the training loop waits for neither. The batches are this rank's
    already: nothing must shard them again (Accelerate's `prepare`, Lightning's `use_distributed_sampler`).

    client: a SchedulerClient, or the URL of the service; None: what BSS_URL and BSS_TOKEN in the environment name.
    rank, world_size: by default those of torch.distributed, else of the environment (RANK, WORLD_SIZE), else 0 of 1.
    prefetch: batches fetched ahead of the loader. on_outage: what happens when a batch is needed and the service has
    been out of reach for `outage_after` seconds: "wait" for it, "raise" OutageError, or go on with a "local" uniform
    order over what is left of the epoch, of which the service is told afterwards.

    It ends in bounded time whatever the service does: `close` takes its timeout and a second, leaving a `with` block
    by an exception two seconds, the end of the process without either six.
    """

    def __init__(
        self,
        spec: JobSpec,
        client: SchedulerClient | str | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        prefetch: int = 16,
        on_outage: OnOutage = "wait",
        outage_after: float = 10.0,
    ) -> None:
        self.spec = spec
        self._placement = placement(rank, world_size)
        self.rank, self.world_size = self._placement
        _check_options(spec, self.world_size, prefetch, on_outage)
        self._calendar = spec.calendar()
        self._signals = spec.measurements()
        self._is_placed_by_default = rank is None
        self._on_outage = on_outage
        self.client = client if isinstance(client, SchedulerClient) else SchedulerClient(client)
        self._own_client = None if self.client is client else self.client
        self._foreground = Foreground(self.client, None if on_outage == "wait" else outage_after)
        self.joined_at = self._attach().next_step  # steps that were handed out before this process came
        self._exchange = Exchange(
            self.client,
            spec,
            self._placement,
            prefetch=prefetch,
            outage=Outage(on_outage, outage_after),
            handed_out=self.joined_at,
        )
        self._finalizer = weakref.finalize(self, _close, self._exchange, self._own_client, 5.0)
        self._position = 0  # first step not yet yielded
        self._started = 0  # where the latest iteration began
        self._exhausted = True  # whether it ended by itself
        self._last_fed = -1
        self._fed = False
        self._recall()

    # What a DataLoader calls.

    def __iter__(self) -> Iterator[list[int]]:
        self._check_placement()
        self._settle()
        epoch = self._calendar.epoch_of(self._position)
        self._exchange.begin(self._position, self._calendar.epoch_start(epoch + 1))
        self._started, self._exhausted = self._position, False
        while (batch := self._exchange.take()) is not None:
            self._position = batch.step + 1
            yield self._placement.rows(batch.indices).tolist()
        self._exhausted = not self._foreground.interrupted

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
        raise double_sharding("something asks for its batch_size in order to shard it")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ScheduledBatchSampler can't be sent to another process or copied: create one there")

    # What a training loop calls.

    def batch_of(self, index: Tensor | Sequence[int] | Int64) -> ScheduledBatch:
        """The batch with these sample indices (g,), in the order in which `WithIndex` gave them.

        TypeError if they are no indices, ValueError if this rank was given no such batch, or its feedback is in.
        """
        rows = rows_of(index)
        for batch in self._exchange.open_steps().values():
            if self._placement.rows(batch.indices).tobytes() == rows.tobytes():
                return batch
        self._check_sharding(rows)
        raise ValueError(
            f"index must be a batch of this rank that has no feedback yet, as WithIndex gave it, got {rows[:8]}…"
        )

    def feedback(
        self, index: int | np.integer[Any] | Tensor | Sequence[int], measurement: Measurement | None = None
    ) -> None:
        """Say that a batch was trained on, and what was measured of it. Call it once after every step.

        index: the indices (g,) that `WithIndex` gave with the batch, or the number of the step. measurement: by signal
        of the job; one that is missing, or a value that is not finite, counts as not known. It returns at once: values
        on a device are copied and sent in the background. Built-in signals that the job does not declare are left out.
        Raises ValueError naming another that it does not declare, or one of another shape than (g,) or (g, H).
        """
        batch = self._open_step(int(index)) if isinstance(index, int | np.integer) else self.batch_of(index)
        share = self.spec.batch_size // self.world_size
        values = None if measurement is None else packed(measurement, self._signals, share)
        self._fed = True
        self._last_fed = max(self._last_fed, batch.step)
        self._send(batch, values)

    def validation(
        self,
        *,
        loss: float,
        accuracy: float,
        modalities: Mapping[str, tuple[float, float]] | None = None,
        step: int | None = None,
    ) -> None:
        """Report a validation, from one rank. The reward of the intervals since the last report comes of it.

        loss, accuracy: of the joint head; modalities: (accuracy, mean true-label probability) of each unimodal head;
        step: steps trained so far, by default `batches_trained`. It returns at once. A report that is not finite (a
        diverged model) is left out, with a warning.
        """
        modalities = modalities or {}
        expected = self.spec.heads[:-1]
        if set(modalities) != set(expected):
            raise ValueError(f"modalities must be {expected}, got {sorted(modalities)}")
        numbers = [float(number) for number in (loss, accuracy, *chain.from_iterable(modalities.values()))]
        if not np.isfinite(numbers).all():
            warnings.warn(f"a validation report was left out: it is not finite, {numbers}", stacklevel=2)
            return
        heads = {n: ModalityReport(accuracy=_share(a), probability=_share(p)) for n, (a, p) in modalities.items()}
        step = self.batches_trained if step is None else step
        report = ValidationReport(step=step, loss=float(loss), accuracy=_share(accuracy), modalities=heads)
        self._exchange.put(ValidationItem(report))

    def scores(self, indices: Int64, measurement: Measurement) -> None:
        """Send a measuring pass over samples `indices` (k,), such as `curriculum` wants before training."""
        values = packed(measurement, self._signals, len(indices)).read()
        for start in range(0, len(indices), SCORES_CHUNK):
            part = slice(start, start + SCORES_CHUNK)
            message = Scores(indices=np.asarray(indices[part], dtype=np.int64), values=values[part])
            self._foreground.call(partial(SchedulerClient.scores, name=self.spec.name, scores=message))

    @property
    def batches_trained(self) -> int:
        """Steps trained on, counted from the job's start: those before the first that has no feedback yet.

        In a loop that never gives feedback, those that were yielded.
        """
        return min(self._exchange.open_steps(), default=self._position) if self._fed else self._position

    @property
    def stats(self) -> Stats:
        """What scheduling cost so far."""
        return self._exchange.stats

    def interrupt(self) -> None:
        """End the iteration at its next batch, and any waiting for the service; safe in a signal handler.

        The sampler then gives out nothing more: what is left to do is `state_dict` and `close`.
        """
        self._foreground.interrupted = True
        self._exchange.interrupt()

    def flush(self, timeout: float = 30.0) -> bool:
        """Send all feedback now; False if that did not succeed in `timeout` seconds."""
        return self._exchange.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Send what is queued, at most for `timeout` seconds, and end the thread."""
        self._finalizer.detach()
        _close(self._exchange, self._own_client, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(5.0 if kind is None and not self._foreground.interrupted else SOON)

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
            "unsent": [saved(item) for item in self._exchange.unsent()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was; on any number of ranks. Raises ValueError for another job's state."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"version must be {STATE_VERSION}, got {state.get('version')!r}")
        if state["job"] != self.spec.name:
            raise ValueError(f"job must be {self.spec.name!r}, got {state['job']!r}")
        self._exchange.reset()
        self._position = self._started = int(state["step"])
        self._fed = bool(state["fed"])
        self._exhausted, self._last_fed = True, -1
        self._recall()
        for item in map(restored, state["unsent"]):
            if isinstance(item, LocalItem) and item.batches:
                batches = locally_drawn(item.start, item.batches, self._calendar)
                self._exchange.recall(batches, self._position)
            self._exchange.put(item)  # what the service has after all, it will take for a repetition

    # Inside.

    def _attach(self) -> JobState:
        try:
            return self._foreground.call(lambda once: once.create_job(self.spec))
        except BaseException:
            if self._own_client is not None:
                self._own_client.close()
            raise

    def _have_all_fed(self, step: int) -> bool:
        """Wait until the feedback of all ranks for the steps before this one has reached the service."""
        seconds = SOON if self._foreground.interrupted else RANKS_SECONDS
        backoff = Backoff(seconds=seconds)
        self.flush(seconds)
        return self._foreground.is_fed_back(self.spec.name, step, backoff)

    def _open_step(self, step: int) -> ScheduledBatch:
        batch = self._exchange.open_steps().get(step)
        if batch is None:
            raise ValueError(f"step must be one that was given out and has no feedback yet, got {step}")
        return batch

    def _send(self, batch: ScheduledBatch, values: Transfer | None) -> None:
        self._exchange.put(FeedbackItem(batch.step, self._placement, values))

    def _settle(self) -> None:
        """Before another iteration: what became of the batches that were given out and have no feedback?

        An iteration that was broken off is taken up behind the last batch with feedback: what loader workers had
        pulled ahead, and what was only peeked at, comes again. All else was trained on without telling, and the
        service waits for it: it counts as not measured.
        """
        if not self._exhausted:
            self._position = max(self._started, self._last_fed + 1)
            self._exchange.abandon(self._position)
            self._exhausted = True
        left = self._exchange.open_steps()
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
            self._exchange.begin(self._position, step)
            while (batch := self._exchange.take()) is not None:
                self._send(batch, None)
                self._position = batch.step + 1
        if not self._foreground.interrupted:
            self._position = step

    def _recall(self) -> None:
        """Where the local order is wanted, learn what the service handed out of this epoch to an earlier process."""
        if self._on_outage != "local":
            return
        epoch = self._calendar.epoch_of(self._position)
        step = self._calendar.epoch_start(max(0, epoch - 1))
        stop = min(self._exchange.prefetch.handed_out, self._calendar.epoch_start(epoch + 1))
        while step < stop:
            call = partial(SchedulerClient.batches, name=self.spec.name, start=step, count=min(RECALLED, stop - step))
            batches = self._foreground.call(call)
            self._exchange.recall(scheduled(batches), self._position)
            step += len(batches.indices)

    # How its batches may be shared out: not at all.

    def _check_placement(self) -> None:
        if self._is_placed_by_default and (now := placement()) != self._placement:
            raise ValueError(
                f"rank and world_size were {self.rank} of {self.world_size} when the sampler was created, got "
                f"{now.rank} of {now.world_size} by now: create it after torch.distributed's process group, or give it "
                "both"
            )

    def _check_sharding(self, rows: Int64) -> None:
        """What became of a batch that this rank was not given, if that can be told."""
        given = [set(self._placement.rows(b.indices).tolist()) for b in self._exchange.open_steps().values()]
        came = set(rows.tolist())
        if self.world_size > 1 and came not in given and (self._last_fed < 0 or any(came < whole for whole in given)):
            raise double_sharding(f"the loop trains on samples {rows[:8]}…, no batch of rank {self.rank}'s")


def _check_options(spec: JobSpec, world_size: int, prefetch: int, on_outage: str) -> None:
    if spec.batch_size % world_size:
        raise ValueError(f"world_size must divide the batch size {spec.batch_size}, got {world_size}")
    if not 1 <= prefetch <= MAX_COUNT:
        raise ValueError(f"prefetch must be at least 1 and at most {MAX_COUNT}, got {prefetch}")
    if on_outage not in ("wait", "local", "raise"):
        raise ValueError(f"on_outage must be wait, local or raise, got {on_outage!r}")
    if on_outage == "local" and world_size > 1:
        raise ValueError(
            f"on_outage must be wait or raise with more than one rank, got local with {world_size}: ranks "
            "that lose the service at different steps would draw different batches"
        )


def _share(value: float) -> float:
    """A share in [0, 1]; half precision may exceed it a little."""
    return min(1.0, float(value)) if value <= 1.001 else float(value)


def _close(exchange: Exchange, client: SchedulerClient | None, timeout: float) -> None:
    exchange.close(timeout)
    if client is not None:
        client.close()
