"""Internal: the thread that talks to the service, so that no training step waits for it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.text import printable
from bss_service.protocol.training import (
    PLACE_SECONDS,
    AttachRequest,
    FeedbackOutcome,
    FeedbackRequest,
    JobSize,
    StepsRequest,
    Trainer,
)
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError, SchedulerError, TooEarlyError
from trainer_client.exchange.outage import Outage, State
from trainer_client.exchange.outbox import (
    Farewell,
    FeedbackItem,
    Item,
    LocalItem,
    Outbox,
    ValidationItem,
    feedback_request,
)
from trainer_client.exchange.placement import Placement, follower
from trainer_client.exchange.prefetch import Fetch, Prefetch, scheduled
from trainer_client.exchange.stats import Stats
from trainer_client.retry import PAUSES, Backoff

log = logging.getLogger(__name__)

KEEP: Final = PLACE_SECONDS / 3  # seconds without a call after which the place is asked for again
REASON: Final = 2000  # characters of why a policy failed that are logged
JOIN: Final = 1.0  # seconds for the thread to end after its call was aborted
Task = Callable[[], None]


class Joined(NamedTuple):
    """The job that a run goes on with."""

    spec: JobSpec
    incarnation: str | None  # where the service tells


class Worker:
    """Sends what is in the outbox and fetches what the prefetch wants, one call at a time, until it is told to end.

    Whoever touches its attributes, the prefetch, the outbox or the outage holds `changed`, and notifies of changes.
    """

    def __init__(
        self,
        client: SchedulerClient,
        job: Joined,
        me: Trainer,
        prefetch: Prefetch,
        outbox: Outbox,
        outage: Outage,
        stats: Stats,
        open_job: Callable[[], Joined] | None = None,
        *,
        follows: bool = False,
    ) -> None:
        """open_job: is called before anything else is done, where that could not be done before.

        follows: whether it holds no place, but looks on at what another process of the rank is given.
        """
        self.changed = threading.Condition()
        self.urgent = False  # the training thread waits: feedback is to linger no more
        self.closed = False
        self.error: SchedulerError | None = None  # what ended the thread
        self._client = client.apart()  # trying again is this thread's own work, and its calls can be aborted
        self._client.bind(job.incarnation)
        self.job, self._me, self._placement = job, me, Placement(me.rank, me.world_size)
        self._follows = follows
        self._asking = follower(job.spec.batch_size) if follows else self._placement
        self._open_job = open_job
        self._policy_error: str | None = None  # as it was told last
        self._kept = time.monotonic()  # when the place was last known to be this trainer's
        self._width = job.spec.measurements().width
        self._prefetch, self._outbox, self._outage, self._stats = prefetch, outbox, outage, stats
        self._backoff = Backoff(sleep=self._rest)
        self.thread = threading.Thread(target=self._run, name=f"bss-worker-{job.spec.name}", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """End the thread within `JOIN`, whatever it is at."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._client.abort()  # or the thread might wait for an answer until its time is up
        self.thread.join(JOIN)  # it may be connecting; as a daemon it won't outlive the process
        self._client.close()

    def resize(self, size: JobSize) -> None:
        """Note that the job has grown; the caller holds `changed`."""
        if size != self.job.spec.size:
            self.job = self.job._replace(spec=self.job.spec.sized(size))
        self._prefetch.calendar = self.job.spec.calendar()

    def _run(self) -> None:
        try:
            while (task := self._wait_for_task()) is not None:
                self._try(task)
        except SchedulerError as error:
            self._fail(error)
        except Exception as error:  # a bug must reach the training thread, not leave it waiting
            self._fail(SchedulerError(f"the scheduler's thread failed: {type(error).__name__}: {error}"))
            raise

    def _fail(self, error: SchedulerError) -> None:
        with self.changed:
            self.error = error
            self.changed.notify_all()

    def _wait_for_task(self) -> Task | None:
        """The next task; None in the end."""
        with self.changed:
            while not self.closed:
                if (task := self._task()) is not None:
                    return task
                self.changed.wait(min(self._outbox.due_in() or KEEP, self._place_due_in()))
        return None

    def _place_due_in(self) -> float:
        """Seconds until the place is to be asked for again."""
        return KEEP if self._follows else max(0.001, self._kept + KEEP - time.monotonic())

    def _task(self) -> Task | None:
        """What to do now, if anything."""
        message = self._outbox.next_message()
        if isinstance(message, ValidationItem):
            return partial(self._send_validation, message)
        if isinstance(message, LocalItem):
            return partial(self._send_local, message)
        if isinstance(message, Farewell):
            return partial(self._send_farewell, message)
        fetch = None if self._outbox.growing else self._prefetch.wanted()
        if fetch and len(message) == len(self._outbox) and {item.sender for item in message} <= {self._placement}:
            return partial(self._exchange, message, fetch)
        if message and (fetch or self.urgent or self._outbox.is_due(message, self._prefetch.stop)):
            return partial(self._send_feedback, message)
        return self._keep_place if time.monotonic() >= self._kept + KEEP and not self._follows else None

    def _try(self, task: Task) -> None:
        started = time.monotonic()
        try:
            self._perform(task)
        except OutageError as error:
            if error.at_work:
                with self.changed:
                    self._outage.answered()
                self._rest(max(PAUSES[-1], error.retry_after))
            elif not self.closed:
                self._note_outage(error, started)
                self._backoff.pause(error.retry_after)
            return
        except TooEarlyError:
            self._rest(PAUSES[0])
        self._backoff.reset()
        with self.changed:
            self._outage.ended()

    def _perform(self, task: Task) -> None:
        """Do a task; after an outage ask first for what is never held, or a held call would pass for an outage too."""
        if self._outage.state is not State.UP:
            self._client.jobs() if self._open_job else self._client.job(self.job.spec.name)
            with self.changed:
                self._outage.answered()
        if self._open_job is not None:
            self.job = self._open_job()
            with self.changed:
                self.resize(self.job.spec.size)
            self._client.bind(self.job.incarnation)
            self._open_job = None
        task()

    def _note_outage(self, error: OutageError, started: float) -> None:
        with self.changed:
            self._stats.outages += self._outage.state is State.UP
            self._outage.failed(since=started if error.silent else None)  # a silent call may have been held
            self.changed.notify_all()
        if self._backoff.failures % 60 == 0:
            log.warning("scheduler out of reach, trying on: %s", error)

    def _rest(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.closed, seconds)

    # Tasks: they call without the lock.

    def _exchange(self, items: Sequence[FeedbackItem], fetch: Fetch) -> None:
        request = StepsRequest(
            start=fetch.start,
            count=fetch.count,
            rank=self._asking.rank,
            world_size=self._asking.world_size,
            client=None if self._follows else self._me.client,
            feedback=self._request(items).feedback if items else None,
        )
        spec = self.job.spec
        answer = self._client.steps(spec.name, request, spec.patience, spec=spec)
        self._count(items, answer.feedback)
        self._kept = time.monotonic()
        self._tell_of_policy(answer.policy_error)
        with self.changed:
            if answer.size is not None:
                self.resize(answer.size)
            self._prefetch.add(fetch, scheduled(answer.batches))
            self.changed.notify_all()

    def _tell_of_policy(self, error: str | None) -> None:
        """Log that the policy fails, once for each reason, and that it acts again."""
        if error != self._policy_error:
            self._policy_error = error
            if error is None:
                log.warning("the policy of job %r acts again", self.job.spec.name)
            else:
                reason = printable(error[:REASON])
                log.warning(
                    "the policy of job %r failed, and plain shuffling stands in: %s", self.job.spec.name, reason
                )

    def _request(self, items: Sequence[FeedbackItem]) -> FeedbackRequest:
        return feedback_request(items, self.job.spec.batch_size, self._width)

    def _send_feedback(self, items: Sequence[FeedbackItem]) -> None:
        request = self._request(items)
        if items[0].sender == self._placement:  # not what a checkpoint of another number of ranks had left
            request.client = self._me.client
        answer = self._client.feedback(self.job.spec.name, request)
        self._count(items, answer.feedback)

    def _keep_place(self) -> None:
        self._client.attach(self.job.spec.name, AttachRequest(**self._me.model_dump(), resume=True))
        self._kept = time.monotonic()

    def _send_farewell(self, item: Farewell) -> None:
        self._client.detach(self.job.spec.name, self._me.client)
        self._acknowledge([item])

    def _send_validation(self, item: ValidationItem) -> None:
        if self._client.validation(self.job.spec.name, item.report).outcome == "late":
            log.warning("the validation at step %d was left out: one of that step or a later is in", item.report.step)
        self._acknowledge([item])

    def _send_local(self, item: LocalItem) -> None:
        for message in item.messages(self._me.client):
            self._client.local_batches(self.job.spec.name, message)
        if item.batches:
            log.warning("scheduler back: sent it %d batches drawn here from step %d on", len(item.batches), item.start)
        self._acknowledge([item])

    def _acknowledge(self, items: Sequence[Item]) -> None:
        with self.changed:
            self._outbox.acknowledge(len(items))
            self._stats.unmeasured_samples += sum(item.unmeasured() for item in items if isinstance(item, FeedbackItem))
            self.changed.notify_all()

    def _count(self, items: Sequence[FeedbackItem], outcomes: Sequence[FeedbackOutcome]) -> None:
        """What came of feedback; what was sent more than once may be there by a try whose answer did not come."""
        told = sum(outcome == "repeated" and item.tries == 1 for item, outcome in zip(items, outcomes, strict=True))
        with self.changed:
            self._stats.repeated_feedback += told
        self._acknowledge(items)
