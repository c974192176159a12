"""Plans: intervals drawn, and the batches in them."""

import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from bss_service.core.arrays import Bool, Float32, Int64
from bss_service.core.calendar import Calendar
from bss_service.core.sampling import loss_weights
from bss_service.protocol.samples import DrawRow
from bss_service.protocol.training import Batches, batch_checksum

A = TypeVar("A", bound=np.ndarray)
FLAGS: Final = ("probes", "masked")
ARRAYS: Final = ("indices", "probabilities", *FLAGS)


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of consecutive steps, all drawn at once; K·G rows."""

    first_step: int
    indices: Int64  # (K, G)
    probabilities: Float32  # (K, G)
    policy_version: int
    scored_until: int  # drawn from the feedback of all steps before this one
    probes: Bool | None = None  # (K, G) rows that are only looked at; None: no row is
    masked: Bool | None = None  # (K, G, H) losses that do not count; None: none at all
    pull: float = 0.0  # of all of its steps

    @classmethod
    def of_fields(cls, first_step: int, fields: Mapping[str, Any]) -> "Plan":
        """The inverse of `fields`."""
        flags = {name: fields[name].astype(np.bool_) for name in FLAGS if fields.get(name) is not None}
        return cls(
            first_step,
            fields["indices"].astype("<i8"),
            fields["probabilities"],
            fields["policy_version"],
            fields["scored_until"],
            **flags,
            pull=fields.get("pull", 0.0),
        )

    def fields(self) -> dict[str, Any]:
        """All but its first step. Indices are narrowed where they fit: plans are most of what a store holds."""
        narrow = self.indices.size and int(self.indices.max()) < 2**32
        return {
            "indices": self.indices.astype("<u4") if narrow else self.indices,
            "probabilities": self.probabilities,
            "policy_version": self.policy_version,
            "scored_until": self.scored_until,
            **({"pull": self.pull} if self.pull else {}),
            **{name: flags.astype(np.uint8) for name in FLAGS if (flags := getattr(self, name)) is not None},
        }

    @property
    def end_step(self) -> int:
        """First step after the plan."""
        return self.first_step + len(self.indices)

    def cut(self, end_step: int) -> "Plan":
        """The plan up to a step."""
        return self._rows(self.first_step, slice(0, end_step - self.first_step))

    def since(self, step: int) -> "Plan":
        """The plan from a step on; empty where it ends before."""
        skip = max(0, step - self.first_step)
        return self._rows(self.first_step + skip, slice(skip, None))

    def between(self, start: int, stop: int) -> "Plan":
        """The plan from a step on, and up to one."""
        first = max(start, self.first_step)
        return self._rows(first, slice(first - self.first_step, stop - self.first_step))

    def draws_of(self, sample: int) -> list[DrawRow]:
        """The draws of one sample, newest first."""
        rows, columns = np.nonzero(self.indices == sample)
        return [
            DrawRow(
                step=self.first_step + int(k),
                probability=float(self.probabilities[k, column]),
                policy_version=self.policy_version,
                probe=self.probes is not None and bool(self.probes[k, column]),
            )
            for k, column in zip(rows[::-1], columns[::-1], strict=True)
        ]

    def checksum(self) -> int:
        """CRC-32 of the indices, and of what is to be done with them but for plain training."""
        checksum = zlib.crc32(np.ascontiguousarray(self.indices).data)
        if self.pull:
            checksum = zlib.crc32(np.float64(self.pull).tobytes(), checksum)
        for flags in (self.probes, self.masked):
            if flags is not None:
                checksum = zlib.crc32(np.ascontiguousarray(flags).data, checksum)
        return checksum

    def batch_checksum(self, step: int) -> int:
        """That of one of its batches, as a trainer can compute it."""
        k = step - self.first_step
        probes, masked = (None if flags is None else flags[k] for flags in (self.probes, self.masked))
        return batch_checksum(self.indices[k], probes, masked, self.pull)

    def _rows(self, first_step: int, rows: slice) -> "Plan":
        return Plan(
            first_step,
            self.indices[rows],
            self.probabilities[rows],
            self.policy_version,
            self.scored_until,
            None if self.probes is None else self.probes[rows],
            None if self.masked is None else self.masked[rows],
            self.pull,
        )


def plan_of(plans: Sequence[Plan], step: int) -> Plan | None:
    """The plan that holds a step, among plans in order."""
    plan = plans[max(0, _position(plans, step))] if plans else None
    return plan if plan is not None and plan.first_step <= step < plan.end_step else None


def batches(plans: Sequence[Plan], calendar: Calendar, start: int, stop: int) -> Batches:
    """The batches of the steps [start, stop), all of which the plans hold."""
    parts = plans[_position(plans, start) : _position(plans, stop - 1) + 1]
    parts = [
        part if part.first_step >= start and part.end_step <= stop else part.between(start, stop) for part in parts
    ]
    probes, masked = (_flags(name, parts) for name in FLAGS)
    return Batches.model_construct(  # none of it is a stranger's
        start=start,
        indices=_joined([part.indices for part in parts]),
        probabilities=_joined([part.probabilities for part in parts]),
        policy_version=_each(parts, [part.policy_version for part in parts], np.int64),
        epoch=np.array([calendar.epoch_of(step) for step in range(start, stop)], dtype=np.int64),
        scored_until=_each(parts, [part.scored_until for part in parts], np.int64),
        weights=None if probes is None else loss_weights(probes),
        modality_weights=None if masked is None else (~masked).astype(np.float32),
        pull=_each(parts, [part.pull for part in parts], np.float32) if any(part.pull for part in parts) else None,
    )


def _joined(arrays: list[A]) -> A:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # type: ignore[return-value]


def _each(parts: Sequence[Plan], values: Sequence[float], dtype: type[np.generic]) -> Any:
    """A value of each part for each of its steps, (K,)."""
    return np.array([value for part, value in zip(parts, values, strict=True) for _ in part.indices], dtype=dtype)


def _flags(name: str, parts: Sequence[Plan]) -> Bool | None:
    """Flags of consecutive plans, of which some may have none; None if none has."""
    flags: list[Bool | None] = [getattr(part, name) for part in parts]
    some = next((own for own in flags if own is not None), None)
    if some is None:
        return None
    if len(parts) == 1:
        return some
    none = [np.zeros((len(part.indices), *some.shape[1:]), np.bool_) for part in parts]
    return np.concatenate([other if own is None else own for own, other in zip(flags, none, strict=True)])


def _position(plans: Sequence[Plan], step: int) -> int:
    return bisect_right(plans, step, key=lambda plan: plan.first_step) - 1
