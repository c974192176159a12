"""Who may train as which rank of a job, as the model has it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bss_service.protocol.training import AttachRequest, Trainer


@dataclass(frozen=True)
class Places:
    """The trainers that hold the places of ranks, in order of rank, and those clients of theirs that are heard of.

    The services under attack wait so long for a silent trainer that time frees no place: one is free when its holder
    gives it up, or is said to have ended.
    """

    trainers: tuple[Trainer, ...] = ()
    heard: frozenset[str] = frozenset()

    def objection(self, asking: AttachRequest, served: int) -> str | None:
        """The field by which a request for a place is refused; None if it is granted."""
        mine = [held for held in self.trainers if held.rank == asking.rank]
        if any(held.client == asking.client for held in mine):
            return None
        there = self._there(asking)
        if not all(held.rank != asking.rank and _is_of(held, asking) for held in there):
            return "client"
        joins = there and not mine  # a run that is under way
        return "name" if served and not asking.resume and not joins else None

    def has_others(self, asking: AttachRequest) -> bool:
        """Whether the asking trainer, or another of its run, is there already."""
        return bool(self._there(asking))

    def _there(self, asking: AttachRequest) -> list[Trainer]:
        present = [t for t in self.trainers if t.client in self.heard and not t.left]
        return [t for t in present if t.client not in asking.instead_of or t.client == asking.client]

    def given(self, asking: AttachRequest) -> "Places":
        """The asking trainer has its place; those of another run have none any more."""
        trainer = Trainer(**{name: getattr(asking, name) for name in Trainer.model_fields})
        others = [held for held in self.trainers if held.rank != asking.rank and _is_of(held, asking)]
        return replace(self, trainers=tuple(sorted([*others, trainer], key=lambda t: t.rank))).hearing(asking.client)

    def are_closed_to(self, rank: int, client: str) -> bool:
        """Whether somebody else trains, at this rank or in another run than the client's."""
        return bool(self.trainers) and not any((t.rank, t.client) == (rank, client) for t in self.trainers)

    def has_beside(self, client: str | None) -> bool:
        """Whether somebody else than a client trains."""
        return any(t.client != client and not t.left for t in self.trainers)

    def hearing(self, client: str | None) -> "Places":
        """A client has called; nobody minds one that holds no place."""
        holders = frozenset(trainer.client for trainer in self.trainers)
        return replace(self, heard=(self.heard | {client}) & holders if client else self.heard)

    def left_by(self, client: str) -> "Places":
        """A client has said that it goes."""
        went = [t.model_copy(update={"left": True}) if t.client == client else t for t in self.trainers]
        return replace(self, trainers=tuple(went))

    def known_anew(self) -> "Places":
        """All that hold a place count as heard of."""
        return replace(self, heard=frozenset(trainer.client for trainer in self.trainers))

    def after_restart(self) -> Iterator["Places"]:
        """What a service may make of that: of everyone who did not go it must assume presence."""
        yield self.known_anew()


def _is_of(held: Trainer, asking: Trainer) -> bool:
    """Whether both may be ranks of the same run."""
    return held.world_size == asking.world_size and held.group == asking.group
