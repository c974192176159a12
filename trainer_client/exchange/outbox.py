"""Internal: what waits to be sent to the service, and how it is packed."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
import torch

from bss_service.core.arrays import Float32, Int64
from bss_service.protocol.training import UNKNOWN_BATCH, Feedback, FeedbackRequest, LocalBatchesRequest
from bss_service.protocol.validation import ValidationReport
from trainer_client.errors import LabelError
from trainer_client.exchange.placement import Placement
from trainer_client.exchange.transfer import Transfer

MESSAGE_STEPS: Final = 64  # feedback of so many steps goes in one message
LOCAL_STEPS: Final = 1024  # batches drawn locally in one message
LOCAL_ROWS: Final = 2**20  # of them together
COMPANY: Final = 32  # steps of feedback that wait for no more of it
LINGER: Final = 0.5  # seconds that it may wait, for company or the next fetch


@dataclass(slots=True)
class FeedbackItem:
    """Feedback of one rank for one step: what was measured, or that nothing was."""

    step: int
    sender: Placement
    values: Transfer | None  # (g, S)
    samples: Int64 | None = field(default=None, compare=False)  # (g,) indices, where they are known
    queued: float = 0.0  # by the outbox's clock
    is_whole: bool = field(default=False, compare=False)  # every value was seen to be finite
    checksum: int | None = field(default=None, compare=False)  # of the global batch, where that is known
    tries: int = field(default=0, compare=False)  # of sending it

    def read(self) -> Float32 | None:
        """What was measured; waits for it. Raises LabelError naming the step and the sample of a wrong label."""
        if self.values is None:
            return None
        if (rows := self.values.wrong_labels()).size:
            row = int(rows[0])
            sample = "" if self.samples is None else f", sample {self.samples[row]}"
            raise LabelError(
                f"labels must be classes, or ignore_index where a sample has none, got another in step {self.step}, "
                f"row {row}{sample}"
            )
        return self.values.known()

    def arrived(self) -> Float32 | None:
        """What was measured as it came, if anything was; waits for it."""
        return None if self.values is None else self.values.arrived()

    def unmeasured(self) -> int:
        """Of how many of its samples some signal was not measured, or came out not finite."""
        return 0 if self.values is None or self.is_whole else int((~np.isfinite(self.values.known()).all(axis=1)).sum())


@dataclass(slots=True)
class ValidationItem:
    """A validation report."""

    report: ValidationReport


@dataclass(slots=True)
class LocalItem:
    """Batches drawn by the client from step `start` on."""

    start: int
    batches: list[Int64] = field(default_factory=list)  # (G,) each

    def messages(self, client: str) -> Iterator[LocalBatchesRequest]:
        """The batches as a client's messages of bounded size, to be sent in order."""
        steps = max(1, min(LOCAL_STEPS, LOCAL_ROWS // max(1, len(self.batches[0])))) if self.batches else 1
        for k in range(0, len(self.batches), steps):
            indices = np.stack(self.batches[k : k + steps])
            yield LocalBatchesRequest(start=self.start + k, indices=indices, client=client)


@dataclass(slots=True)
class Farewell:
    """This trainer gives up its place; nothing comes behind."""


Item = FeedbackItem | ValidationItem | LocalItem | Farewell


class Outbox:
    """The queue to the service, first in, first out. No thread, no I/O: whoever calls it holds the lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.growing: LocalItem | None = None  # the item that takes the batches that are being drawn locally
        self._items: deque[Item] = deque()
        self._clock = clock

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> list[Item]:
        """All that was not acknowledged, but for a farewell."""
        return [item for item in self._items if not isinstance(item, Farewell)]

    def put(self, item: Item) -> None:
        """Queue an item."""
        if isinstance(item, FeedbackItem):
            item.queued = self._clock()
        self._items.append(item)

    def grow_from(self, step: int) -> None:
        """Queue an item for the batches that are drawn locally from a step on."""
        self.growing = LocalItem(step)
        self._items.append(self.growing)

    def next_message(self) -> list[FeedbackItem] | ValidationItem | LocalItem | Farewell:
        """What may go next, as one message: the head, and behind feedback as much of the same rank's as fits; or [].

        Batches that were drawn locally grow no more once it is their turn.
        """
        head = self._items[0] if self._items else None
        if head is self.growing:
            self.growing = None
        if isinstance(head, ValidationItem | LocalItem | Farewell):
            return head
        feedback: list[FeedbackItem] = []
        for item in islice(self._items, MESSAGE_STEPS):
            if not isinstance(item, FeedbackItem) or (feedback and item.sender != feedback[0].sender):
                break
            feedback.append(item)
        return feedback

    def is_due(self, feedback: Sequence[FeedbackItem], stop: int) -> bool:
        """Whether feedback should wait for more of it no longer. stop: no step from this one on will have any yet."""
        return (
            len(self._items) > len(feedback)
            or len(feedback) >= COMPANY
            or feedback[-1].step + 1 >= stop
            or self._clock() - feedback[0].queued >= LINGER
        )

    def is_news(self, item: Item, stop: int) -> bool:
        """Whether who waits to send has to know of an item that was just put: feedback mostly joins what waits."""
        waiting = len(self._items)
        return not isinstance(item, FeedbackItem) or waiting == 1 or waiting >= COMPANY or item.step + 1 >= stop

    def due_in(self) -> float | None:
        """Seconds until the feedback at the head is due, if it is feedback."""
        head = self._items[0] if self._items else None
        return max(0.001, head.queued + LINGER - self._clock()) if isinstance(head, FeedbackItem) else None

    def acknowledge(self, items: int) -> None:
        """The service has so many items from the head."""
        for _ in range(items):
            self._items.popleft()


class SilentOutbox(Outbox):
    """Of a process that follows: another has all of it for the service too, and says so."""

    def put(self, item: Item) -> None:
        """Leave it to the other."""


def feedback_request(items: Sequence[FeedbackItem], batch_size: int, width: int) -> FeedbackRequest:
    """One message of feedback items of one rank. batch_size: the global one; width: S, columns of the signals."""
    sender = items[0].sender
    values: Float32 = np.full((len(items), batch_size // sender.world_size, width), np.nan, dtype=np.float32)
    for item in items:
        item.tries += 1
    measured = [k for k, item in enumerate(items) if item.values is not None]
    for k in measured:
        values[k] = items[k].arrived()
    is_whole: list[bool] = np.isfinite(values).all(axis=(1, 2), keepdims=True).ravel().tolist()
    for k in measured:
        items[k].is_whole = is_whole[k]
        if not is_whole[k]:
            values[k] = items[k].read()
    checksums = [UNKNOWN_BATCH if item.checksum is None else item.checksum for item in items]
    feedback = Feedback(
        step=np.array([item.step for item in items], dtype=np.int64),
        values=values,
        checksum=np.array(checksums, dtype=np.int64),
    )
    return FeedbackRequest(rank=sender.rank, world_size=sender.world_size, feedback=feedback)


def saved(item: Item, *, wait: bool = True) -> dict[str, Any]:
    """An unsent item as numbers, strings and tensors; without `wait`, values that are still on a device are left out.

    A wrong label is not known there: the process that trained on it says so, and one that goes on can't help it.
    """
    if isinstance(item, FeedbackItem):
        known = item.values if wait or (item.values is not None and item.values.is_here) else None
        values = None if known is None else torch.from_numpy(known.known())
        return {"step": item.step, **item.sender._asdict(), "values": values, "checksum": item.checksum}
    if isinstance(item, ValidationItem):
        return {"validation": item.report.model_dump_json()}
    if isinstance(item, Farewell):
        raise TypeError("a farewell is not kept")
    return {"start": item.start, "batches": [torch.from_numpy(batch) for batch in item.batches]}


def restored(saved: Mapping[str, Any]) -> Item:
    """The item that `saved` made this of."""
    if "validation" in saved:
        return ValidationItem(ValidationReport.model_validate_json(saved["validation"]))
    if "batches" in saved:
        return LocalItem(int(saved["start"]), [batch.cpu().numpy() for batch in saved["batches"]])
    values = None if saved["values"] is None else Transfer(saved["values"])
    placement = Placement(int(saved["rank"]), int(saved["world_size"]))
    return FeedbackItem(int(saved["step"]), placement, values, checksum=saved.get("checksum"))
