"""What waits to be sent to the service, and how it is packed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from bss_service.core.arrays import Float32, Int64
from bss_service.protocol import Feedback, FeedbackRequest, LocalBatches, ValidationReport
from trainer_client.measure import Measurement

MESSAGE_STEPS: Final = 64  # feedback of so many steps goes in one message
LOCAL_STEPS: Final = 1024  # batches drawn locally in one message


class Transfer:
    """A tensor on its way from the device to the host; nobody waits for it until it is read."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            # Of the values' own device, which need not be the current one; blocking, or its waiter spins a core.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(values.device))
        else:
            self._values = values.cpu()

    def read(self) -> Float32:
        """The values; waits for the copy to end."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values.numpy()


@dataclass(slots=True)
class FeedbackItem:
    """Feedback of one rank for one step: columns similarity, loss and true-label probabilities, or nothing measured."""

    step: int
    rank: int
    world_size: int
    values: Transfer | None  # (g, 2 + M + 1)
    queued: float = 0.0  # monotonic seconds


@dataclass(slots=True)
class ValidationItem:
    """A validation report."""

    report: ValidationReport


@dataclass(slots=True)
class LocalItem:
    """Batches drawn by the client from step `start` on; it grows until it is sent."""

    start: int
    batches: list[Int64] = field(default_factory=list)  # (G,) each
    closed: bool = False

    def messages(self) -> Iterator[LocalBatches]:
        """The batches as messages of bounded size, to be sent in order."""
        for k in range(0, len(self.batches), LOCAL_STEPS):
            yield LocalBatches(start=self.start + k, indices=np.stack(self.batches[k : k + LOCAL_STEPS]))


Item = FeedbackItem | ValidationItem | LocalItem


def packed(measurement: Measurement) -> Transfer:
    """A measurement as one tensor on its way to the host."""
    columns = [measurement.similarity.unsqueeze(1), measurement.loss.unsqueeze(1), measurement.probabilities]
    return Transfer(torch.cat([column.detach().float() for column in columns], dim=1))


def feedback_request(items: Sequence[FeedbackItem], share: int, heads: int) -> FeedbackRequest:
    """One message of feedback items of one rank.

    A number that is not finite (a diverged model, an overflow in half precision) is sent as unknown.
    share: samples of the rank in a batch; heads: M + 1.
    """
    values = np.full((len(items), share, 2 + heads), np.nan, dtype=np.float32)
    for k, item in enumerate(items):
        if item.values is not None:
            values[k] = item.values.read()
    values[~np.isfinite(values)] = np.nan
    feedback = Feedback(step=np.array([item.step for item in items], dtype=np.int64), values=values)
    return FeedbackRequest(rank=items[0].rank, world_size=items[0].world_size, feedback=feedback)


def saved(item: Item) -> dict[str, Any]:
    """An unsent item as numbers, strings and tensors."""
    if isinstance(item, FeedbackItem):
        values = None if item.values is None else torch.from_numpy(item.values.read())
        return {"step": item.step, "rank": item.rank, "world_size": item.world_size, "values": values}
    if isinstance(item, ValidationItem):
        return {"validation": item.report.model_dump_json()}
    return {"start": item.start, "batches": [torch.from_numpy(batch) for batch in item.batches]}


def restored(saved: Mapping[str, Any]) -> Item:
    """The item that `saved` told of."""
    if "validation" in saved:
        return ValidationItem(ValidationReport.model_validate_json(saved["validation"]))
    if "batches" in saved:
        return LocalItem(int(saved["start"]), [batch.cpu().numpy() for batch in saved["batches"]])
    values = None if saved["values"] is None else Transfer(saved["values"])
    return FeedbackItem(int(saved["step"]), int(saved["rank"]), int(saved["world_size"]), values)
