"""The commands that show jobs, and `bss delete`."""

from bss_cli.rendering import job_view, jobs_view
from bss_cli.service import Job, Url, checked_name, connect
from bss_cli.terminal import AsJson, tell


def jobs(url: Url = None, as_json: AsJson = False) -> None:
    """List all jobs."""
    with connect(url) as client:
        answer = client.jobs()
    tell(answer, as_json, lambda: jobs_view(answer.jobs))


def show(job: Job, url: Url = None, as_json: AsJson = False) -> None:
    """Show what a job is and where it is."""
    with connect(url) as client:
        state = client.job(checked_name(job))
    tell(state, as_json, lambda: job_view(state))
