"""Internal: calls that the training thread makes by itself, because it can't go on without their answer."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError
from trainer_client.retry import PAUSES, Backoff

log = logging.getLogger(__name__)

LOOK: Final = 0.2  # seconds after which a waiting training thread looks whether it was interrupted
T = TypeVar("T")


class Foreground:
    """Tries a call until the service answers, or `patience` seconds are over (None: for ever), or it is interrupted."""

    def __init__(self, client: SchedulerClient, patience: float | None) -> None:
        self.interrupted = False
        self._client = client.without_retries()
        self._patience = patience

    def bind(self, incarnation: str | None) -> None:
        """Make all calls from now on to this very job."""
        self._client.bind(incarnation)

    def call(self, call: Callable[[SchedulerClient], T]) -> T:
        """The answer of a call. Raises the OutageError of its last try, and all other errors at once."""
        backoff = Backoff(seconds=self._patience, sleep=self.sleep)
        while True:
            try:
                return call(self._client)
            except OutageError as error:
                if self.interrupted:
                    raise
                if error.at_work:
                    self.sleep(max(PAUSES[-1], error.retry_after))
                    continue
                if backoff.failures % 10 == 5:
                    log.warning("scheduler out of reach, trying on: %s", error)
                if not backoff.pause(error.retry_after):
                    raise

    def is_fed_back(self, job: str, step: int, backoff: Backoff) -> bool:
        """Wait, as long as the back-off goes on, until the service has all feedback of the steps before this one."""
        while True:
            with suppress(OutageError):
                if self._client.job(job).fed_back_until >= step:
                    return True
            if not backoff.pause():
                return False

    def sleep(self, seconds: float) -> None:
        """Wait so long, or until an interrupt."""
        end = time.monotonic() + seconds
        while not self.interrupted and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LOOK))
