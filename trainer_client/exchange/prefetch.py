"""Internal, but for `ScheduledBatch`: the batches of one rank, from what is to be fetched to what awaits feedback."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

import numpy as np

from bss_service.core.arrays import Float32, Int64
from bss_service.core.sampling import importance_weights
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import Batches, batch_checksum
from trainer_client.errors import LagError

LOW: Final = 8  # batches that last for as long as a call may take
KEPT: Final = 4096  # batches: feedback that is further behind than so is not waited for, nor its batch kept
ROWS: Final = ("indices", "probabilities", "weights", "modality_weights")


@dataclass(frozen=True, slots=True, eq=False)
class ScheduledBatch:
    """The global batch of a step, or the rows of it that were asked for."""

    step: int
    indices: Int64  # (g,)
    epoch: int
    policy_version: int  # 0: drawn by this client during an outage
    scored_until: int  # drawn from the feedback of all steps before this one
    probabilities: Float32 | None = None  # (g,) of each draw in its plan; None: drawn by this client
    weights: Float32 | None = None  # (g,) of the losses, 1 on average over the global batch; None: 1 each
    modality_weights: Float32 | None = None  # (g, H) of each head's loss besides, the joint one's last; None: 1 each
    pull: float = 0.0  # λ of the `Pull`, if there is one

    @property
    def age(self) -> int:
        """Steps between the latest feedback that it was drawn from and this one."""
        return self.step - self.scored_until

    def checksum(self) -> int:
        """That of the whole batch, by which the service knows that it is the one of its step."""
        probes, masked = (None if w is None else w == 0 for w in (self.weights, self.modality_weights))
        return batch_checksum(self.indices, probes, masked, self.pull)

    def importance(self, samples: int) -> Float32:
        """1/(n·p) of each row, (g,), for n samples; 1 each where this client drew.

        Under coverage `draw` a mean of losses that it weighs is, in expectation, one over all samples.
        """
        if self.probabilities is None:
            return np.ones(len(self.indices), dtype=np.float32)
        return importance_weights(self.probabilities, samples)

    def part(self, rows: Int64) -> "ScheduledBatch":
        """Some rows of it."""
        arrays = {name: values[rows] for name in ROWS if (values := getattr(self, name)) is not None}
        return replace(self, **arrays)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Steps to fetch."""

    start: int
    count: int
    window: int  # that they are for


