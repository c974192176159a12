"""The commands that show jobs, move them to another service, and delete them."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from bss_cli.comparing import is_it_helping
from bss_cli.rendering import decisions_view, job_view, jobs_view, sample_view, samples_view, suspects_view
from bss_cli.service import Job, Url, all_reports, checked_name, connect, latest_decisions
from bss_cli.terminal import MISUSED, AsJson, Yes, confirm, fail, say, tell
from bss_service.protocol.jobs import JobState
from bss_service.protocol.samples import MAX_LISTED, csv_of
from bss_service.protocol.validation import ValidationReport
from trainer_client.client import SchedulerClient
from trainer_client.errors import StrangeAnswerError

LATEST: Final = 20  # decisions that `bss show` looks at
MAX_DECISIONS: Final = 1000  # in one answer: what the service gives at most


class Listed(StrEnum):
    """Which samples come first."""

    LABEL = "label"
    PAIR = "pair"
    LOSS = "loss"
    DRAWS = "draws"


def jobs(url: Url = None, as_json: AsJson = False) -> None:
    """List all jobs."""
    with connect(url) as client:
        answer = client.jobs()
    tell(answer, as_json, lambda: jobs_view(answer.jobs))


def show(job: Job, url: Url = None, as_json: AsJson = False) -> None:
    """Show what a job is, where it is, and whether its policy helps, as far as that can be said."""
    with connect(url) as client:
        state = client.job(checked_name(job))
        latest = [] if as_json else latest_decisions(client, job, LATEST)
        reports, helping = ([], None) if as_json else _progress(client, state)
    tell(state, as_json, lambda: job_view(state, latest, reports, helping))


def decisions(
    job: Job,
    start: Annotated[
        int | None, typer.Option(min=0, help="Number of the first; by default the latest are shown.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=MAX_DECISIONS, help="How many.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List what the policies of a job chose and what came of it, the newest last."""
    with connect(url) as client:
        state = client.job(checked_name(job))
        first = max(0, client.decisions(job, count=1).total - count) if start is None else start
        log = client.decisions(job, first, count)
    tell(log, as_json, lambda: decisions_view(log, state.spec.reward.metric))


def samples(
    job: Job,
    index: Annotated[
        list[int] | None, typer.Argument(metavar="[INDEX]...", min=0, help="Samples.", show_default=False)
    ] = None,
    order: Annotated[Listed, typer.Option(help="Without INDEX, which come first.")] = Listed.LOSS,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="Without INDEX, how many.")] = 30,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what is known of samples, or list the first ones.

    With --json, one object a line for each INDEX, or that of the list.
    """
    checked_name(job)
    if not index:
        with connect(url) as client:
            listed = client.samples(job, order.value, limit)
        tell(listed, as_json, lambda: samples_view(listed))
        return
    with connect(url) as client:
        states = [client.sample(job, each) for each in index]
    for state in states:
        tell(state, as_json, partial(sample_view, state))


def suspects(
    job: Job,
    pairs: Annotated[bool, typer.Option("--pairs", help="Suspect pairs of modalities, not labels.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="How many.")] = 30,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them to a file.", show_default=False)] = None,
    names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to call samples: a line each, in order.", show_default=False),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the samples whose labels, or pairs, are the least likely right."""
    called = None if names is None else _lines(names)
    with connect(url) as client:
        state = client.job(checked_name(job))
        if called is not None and len(called) != state.spec.samples:
            fail(f"--names must have a line for each of {state.spec.samples} samples, got {len(called)}", MISUSED)
        listed = client.samples(job, "pair" if pairs else "label", limit, spec=state.spec)
    if csv is not None:
        _write(csv, csv_of(listed, called))
    tell(listed, as_json, lambda: suspects_view(listed, state, called))


def export(
    job: Job,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Let it take the place of a file.")] = False,
    url: Url = None,
) -> None:
    """Write a job's whole state into a file, for `bss import` into this or another service, whatever its store is.

    The two go on apart from there: let no trainer of this one go on with the other.
    """
    from bss_service.journal.backup import written_whole  # with a database's library

    checked_name(job)
    if file.exists() and not force:
        fail(f"FILE {str(file)!r} is there already: --force puts the job in its place", MISUSED)
    with connect(url) as client:
        snapshot = client.snapshot(job)
    try:
        with written_whole(file) as temporary:
            temporary.write_bytes(snapshot)
    except OSError as error:
        fail(f"FILE {str(file)!r} can't be written: {error.strerror}", MISUSED)
    say(f"{file}: job {job}, {len(snapshot)} bytes")


def import_(
    job: Job,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Of `bss export`.", show_default=False)],
    url: Url = None,
) -> None:
    """Create a job of this name from a file of `bss export`: it draws what the exported one would have drawn."""
    checked_name(job)
    try:
        snapshot = file.read_bytes()
    except OSError as error:
        fail(f"FILE {str(file)!r} can't be read: {error.strerror}", MISUSED)
    with connect(url) as client:
        state = client.put_snapshot(job, snapshot)
    say(f"{job}: as exported, at step {state.next_step}")


def delete(job: Job, yes: Yes = False, url: Url = None) -> None:
    """Delete a job and all that is known of it."""
    checked_name(job)
    confirm(f"job {job} and all that is known of it will be gone for good", yes)
    with connect(url) as client:
        client.delete_job(job)
    say(f"{job}: deleted")


def _progress(client: SchedulerClient, state: JobState) -> tuple[list[ValidationReport], str | None]:
    """A job's validation reports, and what they say of its policy; nothing from a service too old to tell them."""
    try:
        return all_reports(client, state.spec.name), is_it_helping(client, state)
    except StrangeAnswerError:
        return [], None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--names {str(file)!r} can't be read: {error}", MISUSED)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"--csv {str(file)!r} can't be written: {error.strerror}")
