"""What goes into the store and comes out of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bss_service.job.plans import Plan
from bss_service.policies.artefact import Artefact
from bss_service.protocol import JobSpec, frames

PART_BYTES: Final = 4 * 2**20  # of a snapshot in one row: as long as it is being written, no other change is


@dataclass(frozen=True, slots=True)
class Entry:
    """A journal entry: what changed a job."""

    seq: int
    kind: str
    body: bytes

    @classmethod
    def of(cls, seq: int, kind: str, message: Mapping[str, Any]) -> "Entry":
        """The entry of a message's fields."""
        return cls(seq, kind, frames.encode(dict(message)))

    def message(self) -> dict[str, Any]:
        """The entry's content."""
        return frames.decode(self.body)


@dataclass(slots=True)
class Lease:
    """One loading of a job into memory. After a failed commit nothing more that was built on that memory is stored."""

    broken: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """A part of a snapshot's frame; the snapshot counts once all of its parts are stored."""

    seq: int  # of the last entry in the snapshot
    part: int
    parts: int
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether the snapshot is whole with it."""
        return self.part == self.parts - 1


def parts_of(seq: int, body: bytes) -> Iterator[SnapshotPart]:
    """The parts of a snapshot's frame, in order."""
    parts = -(-len(body) // PART_BYTES)
    for part in range(parts):
        yield SnapshotPart(seq, part, parts, body[part * PART_BYTES : (part + 1) * PART_BYTES])


@dataclass(slots=True)
class Transaction:
    """Changes that are committed together or not at all."""

    job: str  # empty where they concern none
    lease: Lease
    entries: list[Entry] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)  # in place of those that begin at the same steps
    undrawn: int | None = None  # plans from this step on are void
    damaged_from: int | None = None  # journal entries from this one on are set aside
    snapshot: list[SnapshotPart] = field(default_factory=list)
    artefacts: list[Artefact] = field(default_factory=list)  # stored unless they are already
    created: JobSpec | None = None
    deleted: bool = False

    @property
    def is_change(self) -> bool:
        """Whether memory is ahead of the store without it; a snapshot alone can be taken another time."""
        return bool(self.entries or self.plans or self.created or self.deleted or self.artefacts)


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
