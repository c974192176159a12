"""Places: which process trains as which rank of a job, and who may take over."""

import math
from collections.abc import Mapping

from bss_service.errors import ConflictError
from bss_service.job.job import Job
from bss_service.protocol.training import AttachRequest


def check_place(job: Job, asking: AttachRequest, heard: Mapping[str, float], seconds: float) -> bool:
    """Whether nobody of its run is there yet.

    Raises ConflictError where a place can't be had: another holds it, or the job has been handed out to another run.

    heard: seconds since each client was last heard of, by client. seconds: how long it holds its place after that.
    """
    trainers = job.trainers.values()
    mine = job.trainers.get(asking.rank)
    if mine is not None and mine.client == asking.client:
        return mine.left
    gone = set(asking.instead_of)
    ages = {t.client: math.inf if t.client in gone else heard.get(t.client, math.inf) for t in trainers}
    there = [t for t in trainers if ages[t.client] < seconds and not t.left]
    for held in there:
        if held.rank == asking.rank or not held.is_fellow_of(asking):
            age = ages[held.client]
            raise ConflictError(
                f"rank {held.rank} of job {job.spec.name!r} is held by process {held.process} on {held.host} (client "
                f"{held.client}), heard of {max(0.0, age):.0f} s ago: its place is free when it closes its sampler, or "
                f"{seconds - age:.0f} s from now if it is heard of no more",
                field="client",
                value=held.client,
            )
    if not asking.resume and job.served > 0 and (mine is not None or not there):
        raise ConflictError(
            f"job {job.spec.name!r} has handed out {job.served} steps to an earlier run",
            field="name",
            value=job.spec.name,
        )
    return not there


def check_incarnation(job: Job, asked: str | None) -> None:
    """Raises ConflictError for a trainer that trains with another job of this name; None: it does not say."""
    if asked is None or asked == job.incarnation:
        return
    name = job.spec.name
    what = (
        f"job {name!r} goes on from step {job.origins[asked]} of the one that this trainer trains with, in a copy of "
        f"its store: to go on with it, resume from a checkpoint of step {job.origins[asked]} or earlier"
        if asked in job.origins
        else f"job {name!r} is another than the one of that name that this trainer trains with, which was deleted or "
        "lost: begin a run of another name, or resume this one"
    )
    raise ConflictError(f"{what} (incarnation {asked}, now {job.incarnation})", field="incarnation", value=asked)


def has_place(job: Job, rank: int, client: str | None) -> bool:
    """Whether nobody has taken the place of a client's rank, nor ended its run; so too of one that names no client."""
    held = job.trainers.get(rank)
    return client is None or not job.trainers or (held is not None and held.client == client)


def check_may_replace(job: Job, start: int, client: str | None) -> None:
    """Raises ConflictError where somebody else than a client trains on steps that were handed out, from `start` on."""
    others = [t for t in job.trainers.values() if t.client != client and not t.left]
    if others and start < job.served:
        by = others[0]
        raise ConflictError(
            f"start must not come before step {job.served}, got {start}: step {start} of job {job.spec.name!r} was "
            f"handed out, and rank {by.rank} is trained by process {by.process} on {by.host} (client {by.client})",
            field="start",
            value=start,
        )


def check_holder(job: Job, rank: int, client: str | None) -> None:
    """Raises ConflictError for a client whose rank's place another has taken meanwhile, or whose run another has ended.

    Where nobody has taken any place, nobody can have lost one: the job is from before there were places.
    """
    if has_place(job, rank, client):
        return
    held = job.trainers.get(rank)
    by = held or next(iter(job.trainers.values()))
    what = "" if held else f", whose run of {by.world_size} ranks has nobody at that rank"
    raise ConflictError(
        f"rank {rank} of job {job.spec.name!r} was taken over by process {by.process} on {by.host} (client "
        f"{by.client}){what}, since nothing was heard of client {client}",
        field="client",
        value=by.client,
    )
