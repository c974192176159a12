"""The courier: a thread that fetches batches ahead and brings feedback to the service, so that no step waits for it."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Final, Literal

import numpy as np

from bss_service.core.arrays import Int64
from bss_service.protocol import LOCAL_VERSION, Batches, FeedbackRequest, JobSpec, StepsRequest
from trainer_client.client import BACKOFF, SchedulerClient
from trainer_client.errors import LagError, OutageError, SchedulerError, TooEarlyError
from trainer_client.local import LocalOrder
from trainer_client.outbox import (
    MESSAGE_STEPS,
    FeedbackItem,
    Item,
    LocalItem,
    ValidationItem,
    feedback_request,
)

log = logging.getLogger(__name__)

OnOutage = Literal["wait", "local", "raise"]
LINGER: Final = 0.1  # seconds that feedback may wait for company
LOOK: Final = 0.2  # seconds after which a waiting training thread looks whether it was interrupted
JOIN: Final = 1.0  # seconds for the thread to end after its call was aborted


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The global batch of a step."""

    step: int
    indices: Int64  # (G,)
    epoch: int
    policy_version: int  # 0: drawn by this client during an outage
    scored_until: int  # drawn from the feedback of all steps before this one

    @property
    def age(self) -> int:
        """Steps between the latest feedback that it was drawn from and this one."""
        return self.step - self.scored_until


@dataclass(slots=True)
class Stats:
    """What scheduling cost the training loop so far."""

    batches: int = 0
    waited_seconds: float = 0.0
    worst_wait_seconds: float = 0.0  # for one batch, the first of the process left out
    worst_age: int = 0  # see ScheduledBatch.age
    local_batches: int = 0
    outages: int = 0
    unmeasured_samples: int = 0  # similarity, loss or a probability was not finite
    repeated_feedback: int = 0  # steps that the service had feedback of already


