"""A stream of samples, such as an IterableDataset or a WebDataset, in the order that the scheduler chooses."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from bss_service.core.arrays import Int64
from bss_service.protocol.jobs import JobSpec
from trainer_client.client import SchedulerClient
from trainer_client.exchange.placement import placement
from trainer_client.sampler import RECALLED, ScheduledBatchSampler

STATE_VERSION: Final = 1
Key = str | Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class _Item:
    """A sample that was read, and where it stands in the stream."""

    turn: int  # which time the data set is gone through, from 0
    offset: int  # within it
    key: str
    sample: Any


@dataclass(frozen=True, slots=True)
class _Window:
    """Samples that were read ahead, of which the batches of some steps are."""

    first: _Item
    first_step: int
    end_step: int
    is_last: bool  # before the data set is gone through again
    samples: dict[int, deque[Any]]  # by index, those of one key, the next to come first


class WindowSampler(ScheduledBatchSampler):
    """A sampler whose passes end with the window that was opened last."""

    window_end = 0

    @property
    def is_interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._session.is_interrupted

    def open_window(self, first_step: int, samples: Int64) -> int:
        """Let the steps from one on be drawn from these samples (w,); the first step behind them."""
        opening = partial(
            SchedulerClient.open_window, name=self._exchange.spec.name, first_step=first_step, samples=samples
        )
        self.window_end = self._session.call(opening).end_step
        return self.window_end

    def trained_since(self, step: int) -> list[int]:
        """The samples of the steps from one on to the next, in order; they are asked of the service."""
        rows: list[int] = []
        while step < self.next_step:
            count = min(RECALLED, self.next_step - step)
            batches = self._session.call(partial(self._batches, start=step, count=count))
            rows += np.asarray(batches.indices).reshape(-1).tolist()
            step += count
        return rows

    def _end_of_pass(self, step: int) -> int:
        return min(self.window_end, super()._end_of_pass(step))


class ScheduledStream:
    """In place of a DataLoader over a stream: `window` samples are read ahead, and the scheduler orders them.

        stream = ScheduledStream(dataset, name="run-1", modalities=["audio", "video"], batch_size=64, window=4096)
        for epoch in range(epochs):
            for index, (audio, video, label) in stream:
                ...
                stream.sampler.feedback(index, measure([audio_logits, video_logits], joint_logits, label))

    Each `for` goes through the data set once, and gives the samples' indices (g,) with each batch. Each sample of a
    window comes once before the next window is read, in weighted order; but as a policy says that draws with
    replacement or leaves samples out. What fills no batch at the end of the data set opens the next time through it.

    dataset: an iterable of samples that gives the same ones in the same order when it is gone through again from a
    checkpoint; `set_epoch`, if it has that, is told which time it is, from 0. A DataLoader with workers and
    batch_size=None reads ahead in the background. key: of a sample, by which the scheduler knows it again: a function,
    or what it is stored under in samples that are mappings, such as WebDataset's. Of samples of one key each comes, but
    what is known of one is known of all: where a window has two it warns. window: a multiple of batch_size, of
    at most 1,000 batches. collate_fn: makes a batch of samples. job: fields of the JobSpec. The others are as for
    ScheduledBatchSampler.

    Raises ValueError for several ranks: each has a stream of its own, so it needs a job of its own.
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        *,
        name: str,
        modalities: Sequence[str],
        batch_size: int,
        window: int,
        key: Key = "__key__",
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        url: str | SchedulerClient | None = None,
        if_exists: Literal["fail", "new"] = "fail",
        on_outage: Literal["wait", "raise"] = "wait",
        **job: Any,
    ) -> None:
        _check(batch_size, window, if_exists, on_outage)
        spec = JobSpec(
            name=name,
            samples=batch_size,
            modalities=modalities,
            batch_size=batch_size,
            interval=window // batch_size,
            stream=True,
            **job,
        )
        self.sampler = WindowSampler(spec, url, rank=0, world_size=1, if_exists=if_exists, on_outage=on_outage)
        self._dataset, self._key, self._collate = dataset, key, collate_fn
        self._batch_size, self._size = batch_size, window
        self._passes = 0  # that were given out
        self._turn = self._offset = 0  # of the sample that is read next
        self._reading: Iterator[Any] | None = None
        self._left: deque[_Item] = deque()  # read, and in no window yet
        self._window: _Window | None = None
        self._has_warned = False

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """The batches of what is left of this time through the data set: indices (g,), and what `collate_fn` makes."""
        while (window := self._window or self._open(None)) is not None:
            self._window = window
            while self.sampler.next_step < window.end_step:
                for indices in self.sampler:
                    yield torch.tensor(indices, dtype=torch.int64), self._batch(window, indices)
                if self.sampler.is_interrupted:
                    return
            self._window = None
            if window.is_last:
                break
        self._passes += 1

    def state_dict(self) -> dict[str, Any]:
        """Where training is, within a window too; as that of a sampler it holds only numbers, strings and tensors."""
        next_read = self._left[0] if self._left else _Item(self._turn, self._offset, "", None)
        first = next_read if self._window is None else self._window.first
        return {
            "version": STATE_VERSION,
            "passes": self._passes,
            "turn": first.turn,
            "offset": first.offset,
            "first_step": None if self._window is None else self._window.first_step,
            "sampler": self.sampler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was: the data set is gone through up to there, and the window read again.

        Raises ValueError where it ends before, or as ScheduledBatchSampler does.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"version must be {STATE_VERSION}, got {state.get('version')!r}")
        self.sampler.load_state_dict(state["sampler"])
        self._passes, self._turn, self._offset = int(state["passes"]), int(state["turn"]), 0
        self._reading, self._window = None, None
        self._left.clear()
        for number in range(int(state["offset"])):
            if self._read() is None:
                raise ValueError(
                    f"the stream must have more than {state['offset']} samples, as when the checkpoint was taken, got "
                    f"{number}"
                )
        if state["first_step"] is not None:
            self._window = self._open(int(state["first_step"]))

    def __enter__(self) -> Self:
        self.sampler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sampler.__exit__(kind, error, traceback)

    # Inside.

    def _open(self, first_step: int | None) -> _Window | None:
        """Read a window and have it planned; None where no more batch can be made of what is left of the data set."""
        items, is_last = self._ahead()
        if not items:
            return None
        indices = self.sampler.register([item.key for item in items])
        first_step = self.sampler.next_step if first_step is None else first_step
        end_step = self.sampler.open_window(first_step, indices)
        self._warn_of_keys(items)
        samples: dict[int, deque[Any]] = {}
        for index, item in zip(indices.tolist(), items, strict=True):
            samples.setdefault(index, deque()).append(item.sample)
        window = _Window(items[0], first_step, end_step, is_last, samples)
        if len(samples) < len(items):
            for index in self.sampler.trained_since(first_step):
                samples[index].rotate(-1)
        return window

    def _ahead(self) -> tuple[list[_Item], bool]:
        """The samples of the next window, a whole number of batches, and whether the data set ends with it.

        What was left over of earlier times through the data set is read on into this one.
        """
        items: list[_Item] = []
        is_last = False
        while len(items) < self._size and not is_last:
            item = self._left.popleft() if self._left else self._read()
            if item is not None:
                items.append(item)
            else:
                is_last = self._turn > self._passes
        whole = len(items) // self._batch_size * self._batch_size
        self._left.extendleft(reversed(items[whole:]))
        return items[:whole], is_last

    def _read(self) -> _Item | None:
        """The next sample; None where the data set ends, after which it is gone through again."""
        if self._reading is None:
            if hasattr(self._dataset, "set_epoch"):
                self._dataset.set_epoch(self._turn)
            self._reading = iter(self._dataset)
        for sample in self._reading:
            item = _Item(self._turn, self._offset, self._key_of(sample), sample)
            self._offset += 1
            return item
        self._reading, self._turn, self._offset = None, self._turn + 1, 0
        return None

    def _key_of(self, sample: Any) -> str:
        where = f"sample {self._offset} of the stream"
        try:
            key = self._key(sample) if callable(self._key) else sample[self._key]
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{where} must have a key under {self._key!r}, or give key=…, got {error!r}") from None
        if not isinstance(key, str):
            raise TypeError(f"{where} must have a key that is a str, got a {type(key).__name__}")
        return key

    def _warn_of_keys(self, items: list[_Item]) -> None:
        """Of two samples of one key, once; what is left over of the time before may come again in a window."""
        met: set[tuple[int, str]] = set()
        for item in () if self._has_warned else items:
            if (item.turn, item.key) in met:
                self._has_warned = True
                warnings.warn(
                    f"sample {item.offset} of the stream has the key {item.key!r} of another in its window: both are "
                    "trained on, and what is measured of one counts for both. Keys that tell samples of shards apart: "
                    "key=lambda sample: sample['__url__'] + sample['__key__']",
                    stacklevel=4,
                )
                return
            met.add((item.turn, item.key))

    def _batch(self, window: _Window, indices: list[int]) -> Any:
        if missing := [index for index in indices if index not in window.samples]:
            raise ValueError(
                f"the stream must give the same samples again: the window of step {window.first_step} had sample "
                f"{missing[0]}, which is not there now"
            )
        samples = []
        for index in indices:
            samples.append(window.samples[index][0])
            window.samples[index].rotate(-1)
        return self._collate(samples)


def _check(batch_size: int, window: int, if_exists: str, on_outage: str) -> None:
    place = placement()
    if place.world_size > 1:
        raise ValueError(
            f"a stream must be read by one rank alone, got rank {place.rank} of {place.world_size}: ranks read shards "
            "of their own, and a batch is drawn from one window; schedule a map-style data set, or train with one rank"
        )
    if batch_size < 1 or window < batch_size or window % batch_size:
        raise ValueError(f"window must be a multiple of batch_size = {batch_size}, got {window}")
    if if_exists not in ("fail", "new"):
        raise ValueError(f"if_exists must be fail or new for a stream, got {if_exists!r}: go on by load_state_dict")
    if on_outage not in ("wait", "raise"):
        raise ValueError(f"on_outage must be wait or raise for a stream, got {on_outage!r}")
