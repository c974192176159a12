"""What goes into the store: journal entries, plans, parts of snapshots, committed together or not at all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from bss_service.job import history
from bss_service.job.events import Event, JobEvent, read_event
from bss_service.job.plans import Plan
from bss_service.journal.descriptions import Description
from bss_service.policies.artefact import AnyArtefact
from bss_service.protocol import frames
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec

PIECE_BYTES: Final = 2**19  # of a snapshot or a large plan: as long as one is being written, no other change is

LARGE_ROWS: Final = 2**17  # of plans, which take 8 bytes a row or more


@dataclass(frozen=True, slots=True)
class Entry:
    """A journal entry: an event of a job."""

    seq: int
    kind: str
    body: bytes

    @classmethod
    def of(cls, seq: int, event: JobEvent[Any]) -> Self:
        """The entry of an event."""
        return cls(seq, event.kind, frames.encode(event.fields()))

    def event(self, spec: JobSpec) -> Event:
        """The event of a job with this spec."""
        return read_event(self.kind, frames.decode(self.body), spec)


@dataclass(slots=True)
class Fence:
    """Guards what one loading of a job stores: once closed, nothing more that was built on that memory is stored.

    epoch: of the job's shard when it was loaded, of a store that several services share: nothing is stored in another.
    A store makes such a fence; any other is of no epoch, and there nothing is stored behind it.
    """

    closed: bool = False
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """A part of a snapshot's frame; the snapshot counts once all of its parts are stored."""

    seq: int  # of the last entry in the snapshot
    part: int
    parts: int
    body: bytes
    first_step: int = -1  # of the plans in it
    kept: tuple[int, ...] = ()  # earlier snapshots that stay beside it, by seq

    @property
    def is_last(self) -> bool:
        """Whether the snapshot is whole with it."""
        return self.part == self.parts - 1


def parts_of(seq: int, body: bytes, first_step: int = -1, kept: tuple[int, ...] = ()) -> Iterator[SnapshotPart]:
    """The parts of a snapshot's frame, in order."""
    parts = -(-len(body) // PIECE_BYTES)
    for part in range(parts):
        piece = body[part * PIECE_BYTES : (part + 1) * PIECE_BYTES]
        yield SnapshotPart(seq, part, parts, piece, first_step, kept)


@dataclass(frozen=True, slots=True)
class PlanPiece:
    """A piece of a plan's frame, written before the transaction that it belongs to."""

    first_step: int
    write: str  # tells it from pieces of another plan from the same step
    piece: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """A plan whose pieces are in the store."""

    write: str
    checksum: int  # of all of them


@dataclass(frozen=True, slots=True)
class DecisionBlock:
    """Decisions of which nothing changes any more."""

    first: int  # number of the first
    decisions: list[Decision]

    @classmethod
    def of(cls, first: int, decisions: Sequence[Decision]) -> list[Self]:
        """The blocks of decisions, a whole number of them."""
        size = history.BLOCK
        return [cls(first + k, list(decisions[k : k + size])) for k in range(0, len(decisions), size)]


@dataclass(slots=True)
class Removal:
    """A little of what is kept no longer; whether that was all is known once it is stored."""

    step: int  # plans that end at this one or before
    seq: int  # of the snapshot that the journal is to begin behind; 0: it stays whole
    removed: int = 0  # rows
    is_done: bool = False


@dataclass(slots=True)
class Transaction:
    """Changes that are committed together or not at all."""

    job: str  # empty where they concern none
    fence: Fence = field(default_factory=Fence)
    entries: list[Entry] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)  # in place of those that begin at the same steps
    truncated: int | None = None  # plans from this step on are void
    damaged_from: int | None = None  # journal entries from this one on are set aside
    snapshot: list[SnapshotPart] = field(default_factory=list)
    artefacts: list[AnyArtefact] = field(default_factory=list)  # stored unless they are already
    descriptions: list[Description] = field(default_factory=list)
    decisions: list[DecisionBlock] = field(default_factory=list)  # in place of those of the same numbers
    removal: Removal | None = None
    created: JobSpec | None = None
    incarnation: str = ""  # of what is created
    deleted: bool = False
    written: dict[int, Written] = field(default_factory=dict)  # plans whose pieces are stored, by first step

    def truncate(self, step: int) -> None:
        """Let the plans from a step on be void, those in this transaction too."""
        self.truncated = step if self.truncated is None else min(step, self.truncated)
        self.plans = [plan for plan in self.plans if plan.first_step < step]

    @property
    def stores(self) -> bool:
        """Whether it stores anything; one that doesn't only waits for what was handed over before."""
        return (
            self.is_change
            or self.truncated is not None
            or any((self.snapshot, self.descriptions, self.removal, self.damaged_from))
        )

    @property
    def is_large(self) -> bool:
        """Whether its plans take so long to write that other changes should not wait for it."""
        return sum(plan.indices.size for plan in self.plans) > LARGE_ROWS

    @property
    def is_change(self) -> bool:
        """Whether memory is ahead of the store without it; a snapshot alone can be taken another time."""
        return bool(self.entries or self.plans or self.created or self.deleted or self.artefacts or self.decisions)
