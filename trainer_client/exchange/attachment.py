"""Internal: the place of a rank in a job, which one process at a time has, and the job that a run goes on with."""

import logging
import os
import re
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from bss_service.core.arrays import UInt16
from bss_service.protocol.jobs import JobChange, JobSpec, JobState
from bss_service.protocol.message import NAME_PATTERN
from bss_service.protocol.training import PLACE_SECONDS, AttachAnswer, AttachRequest, Trainer
from trainer_client.client import SchedulerClient
from trainer_client.errors import ConflictError, JobExistsError, OtherJobError, OutageError, SchedulerError
from trainer_client.exchange.foreground import Foreground
from trainer_client.exchange.placement import Placement

log = logging.getLogger(__name__)

IfExists = Literal["fail", "new", "resume"]
ALIVE: Final = PLACE_SECONDS + 5.0  # beyond a job's patience: a place that is held for so long has somebody in it
MOST_NAMES: Final = 10_000  # of jobs that a new one may be the last of
FELLOWS: Final = 60.0  # seconds to wait for rank 0 to name the job
MOST_GONE: Final = 64  # trainers that may be told to have ended in one attempt to take a place
PAUSE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Which job a checkpoint is of, as far as that is known, and the step."""

    incarnation: str | None
    step: int

    def check(self, job: JobState) -> None:
        """Raises OtherJobError where a job does not hold what this was trained on."""
        if self.incarnation is None or job.incarnation in (None, self.incarnation) or self.step == 0:
            return
        shared = job.origins.get(self.incarnation)
        if shared is None or self.step > shared:
            name = job.spec.name
            what = (
                f"job {name!r} is another than the one that the checkpoint is of, which was deleted or lost: begin a "
                "run of another name, or load the model alone"
                if shared is None
                else f"job {name!r} goes on from step {shared} of what the checkpoint is of, in a copy of its store: "
                f"load a checkpoint of step {shared} or earlier, got one of step {self.step}"
            )
            raise OtherJobError(409, what, "incarnation", self.incarnation)


_ended: Final[set[str]] = set()  # trainers of this process that were closed; the service may not know it yet


def this_trainer(placement: Placement) -> Trainer:
    """This process, as one that asks for a place."""
    return Trainer(
        **placement._asdict(),
        client=uuid.uuid4().hex,
        host=socket.gethostname(),
        process=os.getpid(),
        machine=_machine(),
        group=_group() if placement.world_size > 1 else "",
    )


def note_end(trainer: Trainer) -> None:
    """Let others of this process take the place of a trainer at once, also where its farewell did not get through."""
    _ended.add(trainer.client)


class Attachment:
    """Finds the job that a run goes on with, and takes this process' place in it."""

    def __init__(self, foreground: Foreground, me: Trainer, groups: UInt16 | None = None) -> None:
        """groups: of the job's samples (n,), which rank 0 tells before anything is drawn."""
        self._foreground = foreground
        self.groups = groups
        self.me = me
        self.incarnation: str | None = None  # of the job, once it is found

    def to(
        self, spec: JobSpec, if_exists: IfExists, checkpoint: Checkpoint | None = None
    ) -> tuple[JobSpec, AttachAnswer]:
        """The spec of the job, whose name may be another, and what the service says of it.

        Raises JobExistsError where it was handed out to an earlier run, OtherJobError where it is not the checkpoint's,
        ConflictError where another process has the place.
        """
        if if_exists != "new":
            state = self._foreground.call(lambda client: client.create_job(spec))
            if checkpoint is not None:
                checkpoint.check(state)
            self._bind(state)
            known = state.spec
            answer = self._take_place(spec.name, resume=if_exists == "resume", patience=known.patience)
            self._tell_groups(spec.name)
            if (change := JobChange.between(known, spec)) != JobChange():  # more epochs, perhaps
                self._foreground.call(lambda client: client.change_job(spec.name, change))
            return spec.sized(known.size), answer
        return self._to_new(spec) if self.me.rank == 0 else self._to_that_of_rank_0(spec)

    def follow(self, spec: JobSpec, checkpoint: Checkpoint | None = None) -> tuple[JobSpec, AttachAnswer]:
        """What `to` gives, of a job in which another process takes the place."""
        state = self._foreground.call(lambda client: client.create_job(spec))
        if checkpoint is not None:
            checkpoint.check(state)
        self._bind(state)
        told = {name: getattr(state, name) for name in AttachAnswer.model_fields}
        return spec, AttachAnswer(**told)

    def _tell_groups(self, job: str) -> None:
        if self.groups is not None and self.me.rank == 0:
            self._foreground.call(partial(SchedulerClient.set_groups, name=job, groups=self.groups))

    def _bind(self, job: JobState) -> None:
        self.incarnation = job.incarnation
        self._foreground.bind(job.incarnation)

    def _take_place(self, job: str, *, resume: bool, patience: float = 0.0) -> AttachAnswer:
        """Take the place, also that of one that has crashed: at once where this is seen from here, else in its time."""
        request = AttachRequest(**self.me.model_dump(), resume=resume)
        since, waiting = time.monotonic(), False
        while True:
            try:
                return self._foreground.call(partial(SchedulerClient.attach, name=job, request=request))
            except OtherJobError:
                raise
            except ConflictError as error:
                if error.field == "name":
                    raise JobExistsError(error, job) from None
                holder, gone = error.value, request.instead_of
                is_news = isinstance(holder, str) and holder not in gone and len(gone) < MOST_GONE
                if is_news and re.fullmatch(NAME_PATTERN, holder) and self._has_ended(job, holder):
                    request = request.model_copy(update={"instead_of": [*gone, holder]})
                    continue
                if not resume or time.monotonic() - since > ALIVE + patience or self._foreground.interrupted:
                    raise
                if not waiting:
                    log.warning("%s: waiting for that", error)
                waiting = True
            self._foreground.sleep(PAUSE)

    def _has_ended(self, job: str, client: str) -> bool:
        """Whether another trainer, or its process, is known to be gone."""
        if client in _ended:
            return True
        state = self._foreground.call(lambda once: once.job(job))
        other = next((trainer for trainer in state.trainers if trainer.client == client), None)
        if other is None or not self.me.machine or other.machine != self.me.machine:
            return False
        return not Path(f"/proc/{other.process}").exists()

    def _to_new(self, spec: JobSpec) -> tuple[JobSpec, AttachAnswer]:
        """The first job of the names name, name-2, name-3 … that nobody was handed steps of."""
        for number in range(1, MOST_NAMES + 1):
            name = spec.name if number == 1 else f"{spec.name}-{number}"
            named = spec.model_copy(update={"name": name})
            try:
                self._bind(self._foreground.call(lambda client, named=named: client.create_job(named)))  # type: ignore[misc]
                answer = self._take_place(name, resume=False)
            except ConflictError:
                continue
            self._tell_groups(name)
            if number > 1:
                log.warning("job %r exists already: this run is job %r", spec.name, name)
            return named, answer
        last = f"{spec.name}-{MOST_NAMES}"
        raise SchedulerError(f"jobs {spec.name}, {spec.name}-2, … {last} are there already: name the run otherwise")

    def _to_that_of_rank_0(self, spec: JobSpec) -> tuple[JobSpec, AttachAnswer]:
        """The newest job of these names that rank 0 of this run has taken."""
        deadline = time.monotonic() + FELLOWS
        while time.monotonic() < deadline and not self._foreground.interrupted:
            jobs = self._foreground.call(lambda client: client.jobs()).jobs
            led = [(_number(job.spec.name, spec.name), job) for job in jobs if self._is_led(job, spec)]
            taken = {number: job for number, job in led if number}
            for _, job in sorted(taken.items(), reverse=True):
                with suppress(ConflictError):
                    self._bind(job)
                    return job.spec, self._take_place(job.spec.name, resume=False)
            self._foreground.sleep(PAUSE)
        raise OutageError(f"rank 0 has taken no job {spec.name!r}, {spec.name}-2, … within {FELLOWS:g} s")

    def _is_led(self, job: JobState, spec: JobSpec) -> bool:
        """Whether rank 0 of this run has the job, and nobody yet this rank."""
        if job.spec.differing(spec.model_copy(update={"name": job.spec.name})) is not None:
            return False
        ranks = {trainer.rank for trainer in job.trainers if trainer.is_fellow_of(self.me)}
        return 0 in ranks and self.me.rank not in ranks


def is_named(name: str, base: str, if_exists: IfExists) -> bool:
    """Whether a run of job `base` may be one of job `name`."""
    return name == base or (if_exists == "new" and _number(name, base) is not None)


def _number(name: str, base: str) -> int | None:
    """Which of the names base, base-2, base-3 … a name is; None if it is none of them."""
    rest = name.removeprefix(base)
    if not name.startswith(base) or not re.fullmatch(r"(-[1-9]\d*)?", rest):
        return None
    return int(rest[1:] or 1)


def _machine() -> str:
    """Where this is equal, process numbers are of one system and one container; empty where that can't be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _group() -> str:
    """What the ranks of one run have in common, as torchrun and Slurm set it."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_JOB_ID" in os.environ
    names = ["TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "MASTER_PORT", *(() if launched else ("MASTER_ADDR",))]
    return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)[:255]
