"""The commands that show jobs, and `bss delete`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from bss_cli.rendering import decisions_view, job_view, jobs_view, sample_view, suspects_view
from bss_cli.service import Job, Url, checked_name, connect, latest_decisions
from bss_cli.terminal import MISUSED, AsJson, Yes, confirm, fail, say, tell
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.samples import MAX_LISTED, csv_of
from trainer_client.client import SchedulerClient

PART: Final = 1000  # decisions in one answer: what the service gives at most


def jobs(url: Url = None, as_json: AsJson = False) -> None:
    """List all jobs."""
    with connect(url) as client:
        answer = client.jobs()
    tell(answer, as_json, lambda: jobs_view(answer.jobs))


def show(job: Job, url: Url = None, as_json: AsJson = False) -> None:
    """Show what a job is and where it is."""
    with connect(url) as client:
        state = client.job(checked_name(job))
        latest = latest_decisions(client, job, 1)
    tell(state, as_json, lambda: job_view(state, latest))


def decisions(job: Job, url: Url = None, as_json: AsJson = False) -> None:
    """List what the policies of a job chose and what came of it, the newest last."""
    with connect(url) as client:
        log = _whole_log(client, checked_name(job))
    tell(log, as_json, lambda: decisions_view(log.decisions))


def samples(
    job: Job,
    index: Annotated[list[int], typer.Argument(metavar="INDEX", min=0, help="Samples.", show_default=False)],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what is known of samples. With --json, one object a line for each."""
    with connect(url) as client:
        states = [client.sample(checked_name(job), each) for each in index]
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


def delete(job: Job, yes: Yes = False, url: Url = None) -> None:
    """Delete a job and all that is known of it."""
    checked_name(job)
    confirm(f"job {job} and all that is known of it will be gone for good", yes)
    with connect(url) as client:
        client.delete_job(job)
    say(f"{job}: deleted")


def _whole_log(client: SchedulerClient, job: str) -> DecisionLog:
    log = DecisionLog(start=0, total=0, decisions=[])
    total = client.decisions(job, count=1).total
    while len(log.decisions) < total:  # not those that come meanwhile, or it might have no end
        part = client.decisions(job, len(log.decisions), min(PART, total - len(log.decisions))).decisions
        if not part:
            break
        log.decisions += part
    return log.model_copy(update={"total": len(log.decisions)})


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
