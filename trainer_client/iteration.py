"""Internal: one pass over the batches of an epoch, and how far the loop is that they are for."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from trainer_client.errors import DoubleSkipError

FRAMES: Final = 12  # between a sampler and the DataLoader that asks it, at most


class Pass(Iterator[list[int]]):
    """Gives a loader the steps [start, stop).

    A loader with workers pulls `ahead` batches when a pass begins, and then one more for each that it hands to its
    loop, also when there are none left. So its calls tell how many the loop has, however far the loader has pulled.

    take: the next batch of the pass as sample indices; None when there are no more, or it is interrupted.
    """

    def __init__(self, start: int, stop: int, ahead: int, take: Callable[["Pass"], list[int] | None]) -> None:
        self.start, self.stop = start, stop
        self._ahead = ahead
        self._take = take
        self._pulled = start
        self._calls = 0

    def __next__(self) -> list[int]:
        indices = self._take(self)
        if indices is not None:
            self._pulled += 1
        elif self._pulled < self.stop:
            raise StopIteration
        self._calls += 1
        if indices is None:
            raise StopIteration
        return indices

    @property
    def given(self) -> int:
        """The steps before this one were handed to the loop. When it asks for another, their turn is over."""
        return min(self.stop, self.start + max(0, self._calls - self._ahead))

    @property
    def is_done(self) -> bool:
        """Whether the loop was given every batch."""
        return self.given == self.stop


def pulled_ahead() -> int:
    """How many batches the DataLoader that is asking, if one is, pulls before its loop needs them.

    It is found among the callers: nothing else tells a batch sampler who it works for. Raises DoubleSkipError where the
    caller skips the batches before a checkpoint, as accelerate.skip_first_batches does: a sampler stands behind them.
    """
    frame, ahead = sys._getframe(1), 0
    for _ in range(FRAMES):
        caller: Any = frame.f_locals.get("self")
        if getattr(caller, "skip_batches", 0):
            raise DoubleSkipError(caller.skip_batches)
        if hasattr(caller, "_prefetch_factor") and hasattr(caller, "_num_workers"):
            ahead = int(caller._num_workers or 0) * int(caller._prefetch_factor or 0)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ahead
