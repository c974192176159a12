"""Talking to the service: how its address and token are given, and how a command ends that can't reach it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import pydantic
import typer

from bss_cli.terminal import MISUSED, fail, first_mistake
from bss_service.protocol.decisions import Decision
from bss_service.protocol.message import NAME_PATTERN
from bss_service.protocol.validation import ValidationReport
from trainer_client.client import DEFAULT_URL, SchedulerClient
from trainer_client.errors import OutageError, SchedulerError

Url = Annotated[
    str | None,
    typer.Option("--url", help=f"Where the service is. Default: BSS_URL in the environment, else {DEFAULT_URL}"),
]

Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)]


@contextmanager
def connect(url: str | None) -> Iterator[SchedulerClient]:
    """A client of the service. What may be expected to go wrong ends the program with a sentence."""
    try:
        with _client(url) as client:
            yield client
    except OutageError as error:
        fail(f"{error} (is a scheduler running there? `bss serve` starts one, --url or BSS_URL names another)")
    except SchedulerError as error:
        fail(str(error))
    except pydantic.ValidationError as error:
        fail(first_mistake(error))


def checked_name(job: str) -> str:
    """A name that can stand in a URL."""
    if not re.fullmatch(NAME_PATTERN, job):
        fail(f"JOB must match {NAME_PATTERN}, got {job!r}", MISUSED)
    return job


def latest_decisions(client: SchedulerClient, job: str, count: int) -> list[Decision]:
    """The last so many decisions of a job's log, in order."""
    total = client.decisions(job, count=1).total
    return client.decisions(job, max(0, total - count), count).decisions


def all_reports(client: SchedulerClient, job: str, start: int = 0) -> list[ValidationReport]:
    """The validation reports of a job from a step on, in order."""
    reports: list[ValidationReport] = []
    while part := client.validations(job, reports[-1].step + 1 if reports else start).reports:
        reports += part
    return reports


def _client(url: str | None) -> SchedulerClient:
    try:
        return SchedulerClient(url, retries=0)
    except ValueError as error:
        fail(str(error), MISUSED)
