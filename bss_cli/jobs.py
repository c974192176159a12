"""The commands that show jobs, and `bss delete`."""

from functools import partial
from typing import Annotated, Final

import typer

from bss_cli.rendering import decisions_view, job_view, jobs_view, sample_view
from bss_cli.service import Job, Url, checked_name, connect, latest_decisions
from bss_cli.terminal import AsJson, Yes, confirm, tell
from bss_service.protocol.decisions import DecisionLog
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


def delete(job: Job, yes: Yes = False, url: Url = None) -> None:
    """Delete a job and all that is known of it."""
    checked_name(job)
    confirm(f"job {job} and all that is known of it will be gone for good", yes)
    with connect(url) as client:
        client.delete_job(job)
    typer.echo(f"{job}: deleted")


def _whole_log(client: SchedulerClient, job: str) -> DecisionLog:
    log = DecisionLog(start=0, total=0, decisions=[])
    while part := client.decisions(job, len(log.decisions), PART).decisions:
        log.decisions += part
    return log.model_copy(update={"total": len(log.decisions)})
