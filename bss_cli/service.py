"""Talking to the service: how its address and token are given, and how a command ends that can't reach it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import httpx
import pydantic
import typer

from bss_cli.terminal import MISUSED, fail, first_mistake
from bss_service.protocol import NAME_PATTERN
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError, SchedulerError

LOCAL: Final = "http://127.0.0.1:8765"

Url = Annotated[str, typer.Option("--url", envvar="BSS_URL", help="Where the service is.")]


@contextmanager
def connect(url: str) -> Iterator[SchedulerClient]:
    """A client of the service. What may be expected to go wrong ends the program with a sentence."""
    try:
        with SchedulerClient(_checked_url(url), token=_token(), retries=0) as client:
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


def _checked_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        fail(f"--url {url!r} can't be read: {error}", MISUSED)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        fail(f"--url must be like {LOCAL}, got {url!r}", MISUSED)
    return url


def _token() -> str | None:
    token = os.environ.get("BSS_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()):
        fail("BSS_TOKEN must hold printable ASCII characters only", MISUSED)
    return token or None
