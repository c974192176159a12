"""Which of the services that share a store owns which of its jobs: shards of them, in equal shares."""

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

SHARDS: Final = 256


def shard_of(job: str) -> int:
    """The shard of a job, in [0, 256): the same on every machine and in every version."""
    return zlib.crc32(job.encode()) % SHARDS


@dataclass(frozen=True, slots=True)
class Shard:
    """A row of the table."""

    number: int
    epoch: int  # raised whenever it gets another owner
    owner: str | None  # address of a service; None: it was let go of


def share(members: int) -> int:
    """How many shards a service has at most where so many share them."""
    return -(-SHARDS // max(1, members))


def free_for(me: str, shards: Sequence[Shard], alive: Collection[str], *, also_of_the_dead: bool) -> dict[Shard, str]:
    """What a service that has too few shards takes of those that nobody has, each with its address.

    also_of_the_dead: those of services whose term has ended too. Each begins at another shard: who takes at the same
    time seldom wants the same.
    """
    room = share(len(alive)) - sum(shard.owner == me for shard in shards)
    first = zlib.crc32(me.encode()) % SHARDS
    free = [s for s in shards if s.owner is None or (also_of_the_dead and s.owner not in alive)]
    free.sort(key=lambda shard: (shard.number - first) % SHARDS)
    return dict.fromkeys(free[: max(0, room)], me)


def homes_of(given: Iterable[Shard], shards: Sequence[Shard], others: Collection[str]) -> dict[Shard, str | None]:
    """To whom each of these shards goes: to whoever of the others has fewest by then; None where there is no other."""
    owned = Counter(shard.owner for shard in shards)
    count = {other: owned[other] for other in others}
    homes: dict[Shard, str | None] = {}
    for shard in given:
        homes[shard] = home = min(count, key=lambda other: (count[other], other), default=None)
        if home is not None:
            count[home] += 1
    return homes


@dataclass(frozen=True, slots=True)
class View:
    """Who owned what when a service looked last, and how long it may believe that."""

    until: float = float("-inf")  # by the clock of who looked
    epochs: Mapping[int, int] = field(default_factory=dict)  # of the shards of one's own
    owners: Mapping[int, str] = field(default_factory=dict)  # of those of living others: their addresses
    members: int = 1

    @property
    def surplus(self) -> int:
        """How many shards it has beyond its share."""
        return max(0, len(self.epochs) - share(self.members))


def view_of(me: str, shards: Iterable[Shard], alive: Collection[str], until: float) -> View:
    """What a service sees in the table."""
    shards = list(shards)
    return View(
        until=until,
        epochs={shard.number: shard.epoch for shard in shards if shard.owner == me},
        owners={s.number: s.owner for s in shards if s.owner is not None and s.owner in alive and s.owner != me},
        members=max(1, len(alive)),
    )
