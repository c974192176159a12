"""Plans: intervals drawn, and the batches in them."""

import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bss_service.core.arrays import Float32, Int64
from bss_service.core.calendar import Calendar
from bss_service.protocol.samples import DrawRow
from bss_service.protocol.training import Batches


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of consecutive steps, all drawn at once; K·G rows."""

    first_step: int
    indices: Int64  # (K, G)
    probabilities: Float32  # (K, G)
    policy_version: int
    scored_until: int  # drawn from the feedback of all steps before this one

    @classmethod
    def of_fields(cls, first_step: int, fields: Mapping[str, Any]) -> "Plan":
        """The inverse of `fields`."""
        indices = fields["indices"].astype("<i8")
        return cls(first_step, indices, fields["probabilities"], fields["policy_version"], fields["scored_until"])

    def fields(self) -> dict[str, Any]:
        """All but its first step. Indices are narrowed where they fit: plans are most of what a store holds."""
        narrow = self.indices.size and int(self.indices.max()) < 2**32
        return {
            "indices": self.indices.astype("<u4") if narrow else self.indices,
            "probabilities": self.probabilities,
            "policy_version": self.policy_version,
            "scored_until": self.scored_until,
        }

    @property
    def end_step(self) -> int:
        """First step after the plan."""
        return self.first_step + len(self.indices)

    def cut(self, end_step: int) -> "Plan":
        """The plan up to a step."""
        keep = end_step - self.first_step
        return replace(self, indices=self.indices[:keep], probabilities=self.probabilities[:keep])

    def since(self, step: int) -> "Plan":
        """The plan from a step on; empty where it ends before."""
        skip = max(0, step - self.first_step)
        return replace(
            self,
            first_step=self.first_step + skip,
            indices=self.indices[skip:],
            probabilities=self.probabilities[skip:],
        )

    def draws_of(self, sample: int) -> list[DrawRow]:
        """The draws of one sample, newest first."""
        rows, columns = np.nonzero(self.indices == sample)
        return [
            DrawRow(
                step=self.first_step + int(k),
                probability=float(self.probabilities[k, column]),
                policy_version=self.policy_version,
            )
            for k, column in zip(rows[::-1], columns[::-1], strict=True)
        ]

    def checksum(self) -> int:
        """CRC-32 of the indices."""
        return zlib.crc32(np.ascontiguousarray(self.indices).data)


def plan_of(plans: Sequence[Plan], step: int) -> Plan | None:
    """The plan that holds a step, among plans in order."""
    plan = plans[max(0, _position(plans, step))] if plans else None
    return plan if plan is not None and plan.first_step <= step < plan.end_step else None


def batches(plans: Sequence[Plan], calendar: Calendar, start: int, stop: int) -> Batches:
    """The batches of the steps [start, stop), all of which the plans hold."""
    parts = plans[_position(plans, start) : _position(plans, stop - 1) + 1]

    def rows(name: str) -> list[np.ndarray]:
        return [getattr(p, name)[max(0, start - p.first_step) : stop - p.first_step] for p in parts]

    indices = rows("indices")
    lengths = [len(part) for part in indices]
    return Batches(
        start=start,
        indices=np.concatenate(indices),
        probabilities=np.concatenate(rows("probabilities")),
        policy_version=np.repeat(np.array([p.policy_version for p in parts], dtype=np.int64), lengths),
        epoch=np.array([calendar.epoch_of(step) for step in range(start, stop)], dtype=np.int64),
        scored_until=np.repeat(np.array([p.scored_until for p in parts], dtype=np.int64), lengths),
    )


def _position(plans: Sequence[Plan], step: int) -> int:
    return bisect_right(plans, step, key=lambda plan: plan.first_step) - 1
