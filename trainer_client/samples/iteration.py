"""Internal: one pass over the batches of an epoch, and how far the loop is that they are for."""

import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from torch.utils.data import DataLoader, Sampler

from trainer_client.errors import DoubleSkipError

FRAMES: Final = 12  # between a sampler and the loader that asks it, at most
LOADERS: Final = ("torch", "torchdata", "accelerate")  # packages with loaders that pull ahead, peek or skip

Begin = Callable[["Pass"], tuple[int, int]]
Take = Callable[["Pass"], list[int] | None]


class Pass:
    """One pass over the steps [start, stop), which are known when a loader asks for the first batch.

    Not earlier: loaders make iterators that they never use, and torchdata's one before it loads its state.

    A loader with workers pulls `ahead` batches when a pass begins, and then one more for each that it hands to its
    loop, also when there are none left. So its calls tell how many the loop has, however far the loader has pulled.

    is_over: whether it is the empty rest of an epoch.
    """

    def __init__(self, *, is_over: bool = False) -> None:
        self.start = self.stop = self.pulled = 0
        self.has_begun = False
        self.is_over = is_over
        self._loader = _Loader()
        self._calls = 0

    def next(self, begin: Begin, take: Take) -> list[int]:
        """The next batch; raises StopIteration when there are no more, or it is interrupted."""
        if not self.has_begun:
            self._loader = _asking()
            self.start, self.stop = begin(self)
            self.pulled, self.has_begun = self.start, True
        indices = take(self)
        if indices is not None:
            self.pulled += 1
            self.is_over = self.pulled == self.stop
        elif self.pulled < self.stop:
            raise StopIteration
        self._calls += 1
        if indices is None:
            raise StopIteration
        return indices

    @property
    def given(self) -> int:
        """The steps before this one were handed to the loop. When it asks for another, their turn is over."""
        return min(self.stop, self.start + max(0, self._calls - self._loader.ahead - self._loader.peeked))

    @property
    def is_done(self) -> bool:
        """Whether the loop was given every batch; of the last, a loader that looks one ahead may not have told yet."""
        return self._calls - self._loader.ahead >= self.stop - self.start


class Batches(Iterator[list[int]]):
    """A pass as the iterator that a loader gets.

    begin: where the pass starts and stops. take: its next batch as sample indices, or None. They lead to the sampler,
    which has the pass but not its iterator: without a circle it is closed as soon as nobody has it any more.
    """

    def __init__(self, of: Pass, begin: Begin, take: Take) -> None:
        self._pass, self._begin, self._take = of, begin, take

    def __next__(self) -> list[int]:
        return self._pass.next(self._begin, self._take)


class _Loader:
    """Who pulls the batches of a pass: how many it holds that its loop does not have."""

    def __init__(self) -> None:
        self.ahead = 0  # pulled when the pass begins
        self._looks_ahead: weakref.ref[Any] | None = None

    def add(self, caller: Any) -> None:
        """Note one of the callers."""
        if hasattr(caller, "_prefetch_factor") and hasattr(caller, "_num_workers"):
            self.ahead = int(caller._num_workers or 0) * int(caller._prefetch_factor or 0)
        if hasattr(caller, "end_of_dataloader"):
            self._looks_ahead = weakref.ref(caller)

    @property
    def peeked(self) -> int:
        """Accelerate's loaders hold one batch back, in order to say of the last that it is the last."""
        loader = None if self._looks_ahead is None else self._looks_ahead()
        return int(loader is not None and not loader.end_of_dataloader)


def _asking() -> _Loader:
    """The loader that asks for a batch, if one does.

    It is found among the callers: nothing else tells a batch sampler who it works for. Raises DoubleSkipError where the
    caller skips the batches before a checkpoint, as accelerate.skip_first_batches does: a sampler stands behind them.
    """
    loader = _Loader()
    for caller in _callers():
        skipped = getattr(caller, "skip_batches", 0) if isinstance(caller, DataLoader | Sampler) else 0
        if skipped:
            raise DoubleSkipError(skipped)
        loader.add(caller)
    return loader


def is_asked_by_loader() -> bool:
    """Whether a DataLoader is among the callers: torchdata's, which asks for a state with each batch that it pulls."""
    return any(hasattr(caller, "_sampler_iter") for caller in _callers())


def _callers() -> Iterator[Any]:
    """The objects of loaders' packages whose methods led here, the nearest first.

    Of no other frames: to look at a frame's variables keeps them alive until it ends, a user's batches and models too.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(FRAMES):
        if frame is None:
            return
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in LOADERS and "self" in frame.f_code.co_varnames:
            yield frame.f_locals.get("self")
        frame = frame.f_back
