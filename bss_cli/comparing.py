"""`bss compare` and `bss control`: whether a policy helps, and the run that it takes to tell."""

from typing import Annotated, Final

import pydantic
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bss_cli.rendering import sparkline
from bss_cli.service import Job, Url, checked_name, connect
from bss_cli.terminal import AsJson, fail, first_mistake, say_json, tell
from bss_service.protocol.jobs import JobSpec, JobState
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.validation import Comparison, Difference
from trainer_client.client import SchedulerClient
from trainer_client.errors import InvalidValueError, UnknownJobError

PLAIN: Final = "uniform"
UNCONTROLLED: Final = "without a paired uniform run nothing can be said about gain; `bss control {}` makes one"


def compare(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB JOB...", help="Names of the jobs.", show_default=False)],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say whether policies help: jobs that differ in policy and seed alone, in pairs of the same seed."""
    with connect(url) as client:
        answer = client.compare(*map(checked_name, jobs))
    tell(answer, as_json, lambda: _view(answer))


def control(
    job: Job,
    create: Annotated[bool, typer.Option("--create", help="Create it, too.")] = False,
    url: Url = None,
) -> None:
    """Print the spec of the uniform job that JOB is to be compared with, as JSON.

    Train it as JOB was trained, from the same seed, and `bss compare JOB
    JOB-control` says whether the policy of JOB helps.
    """
    with connect(url) as client:
        state = client.job(checked_name(job))
        if _is_plain(state):
            fail(f"JOB must have another policy than {PLAIN}, got {job!r}: it is a control itself")
        spec = _control(state.spec)
        if create:
            spec = client.create_job(spec).spec
    say_json(spec)


def is_it_helping(client: SchedulerClient, state: JobState) -> str:
    """What can honestly be said of a job's policy."""
    if _is_plain(state):
        return f"{PLAIN} is what other policies are compared with"
    job = state.spec.name
    try:
        return client.compare(job, f"{job}-control").sentence
    except UnknownJobError:
        return UNCONTROLLED.format(job)
    except InvalidValueError as error:  # without reports yet, or trained otherwise
        return f"nothing can be said yet: {error.detail}"


def _is_plain(state: JobState) -> bool:
    """Whether nothing but plain shuffling has drawn."""
    return state.spec.policy.name == state.policy.policy.name == PLAIN and state.policy.policy_version == 1


def _control(spec: JobSpec) -> JobSpec:
    try:
        return JobSpec(**dict(spec) | {"name": f"{spec.name}-control", "policy": PolicySpec(name=PLAIN)})
    except pydantic.ValidationError as error:  # its name is too long
        fail(first_mistake(error))


def _view(answer: Comparison) -> RenderableType:
    """The result in a sentence, and then what it rests on."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("policy", style="cyan", overflow="fold")
    for column in ("pairs", "best, points", "last, points", "over the run"):
        table.add_column(column, justify="right", no_wrap=column != "best, points")
    for told in answer.policies:
        curve = sparkline([point.mean for point in told.curve], 16)
        table.add_row(told.policy, str(len(told.seeds)), _difference(told.best), _difference(told.last), curve)
    left_out = ", ".join(answer.unpaired)
    parts: list[RenderableType] = [Text(answer.sentence), "", table]
    if answer.unpaired:
        parts += ["", Text(f"left out, since no other job has their seed: {left_out}")]
    return Group(*parts)


def _difference(told: Difference) -> str:
    mean = f"{100 * told.mean:+.2f}"
    return mean if told.low is None or told.high is None else f"{mean} [{100 * told.low:+.2f}, {100 * told.high:+.2f}]"
