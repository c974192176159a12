"""Internal: batches for the training thread, and what it has for the service; a thread of its own does the calls."""

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Final

from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import JobSize, Trainer
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError, SchedulerError
from trainer_client.exchange.attachment import note_end
from trainer_client.exchange.foreground import LOOK
from trainer_client.exchange.local import LocalOrder
from trainer_client.exchange.outage import Outage, State
from trainer_client.exchange.outbox import Farewell, FeedbackItem, Item, Outbox, SilentOutbox
from trainer_client.exchange.placement import Placement
from trainer_client.exchange.prefetch import Prefetch, ScheduledBatch
from trainer_client.exchange.stats import Stats
from trainer_client.exchange.worker import Joined, Worker

log = logging.getLogger(__name__)

HOLD: Final = 1.0  # seconds that a batch may be waited for in silence


class Exchange:
    """Prefetch and outbox of one rank. Its public methods are for the training thread alone.

    follows: whether another process has the rank's place, and gives its feedback.
    """

    def __init__(
        self,
        client: SchedulerClient,
        spec: JobSpec,
        me: Trainer,
        *,
        prefetch: int,
        outage: Outage,
        handed_out: int,
        follows: bool = False,
        incarnation: str | None = None,
        open_job: Callable[[], Joined] | None = None,
    ) -> None:
        self.stats = Stats()
        self._me, self._process = me, os.getpid()
        self.prefetch = Prefetch(spec, prefetch, handed_out)
        self._outbox = SilentOutbox() if follows else Outbox()
        self._placement = Placement(me.rank, me.world_size)
        self._outage = outage
        self._local = LocalOrder(lambda: self.spec) if outage.on_outage == "local" else None
        self._interrupted = False
        self._has_told = False  # of a step that was passed over
        self._held_at = -1  # the step that a hold was logged of
        self._patience = spec.patience
        job = Joined(spec, incarnation)
        self._worker = Worker(
            client, job, me, self.prefetch, self._outbox, outage, self.stats, open_job, follows=follows
        )
        self._changed = self._worker.changed

    @property
    def spec(self) -> JobSpec:
        """The job's, as far as that is known."""
        return self._worker.job.spec

    @property
    def incarnation(self) -> str | None:
        """Which of the jobs that have had its name it is, as far as that is known."""
        return self._worker.job.incarnation

    def begin(self, start: int, stop: int) -> None:
        """Give out the steps [start, stop) from now on."""
        with self._changed:
            if start != self.prefetch.next:
                self._outbox.growing = None
            self.prefetch.begin(start, stop)
            self._changed.notify_all()

    def extend(self, stop: int) -> None:
        """Give out the steps before `stop` too."""
        with self._changed:
            self.prefetch.extend(stop)
            self._changed.notify_all()

    def resize(self, size: JobSize) -> None:
        """Note that the job has grown."""
        with self._changed:
            self._worker.resize(size)

    def take(self, turn: int) -> ScheduledBatch | None:
        """The next batch, or None after the last or an interrupt; waits for it as long as `on_outage` says.

        turn: the step that the loop is at; those before it have had their chance of feedback.
        """
        started = time.monotonic()
        check_process(self._process)
        with self._changed:
            while (batch := self._available()) is None:
                if self.prefetch.is_done or self._interrupted:
                    return None
                self._pass_over(self.prefetch.passed_over(turn, blocked=True))
                self.prefetch.check_lag()
                self._worker.urgent = True
                self._changed.notify_all()
                self._changed.wait(min(LOOK, max(0.01, self._outage.seconds_left())))
                self._tell_of_hold(started)
            self._worker.urgent = False
            self._pass_over(self.prefetch.passed_over(turn, blocked=False))
            self.prefetch.give_out(batch)
            if self._local is not None:
                self._local.remember(batch)
            self.stats.count_batch(batch.age, time.monotonic() - started)
            if self.prefetch.is_low:
                self._changed.notify_all()
        return batch

    def put(self, item: Item) -> None:
        """Queue something for the service."""
        check_process(self._process)
        with self._changed:
            self._check_usable()
            if isinstance(item, FeedbackItem) and (batch := self.prefetch.fed(item.step)) is not None:
                item.samples, item.checksum = item.sender.rows(batch.indices), batch.checksum()
            self._outbox.put(item)
            if self.prefetch.is_low or self._outbox.is_news(item, self.prefetch.stop):
                self._changed.notify_all()

    def interrupt(self) -> None:
        """Let `take` wait no more. Safe in a signal handler, which may have interrupted any line: it takes no lock."""
        self._interrupted = True

    def open_steps(self) -> dict[int, ScheduledBatch]:
        """The batches given out that no feedback came for yet, by step."""
        with self._changed:
            return dict(self.prefetch.open)

    def unsent(self) -> list[Item]:
        """What the service has not acknowledged yet."""
        with self._changed:
            return self._outbox.items()

    def flush(self, timeout: float) -> bool:
        """Send what is queued now; False if that did not succeed in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        worker = self._worker
        with self._changed:
            worker.urgent = True
            self._changed.notify_all()
            while self._outbox and worker.error is None and worker.thread.is_alive():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            worker.urgent = False
            return not self._outbox

    def abandon(self, step: int) -> None:
        """Take back the batches from a step on that were given out, but not trained on."""
        with self._changed:
            self.prefetch.abandon(step)

    def reset(self) -> None:
        """Forget what was fetched and given out; the outbox stays."""
        with self._changed:
            self._outbox.growing = None
            self.prefetch.reset()

    def recall(self, batches: Sequence[ScheduledBatch], position: int) -> None:
        """Learn what was given out of some steps in turn before this process came.

        What lies before `position` is not to be drawn again; the rest is to be given out again, even while the service
        is out of reach.
        """
        with self._changed:
            self.prefetch.cut_replay(batches[0].step)
            for batch in batches:
                if batch.step >= position:
                    self.prefetch.replay(batch)
                elif self._local is not None:
                    self._local.remember(batch)

    def close(self, timeout: float) -> None:
        """Send what is queued, at most for `timeout` seconds, and end the thread within `worker.JOIN`."""
        worker = self._worker
        if worker.closed or os.getpid() != self._process:
            return
        note_end(self._me)
        if threading.current_thread() is worker.thread:  # the garbage collector ran here
            worker.closed = True
            return
        with self._changed:
            self._outbox.put(Farewell())
        try:
            if not self.flush(timeout) and (left := len(self._outbox.items())):
                why = worker.error or "it is out of reach"
                log.warning("closed with %d messages for the scheduler not sent: %s", left, why)
        finally:
            worker.end()

    # Inside, with the lock held.

    def _tell_of_hold(self, started: float) -> None:
        """Log, once a wait, why a batch has been waited for for more than a second; an outage is logged elsewhere."""
        step, outage = self.prefetch.next, self._outage.state is not State.UP
        if outage or step == self._held_at or time.monotonic() - started < HOLD:
            return
        self._held_at = step
        log.warning(
            "step %d is waited for: the scheduler draws its interval when the feedback of all %d ranks for the steps "
            "before %d has come, and an action if the policy is external, or when the job's patience of %g s is over",
            step,
            self._placement.world_size,
            self.prefetch.feedback_needed(),
            self._patience,
        )

    def _pass_over(self, steps: Sequence[int]) -> None:
        """Tell the service that these steps will have no feedback."""
        for step in steps:
            batch = self.prefetch.open[step]
            self.prefetch.close(step)
            self._outbox.put(FeedbackItem(step, self._placement, None, checksum=batch.checksum()))
        self.stats.passed_over += len(steps)
        if steps and not self._has_told:
            self._has_told = True
            warnings.warn(
                f"step {steps[0]} was passed over without feedback, and counts as not measured: call "
                "sampler.skip(index) for a batch that is not trained on (further ones are counted in "
                "sampler.stats.passed_over)",
                stacklevel=6,
            )

    def _available(self) -> ScheduledBatch | None:
        """A batch that was fetched or, during an outage, drawn here."""
        batch = self.prefetch.pop()
        if batch is None:
            self._check_usable()
            batch = self._draw_locally()
        if batch is None and not self.prefetch.is_done and self._falls_back():
            batch = self._draw_locally()
        return batch

    def _falls_back(self) -> bool:
        """Whether to draw locally from now on. Raises OutageError where the user chose that instead."""
        fallback, step = self._outage.fallback(), self.prefetch.next
        if fallback == "raise":
            raise OutageError(f"the scheduler has been out of reach for {self._outage.after:g} s")
        if fallback == "wait" or step < self.prefetch.handed_out or self._local is None:
            return False
        log.warning("scheduler out of reach: drawing locally from step %d on", step)
        self._local.restart()
        self._outbox.grow_from(step)
        return True

    def _draw_locally(self) -> ScheduledBatch | None:
        if self._local is None or self._outbox.growing is None or self.prefetch.is_done:
            return None
        batch = self._local.draw(self.prefetch.next)
        self._outbox.growing.batches.append(batch.indices)
        self.stats.local_batches += 1
        return batch

    def _check_usable(self) -> None:
        if self._worker.error is not None:
            raise self._worker.error
        if self._worker.closed:
            raise SchedulerError("the sampler is closed")


def check_process(made_in: int) -> None:
    """Refuse a child of the process that made a sampler: threads stay behind, and it would be one trainer twice."""
    if os.getpid() != made_in:
        raise SchedulerError(
            f"the sampler belongs to process {made_in}, got a call in process {os.getpid()}: create it there"
        )
