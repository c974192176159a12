"""A batch sampler whose order the scheduler decides."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from bss_service.core.arrays import Int64
from bss_service.core.calendar import Calendar
from bss_service.core.samples.dynamics import are_kept
from bss_service.protocol.jobs import JobChange, JobSpec
from bss_service.protocol.training import MAX_COUNT, JobSize, Scores
from bss_service.protocol.training import Batches as ServedBatches
from bss_service.protocol.validation import ModalityReport, ValidationReport
from trainer_client.client import SchedulerClient
from trainer_client.errors import SecondIterationError
from trainer_client.exchange.attachment import Checkpoint, IfExists, is_named
from trainer_client.exchange.exchange import Exchange
from trainer_client.exchange.local import locally_drawn
from trainer_client.exchange.outage import OnOutage
from trainer_client.exchange.outbox import FeedbackItem, Item, LocalItem, ValidationItem, restored, saved
from trainer_client.exchange.placement import (
    Placement,
    check_world_size,
    double_sharding,
    is_launched,
    placement,
    positions,
    warn_if_stray,
)
from trainer_client.exchange.prefetch import ScheduledBatch, scheduled
from trainer_client.exchange.session import SOON, Session
from trainer_client.exchange.stats import Stats
from trainer_client.exchange.transfer import Transfer, packed
from trainer_client.logits.confusion import ConfusionMeter
from trainer_client.logits.measurement import Measurement
from trainer_client.samples.descriptions import Show, messages, orders
from trainer_client.samples.groups import GroupsOf, declared
from trainer_client.samples.iteration import Batches, Pass, is_asked_by_loader
from trainer_client.samples.keys import in_messages
from trainer_client.samples.with_index import rows_of

STATE_VERSION: Final = 1
SCORES_CHUNK: Final = 2**18  # samples of a measuring pass in one message
TOO_LATE: Final = "; what comes after the loop has asked for the next interval is too late, but for the job's lag"
RECALLED: Final = 1024  # batches in one answer when a run is taken up again


class ScheduledBatchSampler(Sampler[list[int]]):
    """For `DataLoader(WithIndex(dataset), batch_sampler=…)`: the scheduler chooses what is in each batch.

    Creates the job, or attaches to it, and yields this rank's share of each global batch as sample indices. A thread
    fetches batches ahead and brings feedback back; the training loop waits for neither. The batches are this rank's
    already: nothing must shard them again (Accelerate's `prepare`, Lightning's `use_distributed_sampler`).

    client: a SchedulerClient, or the URL of the service; None: what BSS_URL and BSS_TOKEN in the environment name.
    rank, world_size: by default those of torch.distributed, else of the environment (RANK, WORLD_SIZE), else 0 of 1,
    read when a pass begins: a process group may come after the sampler, and another may take its place between passes.
    world_size alone says how many there will be.
    prefetch: batches fetched ahead of the loader. if_exists: what happens at the first use if the job was handed out to
    an earlier run, unless `load_state_dict` goes on with that: "fail" raises JobExistsError; "new" makes a job name-2,
    name-3 … (see `spec.name`); "resume" goes on where that run was, with a model that the caller has restored. Another
    process that trains as the same rank of the same job is refused. on_outage: what happens when a batch is needed, or
    the first time the job, and the service has been out of reach for `outage_after` seconds: "wait" for it, "raise"
    OutageError, or go on with a "local" uniform order over what is left of the epoch, of which the service is told
    afterwards. follows: this process is one of several that are the same rank, as under tensor, pipeline and context
    parallelism (see `integrations.meshes`), and another of them is the one that has the rank's place: it gets the same
    rows, and its feedback and reports go nowhere.
    groups: of the samples, (n,), such as their classes or domains, as numbers from 0 on or as names; at
    most 65,536, or 1,000 names: what an action's `group_balance` and `mixture` weigh. The same on all ranks.

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
        prefetch: int = 32,
        if_exists: IfExists = "fail",
        on_outage: OnOutage = "wait",
        outage_after: float = 10.0,
        follows: bool = False,
        groups: GroupsOf | None = None,
    ) -> None:
        self._given = rank, world_size
        spec, numbers = (spec, None) if groups is None else declared(spec, groups)
        self._placement = placement(rank, world_size)
        self._may_be_stray = rank is None
        if not is_launched():
            self._tell_of_stray(spec)
        _check_options(prefetch, if_exists, on_outage)
        _check_world(spec, self._placement.world_size, on_outage)
        _check_following(spec, follows, if_exists, on_outage)
        self._signals = spec.measurements()
        self._session = Session(
            spec,
            client,
            prefetch=prefetch,
            if_exists=if_exists,
            on_outage=on_outage,
            outage_after=outage_after,
            follows=follows,
            groups=numbers,
        )
        self._position = 0  # where the next pass begins, if none has begun
        self._pass: Pass | None = None  # the latest that a batch was asked of
        self._opened: Pass | None = None  # the latest
        self._reached_by = spec  # by which the latest pass has its end
        self._is_epoch_over = False  # whether the state that was loaded has the epoch's end still before it
        self._last_fed = -1
        self._fed = False
        self._weighed: set[int] = set()  # steps whose weights the loop could see, and that have no feedback yet

    @property
    def spec(self) -> JobSpec:
        """The job's; with if_exists="new" its name may be another than the one that was given."""
        return self._session.spec

    @property
    def rank(self) -> int:
        """Which of the data-parallel ranks this process is."""
        return self._here.rank

    @property
    def world_size(self) -> int:
        """How many data-parallel ranks there are."""
        return self._here.world_size

    @property
    def _calendar(self) -> Calendar:
        return self.spec.calendar()

    @property
    def client(self) -> SchedulerClient:
        """Who calls the service."""
        return self._session.client

    # What a DataLoader calls.

    def __iter__(self) -> Iterator[list[int]]:
        self._opened = Pass(is_over=self._is_epoch_over)
        self._is_epoch_over = False
        return Batches(self._opened, self._begin, self._take)

    def _begin(self, asking: Pass) -> tuple[int, int]:
        """The steps of a pass whose first batch is asked for."""
        self._move()
        exchange = self._exchange
        self._tell_of_stray(self.spec)
        self._settle()
        self._weighed.intersection_update(exchange.open_steps())
        end = self._position if asking.is_over else self._end_of_pass(self._position)
        exchange.begin(self._position, end)
        self._reached_by = self.spec
        self._pass = asking
        return self._position, end

    def _take(self, asking: Pass) -> list[int] | None:
        """The next batch of a pass, this rank's rows of it."""
        if asking is not self._pass:
            raise SecondIterationError(
                f"an iteration over steps {asking.start} to {asking.stop - 1} goes on after another one over the same "
                "sampler has begun: make them one after the other, or look at the data through a loader of its own"
            )
        batch = self._exchange.take(asking.given)
        if self.spec is not self._reached_by:
            self._reach_end(asking)
        return None if batch is None else self._placement.rows(batch.indices).tolist()

    def _end_of_pass(self, step: int) -> int:
        """Where a pass ends that begins with a step: its epoch."""
        calendar = self._calendar
        return calendar.epoch_start(calendar.epoch_of(step) + 1)

    def _reach_end(self, asking: Pass) -> None:
        """Let a pass go to the end of its epoch: the answer with the first of its batches tells of a growth before."""
        self._reached_by, end = self.spec, self._end_of_pass(asking.start)
        if asking.start < asking.stop < end:
            asking.stop = end
            self._exchange.extend(end)

    def __len__(self) -> int:
        """Batches of an epoch since the job grew last; with tail="carry", of the longest: some have one less.

        So a schedule that is planned by `epochs * len(loader)` never ends before the run, which has
        `spec.calendar().epoch_start(epochs)` steps.
        """
        return -(-self._calendar.epoch_positions // self._calendar.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Go ahead to an epoch (from 0); without a call, epochs follow in turn.

        There is no way back: frameworks that count from 0 again after a resumption go on where training is.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if epoch and self._exchange and self._calendar.epoch_of(self._next_step()) < epoch:
            self._settle()
            while not self._session.is_interrupted and self._calendar.epoch_of(self._position) < epoch:
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

    def skip(self, index: int | np.integer[Any] | Tensor | Sequence[int]) -> None:
        """Say that a batch will not be trained on, for a loss that is not finite perhaps; `index` as for `feedback`."""
        self.feedback(index)

    def batch_of(self, index: Tensor | Sequence[int] | Int64) -> ScheduledBatch:
        """What is known of the samples of a batch: their `indices`, `weights` (see `weighted`), and its step.

        index: (g,), as `WithIndex` gave them with the batch, or some of them; so are its arrays. TypeError if they are
        no indices, ValueError if this rank was given no such batch, or its feedback is in.
        """
        batch, places = self._matched(index)
        self._weighed.add(batch.step)
        share = self._placement.rows(np.arange(len(batch.indices)))
        return batch.part(share if places is None else share[places])

    def _matched(self, index: Tensor | Sequence[int] | Int64) -> tuple[ScheduledBatch, Int64 | None]:
        """The oldest batch that has all of some samples, and their places in this rank's share; None: they are all."""
        rows, open_steps = rows_of(index), self._exchange.open_steps().values()
        for batch in open_steps:
            if np.array_equal(self._placement.rows(batch.indices), rows):
                return batch, None
        shares = [(batch, self._placement.rows(batch.indices)) for batch in open_steps]
        self._check_sharding(rows, [share for _, share in shares])
        for batch, share in shares:
            if len(rows) and (places := positions(rows, share)) is not None:
                return batch, places
        raise ValueError(
            f"index must be a batch of this rank that has no feedback yet, or part of one, got {rows[:8]}…"
            + (TOO_LATE if self.stats.passed_over else "")
        )

    def feedback(
        self, index: int | np.integer[Any] | Tensor | Sequence[int], measurement: Measurement | None = None
    ) -> None:
        """Say that a batch was trained on, and what was measured of it. Call it once after every step.

        index: the indices (g,) that `WithIndex` gave with the batch, or the number of the step. It may be some of them,
        where a `collate_fn` dropped samples: the others count as not measured. measurement: by signal of the job; one
        that is missing, or a value that is not finite, counts as not known. It returns at once: values on a device are
        copied and sent in the background. Built-in signals that the job does not declare are left out. Raises
        ValueError naming another that it does not declare, or one of another shape than (g,) or (g, H).
        """
        if isinstance(index, int | np.integer):
            batch, rows = self._open_step(int(index)), None
        else:
            batch, rows = self._matched(index)
        self._check_weighed(batch, measurement)
        share = self.spec.batch_size // self.world_size
        values = None if measurement is None else packed(measurement, self._signals, share, rows)
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
        samples: int | None = None,
        confusion: ConfusionMeter | None = None,
    ) -> None:
        """Report a validation, from one rank. The reward of the intervals since the last report comes of it.

        loss, accuracy: of the joint head; modalities: (accuracy, mean true-label probability) of each unimodal head;
        step: steps trained so far, by default those up to here; samples: how many it rests on (one before the first
        step that rests on fewer than the next is not a reward's base); confusion: what the samples were taken for, of
        use to a job that declares the signals of evidence. It returns at once. A report that is not finite (a diverged
        model) is left out, with a warning.
        """
        exchange, modalities = self._exchange, modalities or {}
        expected = self.spec.heads[:-1]
        if set(modalities) != set(expected):
            raise ValueError(f"modalities must be {expected}, got {sorted(modalities)}")
        numbers = [float(number) for number in (loss, accuracy, *chain.from_iterable(modalities.values()))]
        if not np.isfinite(numbers).all():
            warnings.warn(f"a validation report was left out: it is not finite, {numbers}", stacklevel=2)
            return
        heads = {n: ModalityReport(accuracy=_share(a), probability=_share(p)) for n, (a, p) in modalities.items()}
        step = max(self._next_step(), self.batches_trained) if step is None else step
        report = ValidationReport(
            step=step,
            loss=float(loss),
            accuracy=_share(accuracy),
            modalities=heads,
            samples=samples,
            confusion=confusion.matrix() if confusion is not None and are_kept(self._signals) else None,
        )
        exchange.put(ValidationItem(report))

    def scores(self, indices: Int64, measurement: Measurement) -> None:
        """Send a measuring pass over samples `indices` (k,), such as `curriculum` wants before training."""
        values = packed(measurement, self._signals, len(indices)).read()
        job = self._exchange.spec.name
        for start in range(0, len(indices), SCORES_CHUNK):
            part = slice(start, start + SCORES_CHUNK)
            message = Scores(indices=np.asarray(indices[part], dtype=np.int64), values=values[part])
            self._session.call(partial(SchedulerClient.scores, name=job, scores=message))

    def grow(self, samples: int) -> None:
        """Let the job have so many samples, more than it has: those that the data set has by now.

        The first that it had keep their numbers. New ones come from the first epoch on of which nothing is drawn yet:
        between two epochs the next, but where an `interval` reaches into it. Any rank may call it, or all; a data set
        in workers of the loader must have grown there as well. Raises ConflictError for fewer than there are.
        """
        change = partial(SchedulerClient.change_job, name=self._exchange.spec.name, change=JobChange(samples=samples))
        self._exchange.resize(self._session.call(change).spec.size)

    def register(self, keys: Sequence[str]) -> Int64:
        """The samples that keys stand for, (k,): the same for the same key, whichever rank or run asks, and whenever.

        New keys are given the next indices, from 0 on, and the job grows by them as by `grow`. It returns when all have
        theirs.
        """
        name, indices = self._exchange.spec.name, [np.empty(0, np.int64)]
        for part in in_messages(keys):
            registering = partial(SchedulerClient.register_keys, name=name, keys=part, spec=self.spec)
            answer = self._session.call(registering)
            if answer.samples > self.spec.samples or answer.earlier:
                self._exchange.resize(JobSize(samples=answer.samples, earlier=answer.earlier))
            indices.append(answer.indices)
        return np.concatenate(indices)

    def describe(self, show: Show, samples: int = 100) -> None:
        """Let people see, on the service's page, what the most suspect samples are. Call it from one rank now and then.

        show: gives the text of a sample, or a PNG or JPEG file as bytes, of which Pillow makes a thumbnail of 64 × 64
        pixels; called with the index of each of so many samples whose label, and pair, is the least likely right, or
        whose loss is highest where the job has no evidence. It returns when all is sent; the service keeps 2,000 of a
        job, texts of 1,000 characters. Raises TypeError or ValueError naming the sample that it can't send.
        """
        job, spec = self._exchange.spec.name, self.spec
        listed = [
            self._session.call(partial(SchedulerClient.samples, name=job, order=order, limit=samples))
            for order in orders(spec)
        ]
        indices = dict.fromkeys(row.index for one in listed for row in one.samples)
        for message in messages(show, indices):
            self._session.call(partial(SchedulerClient.describe, name=job, told=message))

    @property
    def next_step(self) -> int:
        """The step that a pass would begin with now; the first to ask takes this rank's place in the job."""
        if self._session.exchange is None:
            _ = self._exchange
        return self._next_step()

    @property
    def is_last_batch(self) -> bool:
        """Whether the batch that the loop was given last ends its pass, whatever the loader has pulled ahead."""
        return self._pass is not None and self._pass.is_done

    @property
    def batches_trained(self) -> int:
        """Steps trained on, counted from the job's start: up to the latest that has feedback.

        In a loop that never gives feedback, those that it was given.
        """
        if self._pass is None or not self._fed:
            return self._position if self._pass is None else self._pass.given
        return max(self._pass.start, self._last_fed + 1)

    @property
    def stats(self) -> Stats:
        """What scheduling cost so far."""
        return self._session.stats

    def interrupt(self) -> None:
        """End the iteration at its next batch, and any waiting for the service; safe in a signal handler.

        The sampler then gives out nothing more: what is left to do is `state_dict` and `close`.
        """
        self._session.interrupt()

    def flush(self, timeout: float = 30.0) -> bool:
        """Send all feedback now; False if that did not succeed in `timeout` seconds."""
        return self._session.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Send what is queued, at most for `timeout` seconds, and end the thread."""
        self._session.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(5.0 if kind is None and not self._session.is_interrupted else SOON)

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Where training is: counts the batches trained on, not those that loader workers hold in advance.

        A batch counts as trained on once its feedback is given; where a loop never gives feedback, once it is
        yielded. Holds only numbers, strings and tensors, and with them the feedback still on its way.

        With several ranks it waits until the service has the feedback of all of them, so that the state of any one
        rank is enough: at most `RANKS_SECONDS`, after which it warns. It calls no other rank.

        torchdata's StatefulDataLoader asks for it with each batch that it pulls, and keeps it until the loop has the
        batch: it gets where its pulling is, and does not wait.
        """
        by_loader = is_asked_by_loader()
        step, is_over = self._pulled() if by_loader else (self.batches_trained, False)
        has_others = self.world_size > 1 or self._session.follows
        if not by_loader and has_others and self._fed and not self._session.is_fed_back(step):
            warnings.warn(
                f"a checkpoint of step {step} is taken without the feedback of all ranks, for which the service would "
                f"wait its patience of {self.spec.patience:g} s after a resumption",
                stacklevel=2,
            )
        return self._state(step, is_over, wait=not by_loader)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was; on any number of ranks.

        Raises ValueError for another job's state, OtherJobError where the job of that name is another by now, or was
        restored from a backup of an earlier step.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"version must be {STATE_VERSION}, got {state.get('version')!r}")
        if not is_named(state["job"], self.spec.name, self._session.if_exists):
            raise ValueError(f"job must be {self.spec.name!r}, got {state['job']!r}")
        checkpoint = Checkpoint(state.get("incarnation"), int(state["step"]))
        self._session.resume(self._place(), state["job"], checkpoint)
        self._exchange.reset()
        self._position, self._pass = int(state["step"]), None
        self._is_epoch_over = bool(state.get("epoch_over"))
        self._fed = bool(state["fed"])
        self._last_fed = -1
        self._recall()
        for item in map(restored, state["unsent"]):
            if isinstance(item, LocalItem) and item.batches:
                batches = locally_drawn(item.start, item.batches, self._calendar)
                self._exchange.recall(batches, self._position)
            self._exchange.put(item)  # what the service has after all, it will take for a repetition

    # Inside.

    @property
    def _exchange(self) -> Exchange:
        """The exchange with the service; the first to ask takes this rank's place in the job."""
        if self._session.exchange is None:
            self._position = self._session.join(self._place())
            self._recall()
        assert self._session.exchange is not None
        return self._session.exchange

    @property
    def _here(self) -> Placement:
        """The place that was taken, or that would be by now."""
        return placement(*self._given) if self._session.exchange is None else self._placement

    def _place(self) -> Placement:
        """The place to be in by now; another that was taken is given up."""
        rank, world_size = self._given
        now = placement(rank, world_size)
        if rank is None and world_size is not None:
            check_world_size(world_size)
        if now != self._placement:
            _check_world(self.spec, now.world_size, self._session.on_outage)
            self._session.leave()
            self._placement = now
        return now

    def _move(self) -> None:
        """Before a pass: go on at another place where the process group is another by now."""
        if self._session.exchange is None or self._session.is_interrupted:
            return
        if placement(*self._given) != self._placement:
            self._session.flush(SOON)
            self.load_state_dict(self._state(self._next_step()))

    def _open_step(self, step: int) -> ScheduledBatch:
        batch = self._exchange.open_steps().get(step)
        if batch is None:
            raise ValueError(f"step must be one that was given out and has no feedback yet, got {step}")
        return batch

    def _pulled(self) -> tuple[int, bool]:
        """The step that the loader will pull next, and whether it has the last batch of an epoch but not its end."""
        opened = self._opened
        if opened is None or not opened.has_begun:
            return self._next_step(), opened is not None and opened.is_over
        return opened.pulled, opened.is_over

    def _state(self, step: int, is_over: bool = False, *, wait: bool = True) -> dict[str, Any]:
        unsent = [] if self._session.exchange is None else self._unsent(step)
        return {
            "version": STATE_VERSION,
            "job": self.spec.name,
            "incarnation": self._session.incarnation,
            "step": step,
            "epoch_over": is_over,
            "fed": self._fed,
            "unsent": [saved(item, wait=wait) for item in unsent],
        }

    def _unsent(self, step: int) -> list[Item]:
        """What the service is to be told after a resumption at a step: also of what has no feedback by now."""
        left = self._exchange.open_steps()
        without = [FeedbackItem(s, self._placement, None, checksum=b.checksum()) for s, b in left.items() if s < step]
        return [*self._exchange.unsent(), *without]

    def _send(self, batch: ScheduledBatch, values: Transfer | None) -> None:
        self._exchange.put(FeedbackItem(batch.step, self._placement, values))

    def _next_step(self) -> int:
        """Where the next pass is to begin.

        After a pass whose loop was given every batch, with the next epoch. One that was broken off is taken up behind
        the last batch with feedback: what loader workers had pulled ahead, and what was only peeked at, comes again.
        """
        if self._pass is None:
            return self._position
        return self._pass.stop if self._pass.is_done else max(self._pass.start, self._last_fed + 1)

    def _settle(self) -> None:
        """Before another pass: batches without feedback come again, or count as not measured."""
        if self._pass is None or self._session.is_interrupted:
            return
        self._position, self._pass = self._next_step(), None
        self._exchange.abandon(self._position)
        left = self._exchange.open_steps()
        if left:
            warnings.warn(
                f"no feedback was given for {len(left)} batches from step {min(left)} on: they count as not measured. "
                "After each step call sampler.feedback(index, measure(...)), of which the scheduler learns, or "
                "sampler.skip(index)",
                stacklevel=3,
            )
        for batch in left.values():
            self._send(batch, None)

    def _skip_to(self, step: int) -> None:
        """Move on without training on what lies between; the service hands out every step in turn."""
        if step > self._position:
            warnings.warn(f"steps {self._position} to {step - 1} are skipped without training on them", stacklevel=3)
            self._exchange.begin(self._position, step)
            while (batch := self._exchange.take(self._position)) is not None:
                self._send(batch, None)
                self._position = batch.step + 1
        if not self._session.is_interrupted:
            self._position = step

    def _recall(self) -> None:
        """Where the local order is wanted, learn what the service handed out of this epoch to an earlier process."""
        if self._session.on_outage != "local":
            return
        epoch = self._calendar.epoch_of(self._position)
        step = self._calendar.epoch_start(max(0, epoch - 1))
        stop = min(self._exchange.prefetch.handed_out, self._calendar.epoch_start(epoch + 1))
        while step < stop:
            batches = self._session.call(partial(self._batches, start=step, count=min(RECALLED, stop - step)))
            self._exchange.recall(scheduled(batches), self._position)
            step += len(batches.indices)

    def _batches(self, client: SchedulerClient, start: int, count: int) -> ServedBatches:
        return client.batches(self.spec.name, start, count, spec=self.spec)

    def _check_weighed(self, batch: ScheduledBatch, measurement: Measurement | None) -> None:
        """A loop that never looks at weights trains on what it was to look at alone."""
        is_seen = batch.step in self._weighed
        self._weighed.discard(batch.step)
        if measurement is not None and not is_seen and batch.weights is not None:
            raise ValueError(
                f"the batch of step {batch.step} has samples of weight 0, which this loop trained on: average its loss "
                "by weighted(losses, sampler.batch_of(index)), or create the job without weighted=True"
            )

    # How its batches may be shared out: not at all.

    def _tell_of_stray(self, spec: JobSpec) -> None:
        if self._may_be_stray:
            warn_if_stray(self._placement, spec.batch_size)
        self._may_be_stray = False

    def _check_sharding(self, rows: Int64, shares: Sequence[Int64]) -> None:
        """What became of a batch that is none of this rank's open ones, if that can be told."""
        if self.world_size == 1:
            return
        again = any(self._placement.rows(share).tobytes() == rows.tobytes() for share in shares)
        strange = self._last_fed < 0 and not any(set(rows.tolist()) <= set(share.tolist()) for share in shares)
        if again or strange:
            raise double_sharding(f"the loop trains on samples {rows[:8]}…, no batch of rank {self.rank}'s")


