"""In which order changes are committed: a job's in the order they came, and none behind what others don't wait for.

SQLite lets one change in at a time, and takes about 10 ms for a megabyte. A large plan is therefore written ahead of
its transaction, in pieces that nothing refers to yet. Between them, and between the parts of snapshots, all others are
committed.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from uuid import uuid4

from bss_service.journal.schema import checksum
from bss_service.journal.stored import plan_body
from bss_service.journal.transaction import PIECE_BYTES, PlanPiece, Transaction, Written

Item = tuple[Transaction, Future[None]]


@dataclass(slots=True)
class _Lane:
    """A job's transactions, the first of which waits for its pieces, or for its turn."""

    items: list[Item]
    pieces: Iterator[PlanPiece]


class Lanes:
    """Transactions that wait for pieces or their turn, or behind one of their job that does."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}  # by job

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def ready(self, items: Sequence[Item]) -> list[Item]:
        """Those of new items that can be committed now, in their order; the others wait here."""
        ready = []
        for item in items:
            transaction, _ = item
            if transaction.job in self._lanes:
                self._lanes[transaction.job].items.append(item)
            elif (transaction.is_large or not transaction.is_change) and not transaction.fence.closed:
                self._lanes[transaction.job] = _Lane([item], _pieces(transaction))
            else:
                ready.append(item)
        return ready

    def turn(self) -> Item:
        """The item whose next piece is to be written; the lanes take turns."""
        job = next(iter(self._lanes))
        self._lanes[job] = lane = self._lanes.pop(job)
        return lane.items[0]

    def next_piece(self, transaction: Transaction) -> PlanPiece | None:
        """What is to be written ahead of it; None: nothing any more."""
        return None if transaction.fence.closed else next(self._lanes[transaction.job].pieces, None)

    def leave(self, job: str) -> list[Item]:
        """All items of a lane, whose pieces are written or can't be, in their order."""
        return self._lanes.pop(job).items


def _pieces(transaction: Transaction) -> Iterator[PlanPiece]:
    """The pieces of its plans, if it is large; behind the last of each the transaction tells that they are."""
    for plan in transaction.plans if transaction.is_large else ():
        body, write = plan_body(plan), uuid4().hex
        for piece, start in enumerate(range(0, len(body), PIECE_BYTES)):
            yield PlanPiece(plan.first_step, write, piece, body[start : start + PIECE_BYTES])
        proof = checksum(body, transaction.job, plan.first_step)
        transaction.written[plan.first_step] = Written(write, proof)
