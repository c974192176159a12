"""Internal: batches for the training thread, and what it has for the service; a thread of its own does the calls."""

import logging
import os
import threading
import time
from collections.abc import Sequence

from bss_service.protocol.jobs import JobSpec
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError, SchedulerError
from trainer_client.exchange.foreground import LOOK
from trainer_client.exchange.local import LocalOrder
from trainer_client.exchange.outage import Outage
from trainer_client.exchange.outbox import FeedbackItem, Item, Outbox
from trainer_client.exchange.placement import Placement
from trainer_client.exchange.prefetch import Prefetch, ScheduledBatch
from trainer_client.exchange.stats import Stats
from trainer_client.exchange.worker import Worker

log = logging.getLogger(__name__)


class Exchange:
    """Prefetch and outbox of one rank. Its public methods are for the training thread alone."""

    def __init__(
        self,
        client: SchedulerClient,
        spec: JobSpec,
        placement: Placement,
        *,
        prefetch: int,
        outage: Outage,
        handed_out: int,
    ) -> None:
        self.stats = Stats()
        self._process = os.getpid()
        self.prefetch = Prefetch(spec, prefetch, handed_out)
        self._outbox = Outbox()
        self._outage = outage
        self._local = LocalOrder(spec) if outage.on_outage == "local" else None
        self._interrupted = False
        self._worker = Worker(client, spec, placement, self.prefetch, self._outbox, outage, self.stats)
        self._changed = self._worker.changed

    def begin(self, start: int, stop: int) -> None:
        """Give out the steps [start, stop) from now on."""
        with self._changed:
            if start != self.prefetch.next:
                self._outbox.growing = None
            self.prefetch.begin(start, stop)
            self._changed.notify_all()

    def take(self) -> ScheduledBatch | None:
        """The next batch, or None after the last or an interrupt; waits for it as long as `on_outage` says."""
        started = time.monotonic()
        self._check_process()
        with self._changed:
            while (batch := self._available()) is None:
                if self.prefetch.is_done or self._interrupted:
                    return None
                self.prefetch.check_lag()
                self._worker.urgent = True
                self._changed.notify_all()
                self._changed.wait(min(LOOK, max(0.01, self._outage.seconds_left())))
            self._worker.urgent = False
            self.prefetch.give_out(batch)
            if self._local is not None:
                self._local.remember(batch)
            self.stats.count_batch(batch.age, time.monotonic() - started)
            self._changed.notify_all()
        return batch

    def put(self, item: Item) -> None:
        """Queue something for the service."""
        self._check_process()
        with self._changed:
            self._check_usable()
            if isinstance(item, FeedbackItem):
                self.prefetch.fed(item.step)
            self._outbox.put(item)
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
        if threading.current_thread() is worker.thread:  # the garbage collector ran here
            worker.closed = True
            return
        try:
            if not self.flush(timeout):
                why = worker.error or "it is out of reach"
                log.warning("closed with %d messages for the scheduler not sent: %s", len(self._outbox), why)
        finally:
            worker.end()

    # Inside, with the lock held.

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

    def _check_process(self) -> None:
        """The thread, and whoever held the lock, stayed behind in the process that forked."""
        if os.getpid() != self._process:
            raise SchedulerError(
                f"the sampler belongs to process {self._process}, got a call in process {os.getpid()}: create it there"
            )
