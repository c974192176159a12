"""Swapping a policy from outside the trainer, and the proof that the trainer's batches follow."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from bss_service.protocol.jobs import JobState
from demo.results import Announcement, RunResult, Step, SwapProof
from trainer_client.client import SchedulerClient
from trainer_client.errors import UnknownJobError

LOOK_EVERY: Final = 0.02  # seconds
INTO_EPOCH: Final = 10  # steps of the epoch handed out before the swap
GIVE_UP: Final = 240.0  # seconds


class SwapError(Exception):
    """The job never came to the place where it was to be swapped."""


def swap_mid_epoch(url: str, job: str, policy: str, epoch: int, stopped: Callable[[], bool]) -> Announcement:
    """Watch a job through the API alone and swap its policy once it is well within an epoch, or a later one."""
    with SchedulerClient(url, token="") as client:
        state = _wait(client, job, epoch, stopped)
        answer = client.swap(job, policy, at="now")
        calendar = state.spec.calendar()
        changed_in = calendar.epoch_of(answer.first_step)
        return Announcement(
            policy=answer.policy.name,
            policy_version=answer.policy_version,
            first_step=answer.first_step,
            handed_out=state.next_step,
            trained=state.steps_fed_back,
            epoch=changed_in,
            epoch_start=calendar.epoch_start(changed_in),
            epoch_end=calendar.epoch_start(changed_in + 1),
        )


def prove(announced: Announcement, result: RunResult) -> SwapProof:
    """Compare what was announced with the batches that the trainer trained on."""
    steps = result.steps
    gaps = [(after.step, after.at - before.at) for before, after in pairwise(steps)]
    epoch = range(announced.epoch_start, announced.epoch_end)
    return SwapProof(
        job=result.run.job,
        announced=announced,
        changed_at=first_step_of(steps, announced.policy_version),
        contiguous=[s.step for s in steps] == list(range(len(steps))),
        longest_step_seconds=max((gap for step, gap in gaps if step in epoch and step != epoch.start), default=0.0),
        median_step_seconds=median(gap for _, gap in gaps),
        worst_wait_seconds=result.worst_wait_seconds,
    )


def first_step_of(steps: Sequence[Step], version: int) -> int | None:
    """The step from which on every batch names the version; None where there is none."""
    first = None
    for step in reversed(steps):
        if step.policy_version != version:
            break
        first = step.step
    return first


def _wait(client: SchedulerClient, job: str, epoch: int, stopped: Callable[[], bool]) -> JobState:
    deadline = time.monotonic() + GIVE_UP
    while time.monotonic() < deadline and not stopped():
        try:
            state = client.job(job)
        except UnknownJobError:
            time.sleep(LOOK_EVERY)
            continue
        if state.epoch >= epoch and state.next_step - state.epoch_start >= INTO_EPOCH:
            return state
        time.sleep(LOOK_EVERY)
    raise SwapError(f"job {job} did not come to the middle of epoch {epoch}")