@dataclass
class Courier:
    """Prefetch and outbox of one rank. Its public methods are for the training thread alone."""

    client: SchedulerClient
    spec: JobSpec
    rank: int
    world_size: int
    prefetch: int
    on_outage: OnOutage
    outage_after: float
    handed_out: int  # steps before this one were given out, by this process or an earlier one
    stats: Stats = field(default_factory=Stats)

    def __post_init__(self) -> None:
        self.client = self.client.apart()  # trying again is this thread's own work, and its calls can be aborted
        self._process = os.getpid()
        self._calendar = self.spec.calendar()
        self._newest_fed = -1
        self._changed = threading.Condition()
        self._outbox: deque[Item] = deque()
        self._fetched: deque[ScheduledBatch] = deque()
        self._known: dict[int, ScheduledBatch] = {}  # handed out to an earlier process, to be given out again
        self._open: dict[int, ScheduledBatch] = {}  # given out, without feedback yet
        self._next = self._stop = 0  # steps [next, stop) are to be fetched
        self._window = 0  # counts calls of `begin`: an answer for an earlier one is not used
        self._demand = False  # the training thread waits
        self._hurry = False  # send what is in the outbox
        self._closed = False
        self._interrupted = False
        self._error: SchedulerError | None = None
        self._down_since: float | None = None
        self._held = False  # the service is back and has a call, which it may hold
        self._local = LocalOrder(self.spec) if self.on_outage == "local" else None
        self._local_run: LocalItem | None = None
        self._thread = threading.Thread(target=self._run, name=f"bss-courier-{self.spec.name}", daemon=True)
        self._thread.start()

    # For the training thread.

    def begin(self, start: int, stop: int) -> None:
        """Give out the steps [start, stop) from now on."""
        with self._changed:
            if start != self._next:
                self._end_local_run()
            self._fetched = deque(self._known[step] for step in takewhile(self._known.__contains__, range(start, stop)))
            self._next = start + len(self._fetched)
            self._known.clear()
            self._stop = stop
            self._window += 1
            self._changed.notify_all()

    def take(self) -> ScheduledBatch | None:
        """The next batch, or None after the last or an interrupt; waits for it as long as `on_outage` says."""
        started = time.monotonic()
        self._check_process()
        with self._changed:
            while (batch := self._available()) is None:
                if self._closed:
                    raise SchedulerError("the sampler is closed")
                if self._next >= self._stop or self._interrupted:
                    return None
                self._check_lag()
                self._demand = True
                self._changed.notify_all()
                self._changed.wait(timeout=self._until_fallback())
            self._demand = False
            self._open[batch.step] = batch
            self._note(batch, time.monotonic() - started)
            self._changed.notify_all()
        return batch

    def put(self, item: Item) -> None:
        """Queue something for the service."""
        self._check_process()
        with self._changed:
            self._raise_error()
            if self._closed:
                raise SchedulerError("the sampler is closed")
            if isinstance(item, FeedbackItem):
                self._open.pop(item.step, None)
                self._newest_fed = max(self._newest_fed, item.step)
                item.queued = time.monotonic()
            self._outbox.append(item)
            self._changed.notify_all()

    def interrupt(self) -> None:
        """Let `take` wait no more. Safe in a signal handler, which may have interrupted any line: it takes no lock."""
        self._interrupted = True

    def open_steps(self) -> dict[int, ScheduledBatch]:
        """The batches given out that no feedback came for yet, by step."""
        with self._changed:
            return dict(self._open)

    def unsent(self) -> list[Item]:
        """What the service has not acknowledged yet."""
        with self._changed:
            return list(self._outbox)

    def flush(self, timeout: float) -> bool:
        """Send what is queued now; False if that did not succeed in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            while self._outbox and self._error is None and self._thread.is_alive():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._hurry = False
            return not self._outbox

    def abandon(self, step: int) -> None:
        """Take back the batches from a step on that were given out, but not trained on."""
        with self._changed:
            self._open = {open_step: batch for open_step, batch in self._open.items() if open_step < step}

    def reset(self) -> None:
        """Forget what was fetched and given out; the outbox stays."""
        with self._changed:
            self._end_local_run()
            self._newest_fed = -1
            self._fetched.clear()
            self._open.clear()
            self._known.clear()
            self._next = self._stop = 0
            self._window += 1

    def remember(self, batches: Batches, position: int) -> None:
        """Learn what was handed out before this process came: what it must not draw again, and, from `position` on,
        what it is to give out even while the service is out of reach."""
        with self._changed:
            for batch in _rows(batches):
                if batch.step >= position:
                    self._known[batch.step] = batch
                elif self._local is not None:
                    self._local.remember(batch.step, batch.indices)

    def restore(self, item: Item, position: int) -> None:
        """Queue what an earlier process had not sent; batches that it drew by itself are given out again."""
        if isinstance(item, LocalItem):
            item.closed = True
            with self._changed:
                self._known = {step: batch for step, batch in self._known.items() if step < item.start}
                for k, indices in enumerate(item.batches):
                    batch = self._local_batch(item.start + k, indices)
                    if batch.step >= position:
                        self._known[batch.step] = batch
                    elif self._local is not None:
                        self._local.remember(batch.step, indices)
        self.put(item)

    def close(self, timeout: float) -> None:
        """Send what is queued, at most for `timeout` seconds, and end the thread within `JOIN`."""
        if self._closed or os.getpid() != self._process:
            return
        if threading.current_thread() is self._thread:  # the garbage collector ran here
            self._closed = True
            return
        try:
            if not self.flush(timeout):
                why = self._error or "it is out of reach"
                log.warning("closed with %d messages for the scheduler not sent: %s", len(self._outbox), why)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self.client.abort()  # or the thread might wait for an answer until its time is up
            self._thread.join(JOIN)  # it may be connecting; as a daemon it won't outlive the process
            self.client.close()

    # Inside, with the lock held.

    def _available(self) -> ScheduledBatch | None:
        if self._fetched:
            return self._fetched.popleft()
        if self._local_run is not None and self._next < self._stop:
            return self._drawn_here()
        self._raise_error()
        if self._fell_back() and self._next < self._stop:
            if self.on_outage == "raise":
                raise OutageError(f"the scheduler has been out of reach for {self.outage_after:g} s")
            if self.on_outage == "local" and self._next >= self.handed_out:
                log.warning("scheduler out of reach: drawing locally from step %d on", self._next)
                assert self._local is not None
                self._local.restart()
                self._local_run = LocalItem(self._next)
                self._outbox.append(self._local_run)
                return self._drawn_here()
        return None

    def _drawn_here(self) -> ScheduledBatch:
        assert self._local is not None
        assert self._local_run is not None
        step = self._next
        indices = self._local.draw(step)
        self._local_run.batches.append(indices)
        self._next += 1
        self.stats.local_batches += 1
        return self._local_batch(step, indices)

    def _local_batch(self, step: int, indices: Int64) -> ScheduledBatch:
        return ScheduledBatch(step, indices, self._calendar.epoch_of(step), LOCAL_VERSION, step)

    def _note(self, batch: ScheduledBatch, waited: float) -> None:
        if self.stats.batches:
            self.stats.worst_wait_seconds = max(self.stats.worst_wait_seconds, waited)
        self.stats.batches += 1
        self.handed_out = max(self.handed_out, batch.step + 1)
        self.stats.waited_seconds += waited
        self.stats.worst_age = max(self.stats.worst_age, batch.age)
        if self._local is not None:
            self._local.remember(batch.step, batch.indices)

    def _check_lag(self) -> None:
        """A loader that waits here for the next interval can't bring the feedback that the interval needs.

        A batch older than one that has feedback was passed over: the service waits for it no longer than `patience`.
        """
        missing = [step for step in self._open if self._newest_fed < step < self._cut(self._next)]
        if missing:
            raise LagError(
                f"step {self._next} begins an interval that needs the feedback of step {min(missing)}, but the loader "
                f"has pulled {len(self._open)} batches ahead of it: create the job with lag = num_workers · "
                f"prefetch_factor (now {self.spec.lag}), and call sampler.feedback(...) after every step"
            )

    def _cut(self, step: int) -> int:
        return self._calendar.interval_bounds(step)[0] - self.spec.lag

    def _fell_back(self) -> bool:
        down, held = self._down_since, self._held
        return down is not None and not held and time.monotonic() - down >= self.outage_after

    def _until_fallback(self) -> float:
        if self._down_since is None or self._held or self.on_outage == "wait":
            return LOOK
        return min(LOOK, max(0.01, self._down_since + self.outage_after - time.monotonic()))

    def _check_process(self) -> None:
        """The thread, and whoever held the lock, stayed behind in the process that forked."""
        if os.getpid() != self._process:
            raise SchedulerError(
                f"the sampler belongs to process {self._process}, got a call in process {os.getpid()}: create it there"
            )

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    # The thread.

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                while not self._closed and (task := self._task()) is None:
                    self._changed.wait(self._until_linger())
                if self._closed:
                    return
            started = time.monotonic()
            try:
                assert task is not None
                self._perform(task)
                failures = 0
                with self._changed:
                    self._down_since = None
            except TooEarlyError:
                failures = 0
                with self._changed:
                    self._down_since = None
                    self._changed.wait_for(lambda: self._closed, BACKOFF[0])
            except OutageError as error:
                if self._closed:
                    return
                self._note_outage(error, failures, started)
                failures += 1
                pause = max(BACKOFF[min(failures, len(BACKOFF)) - 1], error.retry_after)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause)
            except SchedulerError as error:
                self._fail(error)
                return
            except Exception as error:  # a bug must reach the training thread, not leave it waiting
                self._fail(SchedulerError(f"the courier failed: {type(error).__name__}: {error}"))
                raise

    def _perform(self, task: Callable[[], None]) -> None:
        """Do a task; after an outage ask first for what is never held, or a held call would pass for an outage too."""
        try:
            if self._down_since is not None:
                self.client.job(self.spec.name)
                self._held = True
            task()
        finally:
            self._held = False

    def _fail(self, error: SchedulerError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _note_outage(self, error: OutageError, failures: int, started: float) -> None:
        with self._changed:
            if self._down_since is None:
                self._down_since = started if error.silent else time.monotonic()  # a call may have been held
                self.stats.outages += 1
            self._changed.notify_all()
        if failures % 60 == 0:
            log.warning("scheduler out of reach, trying on: %s", error)

    def _task(self) -> Callable[[], None] | None:
        """What to do next, if anything; with the lock held."""
        head = self._outbox[0] if self._outbox else None
        if isinstance(head, ValidationItem):
            return lambda: self._send_validation(head)
        if isinstance(head, LocalItem):
            self._close_local(head)
            return lambda: self._send_local(head)
        feedback = self._first_feedback()
        count = self._wanted()
        if count and len(feedback) == len(self._outbox) and self._own(feedback):
            window, start = self._window, self._next
            return lambda: self._exchange(feedback, start, count, window)
        if feedback and (count or self._is_due(feedback)):
            return lambda: self._send_feedback(feedback)
        return None

    def _first_feedback(self) -> list[FeedbackItem]:
        """The feedback at the head of the outbox that one message can hold."""
        feedback: list[FeedbackItem] = []
        for item in islice(self._outbox, MESSAGE_STEPS):
            if not isinstance(item, FeedbackItem):
                break
            if feedback and (item.rank, item.world_size) != (feedback[0].rank, feedback[0].world_size):
                break
            feedback.append(item)
        return feedback

    def _own(self, feedback: list[FeedbackItem]) -> bool:
        return all((i.rank, i.world_size) == (self.rank, self.world_size) for i in feedback)

    def _wanted(self) -> int:
        """How many batches to fetch now."""
        room = min(self.prefetch - len(self._fetched), self._stop - self._next)
        if room <= 0 or self._local_run is not None or len(self._fetched) > self.prefetch // 2:
            return 0
        cut = self._cut(self._next)
        waiting = bool(self._fetched) and self._fetched[0].step < cut
        if waiting or any(self._newest_fed < step < cut for step in self._open):
            return 0  # the service would hold the call until feedback comes that this thread is to send
        return room

    def _is_due(self, feedback: list[FeedbackItem]) -> bool:
        return (
            self._hurry
            or self._demand
            or len(self._outbox) > len(feedback)
            or len(feedback) >= MESSAGE_STEPS // 4
            or feedback[-1].step + 1 >= self._stop
            or time.monotonic() - feedback[0].queued >= LINGER
        )

    def _until_linger(self) -> float | None:
        head = self._outbox[0] if self._outbox else None
        if not isinstance(head, FeedbackItem):
            return None
        return max(0.001, head.queued + LINGER - time.monotonic())

    def _close_local(self, item: LocalItem) -> None:
        item.closed = True
        if self._local_run is item:
            self._local_run = None

    def _end_local_run(self) -> None:
        if self._local_run is not None:
            self._close_local(self._local_run)

    # Calls, without the lock.

    def _exchange(self, items: list[FeedbackItem], start: int, count: int, window: int) -> None:
        request = StepsRequest(start=start, count=count, rank=self.rank, world_size=self.world_size)
        if items:
            request = request.model_copy(update={"feedback": self._request(items).feedback})
        answer = self.client.steps(self.spec.name, request, self.spec.patience)
        self._done(items, answer.feedback)
        with self._changed:
            if window == self._window and self._local_run is None and start == self._next:
                self._fetched.extend(_rows(answer.batches))
                self._next = start + len(answer.batches.indices)
            self._changed.notify_all()

    def _send_feedback(self, items: list[FeedbackItem]) -> None:
        answer = self.client.feedback(self.spec.name, self._request(items))
        self._done(items, answer.feedback)

    def _send_validation(self, item: ValidationItem) -> None:
        self.client.validation(self.spec.name, item.report)
        self._done([item])

    def _send_local(self, item: LocalItem) -> None:
        for message in item.messages():
            self.client.local_batches(self.spec.name, message)
        if item.batches:
            log.warning(
                "scheduler back: told it of %d batches drawn here from step %d on", len(item.batches), item.start
            )
        self._done([item])

    def _request(self, items: list[FeedbackItem]) -> FeedbackRequest:
        share = self.spec.batch_size // items[0].world_size
        return feedback_request(items, share, len(self.spec.modalities) + 1)

    def _done(self, sent: Sequence[Item], outcomes: Sequence[str] = ()) -> None:
        with self._changed:
            for item in sent:
                self._outbox.popleft()
                if isinstance(item, FeedbackItem) and item.values is not None:
                    self.stats.unmeasured_samples += int((~np.isfinite(item.values.read()).all(axis=1)).sum())
            self.stats.repeated_feedback += list(outcomes).count("repeated")
            self._changed.notify_all()


def _rows(batches: Batches) -> list[ScheduledBatch]:
    columns = zip(
        np.asarray(batches.indices),
        batches.epoch.tolist(),
        batches.policy_version.tolist(),
        batches.scored_until.tolist(),
        strict=True,
    )
    return [ScheduledBatch(batches.start + k, *row) for k, row in enumerate(columns)]
