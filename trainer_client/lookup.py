"""Internal: which batch a loader's indices are."""

from bss_service.core.arrays import Int64
from trainer_client.placement import Placement
from trainer_client.prefetch import ScheduledBatch


class BatchLookup:
    """Finds the step of a batch by one rank's rows of it; of batches that are alike, the oldest."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._steps: dict[bytes, list[int]] = {}  # rows -> steps, oldest first

    def add(self, batch: ScheduledBatch) -> None:
        """Note a batch that was given out."""
        self._steps.setdefault(self._key(batch), []).append(batch.step)

    def find(self, rows: Int64) -> int | None:
        """The oldest step that has these rows (g,)."""
        return next(iter(self._steps.get(rows.tobytes(), ())), None)

    def discard(self, batch: ScheduledBatch) -> None:
        """Forget a batch, if it was noted."""
        key = self._key(batch)
        steps = self._steps.get(key, [])
        if batch.step in steps:
            steps.remove(batch.step)
        if not steps:
            self._steps.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._steps.clear()

    def _key(self, batch: ScheduledBatch) -> bytes:
        return self._placement.rows(batch.indices).tobytes()