class Prefetch:
    """What one rank fetches, has fetched, and has given out. No thread, no I/O: whoever calls it holds the lock.

    size: batches to hold ready. handed_out: steps before this one were given out by an earlier process.
    """

    def __init__(self, spec: JobSpec, size: int, handed_out: int) -> None:
        self.handed_out = handed_out  # steps before this one were given out, by this process or an earlier one
        self.next = self.stop = 0  # steps [next, stop) are to be fetched
        self.open: dict[int, ScheduledBatch] = {}  # given out, without feedback yet
        self._lag = spec.lag
        self.calendar = spec.calendar()  # of the job as it has grown by now
        self._size = size
        self._low = min(size // 2, max(LOW, size // 4))
        self._fetched: deque[ScheduledBatch] = deque()
        self._replay: dict[int, ScheduledBatch] = {}  # given out by an earlier process, to be given out again
        self._window = 0  # counts calls of `begin`
        self._newest_fed = -1

    @property
    def is_done(self) -> bool:
        """Whether all is fetched that was to be."""
        return self.next >= self.stop

    @property
    def is_low(self) -> bool:
        """Whether so little is ready that more is to be fetched: few calls of many batches cost least."""
        return len(self._fetched) <= self._low and not self.is_done

    def begin(self, start: int, stop: int) -> None:
        """Give out the steps [start, stop) from now on; what is fetched for other steps is dropped."""
        steps = takewhile(self._replay.__contains__, range(start, stop))
        self._fetched = deque([self._replay[step] for step in steps])
        self._replay.clear()
        self.next, self.stop = start + len(self._fetched), stop
        self._window += 1

    def extend(self, stop: int) -> None:
        """Give out the steps before `stop` too."""
        self.stop = max(self.stop, stop)

    def reset(self) -> None:
        """Forget what was fetched and given out."""
        self.open.clear()
        self._replay.clear()
        self._newest_fed = -1
        self.begin(0, 0)

    def replay(self, batch: ScheduledBatch) -> None:
        """Give out this batch again, if the next window opens at or before it and all between are replayed too."""
        self._replay[batch.step] = batch

    def cut_replay(self, step: int) -> None:
        """Replay nothing from this step on."""
        self._replay = {earlier: batch for earlier, batch in self._replay.items() if earlier < step}

    def wanted(self) -> Fetch | None:
        """What to fetch now, if anything."""
        if not self.is_low:
            return None
        cut = self.feedback_needed()
        if self._missing(cut) or (self._fetched and self._fetched[0].step < cut):
            return None  # the service would hold the call for feedback that the same thread is to send
        return Fetch(self.next, min(self._size - len(self._fetched), self.stop - self.next), self._window)

    def add(self, fetch: Fetch, batches: Sequence[ScheduledBatch]) -> None:
        """Keep what was fetched, unless other steps are wanted by now."""
        if (fetch.window, fetch.start) == (self._window, self.next):
            self._fetched.extend(batches)
            self.next += len(batches)

    def pop(self) -> ScheduledBatch | None:
        """The next batch that is ready."""
        return self._fetched.popleft() if self._fetched else None

    def give_out(self, batch: ScheduledBatch) -> None:
        """Note a batch, fetched or drawn here, that the loop gets."""
        self.open[batch.step] = batch
        self.next = max(self.next, batch.step + 1)
        self.handed_out = max(self.handed_out, batch.step + 1)

    def fed(self, step: int) -> ScheduledBatch | None:
        """Note that the feedback of a step is in. Returns its batch, if it was given out by this process."""
        self._newest_fed = max(self._newest_fed, step)
        return self.open.pop(step, None)

    def close(self, step: int) -> None:
        """Expect no feedback of a step any more."""
        self.open.pop(step, None)

    def feedback_needed(self) -> int:
        """The next step's interval is drawn from the feedback of the steps before this one."""
        return self.calendar.interval_bounds(self.next)[0] - self._lag

    def passed_over(self, turn: int, *, blocked: bool) -> list[int]:
        """Open steps whose feedback will not come any more, with the loop at step `turn`.

        Where the loop asks for a batch whose interval needs it (`blocked`), all those whose turn is over: it was not
        given while it could be of use. Else those that are far behind.
        """
        limit = max(turn, self._newest_fed) - KEPT
        if blocked and self._newest_fed >= 0:
            limit = max(limit, min(turn, self.feedback_needed()))
        return list(takewhile(lambda step: step < limit, self.open))  # in order of step

    def abandon(self, step: int) -> None:
        """Take back the batches from a step on that were given out, but not trained on."""
        self.open = {earlier: batch for earlier, batch in self.open.items() if earlier < step}

    def check_lag(self) -> None:
        """A loader that waits here for the next interval can't bring the feedback that the interval needs."""
        if missing := self._missing(self.feedback_needed()):
            raise LagError(
                f"step {self.next} begins an interval that needs the feedback of step {min(missing)}, but the loader "
                f"has pulled {len(self.open)} batches ahead of it: create the job with lag = num_workers · "
                f"prefetch_factor (now {self._lag}), and call sampler.feedback(...) or skip(...) after every step"
            )

    def _missing(self, cut: int) -> list[int]:
        return [step for step in self.open if step < cut]


def scheduled(batches: Batches) -> list[ScheduledBatch]:
    """The batches of an answer, one by one."""
    nothing = [None] * len(batches.indices)
    columns = zip(
        np.asarray(batches.indices),
        batches.epoch.tolist(),
        batches.policy_version.tolist(),
        batches.scored_until.tolist(),
        batches.probabilities,
        nothing if batches.weights is None else batches.weights,
        nothing if batches.modality_weights is None else batches.modality_weights,
        [0.0] * len(nothing) if batches.pull is None else batches.pull.tolist(),
        strict=True,
    )
    return [ScheduledBatch(batches.start + k, *row) for k, row in enumerate(columns)]
