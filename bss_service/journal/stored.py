"""What comes out of the store."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bss_service.core.observation import FIELDS
from bss_service.job.plans import Plan
from bss_service.job.snapshot import with_observations
from bss_service.journal.transaction import Entry
from bss_service.protocol import frames
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a job's journal ends that can be believed, and what is behind."""

    seq: int  # of the first entry that is not as it was written, or not there
    reason: str
    later: list[Entry]  # those behind it that are as they were written, in order
    lost: int  # those that are not


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds of a job: its last snapshot, and what came after."""

    spec: JobSpec
    snapshot: bytes | None
    seq: int  # of the snapshot; 0 without one
    entries: list[Entry]
    damage: Damage | None = None
    damaged_snapshots: tuple[int, ...] = ()  # by seq: newer ones that can't be read
    last_plan: int = -1  # first step of the last stored plan
    imported: bool = False  # whether its journal begins with a snapshot
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A stored plan."""

    first_step: int
    body: bytes
    checksum: int
    intact: bool

    def plan(self) -> Plan:
        """The plan of an intact row."""
        return Plan.of_fields(self.first_step, frames.decode(self.body))


def plan_body(plan: Plan) -> bytes:
    """A plan as a frame."""
    return frames.encode(plan.fields())


def decisions_body(decisions: Sequence[Decision]) -> bytes:
    """Decisions as a frame, deflated: most of one is as in the one before."""
    rows = [decision.model_dump() for decision in decisions]
    vectors = np.array([row.pop("observation") for row in rows], np.float32).reshape(-1, len(FIELDS))
    return zlib.compress(frames.encode({"decisions": rows, "observations": vectors}), 1)


def decisions_of(body: bytes) -> list[Decision]:
    """The inverse of `decisions_body`."""
    message = with_observations(frames.decode(zlib.decompress(body)))
    return [Decision.model_validate(row) for row in message["decisions"]]
