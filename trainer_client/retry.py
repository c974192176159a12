"""Internal: how long to wait before a call is tried again, and when to give it up."""

import math
import time
from collections.abc import Callable
from typing import Final

PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds after the first failure, the second …; the last one repeated


class Backoff:
    """Paces the tries of one call by pauses that grow.

    tries: in all; None: any number. seconds: from now on; None: for ever. sleep: waits so many seconds, or less where
    something ends the wait.
    """

    def __init__(
        self,
        *,
        tries: int | None = None,
        seconds: float | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0
        self._tries = math.inf if tries is None else tries
        self._deadline = math.inf if seconds is None else clock() + seconds
        self._sleep = sleep
        self._clock = clock

    def pause(self, retry_after: float = 0.0) -> bool:
        """After a failure, wait until the next try is due. False, at once, where there is to be none.

        retry_after: seconds that the service asked to be left alone.
        """
        self.failures += 1
        left = self._deadline - self._clock()
        if self.failures >= self._tries or left <= 0:
            return False
        pause = PAUSES[min(self.failures, len(PAUSES)) - 1]
        self._sleep(min(left, max(pause, retry_after)))
        return True

    def reset(self) -> None:
        """After a success: the next failure is the first."""
        self.failures = 0