def _check_options(prefetch: int, if_exists: str, on_outage: str) -> None:
    if not 1 <= prefetch <= MAX_COUNT:
        raise ValueError(f"prefetch must be at least 1 and at most {MAX_COUNT}, got {prefetch}")
    if if_exists not in ("fail", "new", "resume"):
        raise ValueError(f"if_exists must be fail, new or resume, got {if_exists!r}")
    if on_outage not in ("wait", "local", "raise"):
        raise ValueError(f"on_outage must be wait, local or raise, got {on_outage!r}")


def _check_world(spec: JobSpec, world_size: int, on_outage: str) -> None:
    if spec.batch_size % world_size:
        raise ValueError(f"world_size must divide the batch size {spec.batch_size}, got {world_size}")
    if on_outage == "local" and world_size > 1:
        raise ValueError(
            f"on_outage must be wait or raise with more than one rank, got local with {world_size}: ranks "
            "that lose the service at different steps would draw different batches"
        )


def _check_following(spec: JobSpec, follows: bool, if_exists: str, on_outage: str) -> None:
    """What the processes of a rank could not agree on."""
    if not follows:
        return
    if if_exists != "fail":
        raise ValueError(
            f"if_exists must be fail where processes share a rank, got {if_exists}: load_state_dict resumes"
        )
    if on_outage == "local":
        raise ValueError("on_outage must be wait or raise where processes share a rank, got local")
    if spec.batch_size == 1:
        raise ValueError("batch_size must be at least 2 where processes share a rank, got 1")


def _share(value: float) -> float:
    """A share in [0, 1]; half precision may exceed it a little."""
    return min(1.0, float(value)) if value <= 1.001 else float(value)
