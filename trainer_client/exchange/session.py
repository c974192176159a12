"""Internal: what a sampler has with the service, from before its first use to its end."""

import logging
import os
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from bss_service.core.arrays import UInt16
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import AttachAnswer
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError, SchedulerError
from trainer_client.exchange.attachment import Attachment, Checkpoint, IfExists, this_trainer
from trainer_client.exchange.exchange import Exchange, check_process
from trainer_client.exchange.foreground import Foreground
from trainer_client.exchange.outage import OnOutage, Outage
from trainer_client.exchange.placement import Placement
from trainer_client.exchange.stats import Stats
from trainer_client.exchange.worker import Joined
from trainer_client.retry import Backoff

log = logging.getLogger(__name__)

SOON: Final = 1.0  # seconds to send what is queued when a loop ends by an exception
RANKS_SECONDS: Final = 10.0  # at most so long, a checkpoint waits for the feedback of the other ranks
T = TypeVar("T")


class Session:
    """A job, which is created at once, and from the first use on a rank's place in it and the exchange of that.

    Not earlier, since a state that is loaded says how the place is to be taken, and a process group which it is. Who
    has nobody any more is closed.
    """

    def __init__(
        self,
        spec: JobSpec,
        client: SchedulerClient | str | None,
        *,
        prefetch: int,
        if_exists: IfExists,
        on_outage: OnOutage,
        outage_after: float,
        follows: bool,
        groups: UInt16 | None = None,
    ) -> None:
        self.client = client if isinstance(client, SchedulerClient) else SchedulerClient(client)
        self.exchange: Exchange | None = None
        self.if_exists, self.on_outage, self.follows = if_exists, on_outage, follows
        self._own_client = None if self.client is client else self.client
        self._spec, self._prefetch, self._outage_after = spec, prefetch, outage_after
        self._foreground = Foreground(self.client, None if on_outage == "wait" else outage_after)
        self._attachment: Attachment | None = None
        self._process = os.getpid()
        self._groups = groups
        self._finalizer = weakref.finalize(self, _close, None, self._own_client, 5.0)
        self._is_closed = self._is_offline = False
        self._create()

    @property
    def spec(self) -> JobSpec:
        """The job's; with if_exists="new" its name may be another than the one that was given."""
        return self._spec if self.exchange is None else self.exchange.spec

    @property
    def stats(self) -> Stats:
        """What scheduling cost so far."""
        return Stats() if self.exchange is None else self.exchange.stats

    def join(self, placement: Placement) -> int:
        """Take a place as `if_exists` says, and begin the exchange; the step at which the run begins."""
        if self._is_closed:
            raise SchedulerError("the sampler is closed")
        if self._is_offline:
            self._begin_offline(placement)
            return 0
        answer = self._attach(placement, self.if_exists)
        if self.if_exists != "resume" or not answer.next_step:
            return 0
        step = answer.fed_back_until if answer.steps_fed_back else answer.next_step
        log.warning("job %r is resumed without a checkpoint, at step %d", self._spec.name, step)
        return step

    @property
    def incarnation(self) -> str | None:
        """Which of the jobs that have had its name it is; None where that is not known."""
        return None if self.exchange is None else self.exchange.incarnation

    def resume(self, placement: Placement, job: str, checkpoint: Checkpoint) -> None:
        """Take a place in a job that a checkpoint is of. Raises OtherJobError where it is not that job any more."""
        if self.exchange is not None:
            checkpoint.check(self.call(lambda once: once.job(job)))
            return
        self._spec = self._spec.model_copy(update={"name": job})
        self._attach(placement, "resume", checkpoint)

    def leave(self) -> None:
        """Give up the place, so that another may be taken."""
        if self.exchange is not None:
            self._spec = self.exchange.spec
            self.exchange.close(SOON)
            self.exchange = None
        self._attachment = None

    def call(self, call: Callable[[SchedulerClient], T]) -> T:
        """The answer of a call that the training thread waits for, as long as `on_outage` says."""
        return self._foreground.call(call)

    def is_fed_back(self, step: int) -> bool:
        """Wait until the feedback of all ranks for the steps before this one has reached the service."""
        seconds = SOON if self.is_interrupted else RANKS_SECONDS
        backoff = Backoff(seconds=seconds)
        self.flush(seconds)
        return self._foreground.is_fed_back(self.spec.name, step, backoff)

    @property
    def is_interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._foreground.interrupted

    def interrupt(self) -> None:
        """Let nothing here wait any more. Safe in a signal handler."""
        self._foreground.interrupted = True
        if self.exchange is not None:
            self.exchange.interrupt()

    def flush(self, timeout: float) -> bool:
        """Send what is queued now; False if that did not succeed in `timeout` seconds."""
        return self.exchange is None or self.exchange.flush(timeout)

    def close(self, timeout: float) -> None:
        """Send what is queued, at most for `timeout` seconds, and end the exchange."""
        self._finalizer.detach()
        self._is_closed = True
        _close(self.exchange, self._own_client, timeout)

    # Inside.

    def _create(self) -> None:
        """What is wrong with the job is to be known at once."""
        try:
            if self.if_exists == "new":
                self.call(lambda once: once.jobs())
            else:
                known = self.call(lambda once: once.create_job(self._spec)).spec
                self._spec = self._spec.sized(known.size)
        except BaseException as error:
            # Where an earlier run may be gone on with, its step must be known.
            is_fresh = self.if_exists == "fail" and not self.is_interrupted
            self._is_offline = isinstance(error, OutageError) and self.on_outage == "local" and is_fresh
            if not self._is_offline:
                self._finalizer()
                raise

    def _attach(self, placement: Placement, if_exists: IfExists, checkpoint: Checkpoint | None = None) -> AttachAnswer:
        attachment = self._attachment_at(placement)
        if self.follows:
            self._spec, answer = attachment.follow(self._spec, checkpoint)
        else:
            self._spec, answer = attachment.to(self._spec, if_exists, checkpoint)
        self._begin(attachment, Outage(self.on_outage, self._outage_after), answer.next_step)
        return answer

    def _attachment_at(self, placement: Placement) -> Attachment:
        """The one that was tried before, if there is one: the service may know its trainer already."""
        check_process(self._process)
        if self._attachment is None:
            self._attachment = Attachment(self._foreground, this_trainer(placement), self._groups)
        return self._attachment

    def _begin_offline(self, placement: Placement) -> None:
        """Begin with batches drawn here; the exchange's thread takes the place as soon as it can."""
        me = self._attachment_at(placement).me
        log.warning("scheduler out of reach: job %r begins with batches drawn locally", self._spec.name)
        outage = Outage(self.on_outage, self._outage_after)
        outage.failed(since=time.monotonic() - self._outage_after)
        attachment = Attachment(Foreground(self.client, 0.0), me, self._groups)
        self._begin(attachment, outage, 0, partial(_joined, attachment, self._spec, self.if_exists))

    def _begin(
        self, attachment: Attachment, outage: Outage, handed_out: int, open_job: Callable[[], Joined] | None = None
    ) -> None:
        self.exchange = Exchange(
            self.client,
            self._spec,
            attachment.me,
            prefetch=self._prefetch,
            outage=outage,
            handed_out=handed_out,
            follows=self.follows,
            incarnation=attachment.incarnation,
            open_job=open_job,
        )
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _close, self.exchange, self._own_client, 5.0)


def _joined(attachment: Attachment, spec: JobSpec, if_exists: IfExists) -> Joined:
    spec, _ = attachment.to(spec, if_exists)
    return Joined(spec, attachment.incarnation)


def _close(exchange: Exchange | None, client: SchedulerClient | None, timeout: float) -> None:
    if exchange is not None:
        exchange.close(timeout)
    if client is not None:
        client.close()
