"""How many requests a client may make: a token bucket each, of one second's worth."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from bss_service.errors import BssError

MAX_CLIENTS: Final = 10_000


class TooManyError(BssError):
    """The client asks too often; after `retry_after` seconds it may ask again."""

    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class RateLimiter:
    """Lets each client make `rate` requests a second, and as many at once (at least one)."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = max(1.0, rate)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when; oldest first

    def take(self, client: str) -> None:
        """Count a request. Raises TooManyError, and then counts nothing."""
        now = self._clock()
        left, at = self._buckets.pop(client, (self._size, now))
        left = min(self._size, left + (now - at) * self._rate)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        self._forget(now)
        if left < 1:
            wait = (1 - left) / self._rate
            raise TooManyError(f"a client may ask {self._rate:g} times a second: try again in {wait:.3g} s", wait)

    def _forget(self, now: float) -> None:
        """Drop buckets that are full again, and the oldest where there are too many."""
        while self._buckets:
            left, at = next(iter(self._buckets.values()))
            if left + (now - at) * self._rate < self._size and len(self._buckets) <= MAX_CLIENTS:
                return
            self._buckets.popitem(last=False)
