"""Internal: whether the service is out of reach, and when a trainer goes on without it."""

import math
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Literal

OnOutage = Literal["wait", "local", "raise"]


class State(Enum):
    """What the latest call showed."""

    UP = auto()
    DOWN = auto()  # it failed
    HELD = auto()  # the service is back and now has a call that it may hold: its silence is no outage


class Outage:
    """A call that fails makes UP DOWN, one that is answered makes DOWN HELD, and work that is done makes either UP.

    A call that fails while HELD makes it DOWN again, since the same time as before.

    on_outage: what the trainer does when an outage keeps the batch from it that it needs. after: seconds of DOWN until
    it does so.
    """

    def __init__(self, on_outage: OnOutage, after: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_outage = on_outage
        self.after = after
        self.state = State.UP
        self._since = 0.0
        self._clock = clock

    def failed(self, since: float | None = None) -> None:
        """A call failed. since: when the service was last there, by the clock; None: until now."""
        if self.state is State.UP:
            self._since = self._clock() if since is None else since
        self.state = State.DOWN

    def answered(self) -> None:
        """A call came through that is never held, and one follows that may be."""
        self.state = State.HELD

    def ended(self) -> None:
        """A call did its work."""
        self.state = State.UP

    def seconds_left(self) -> float:
        """How long the trainer still waits before it falls back; infinity where nothing but an answer ends the wait."""
        if self.state is not State.DOWN or self.on_outage == "wait":
            return math.inf
        return max(0.0, self._since + self.after - self._clock())

    def fallback(self) -> OnOutage:
        """What a trainer without a batch is to do now."""
        return "wait" if self.seconds_left() else self.on_outage
