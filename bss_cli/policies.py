"""The commands about policies: which there are, and which of them a job has."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bss_cli.rendering import HASH_SHOWN, artefact_sentence, policies_view, swap_sentence
from bss_cli.service import Job, Url, checked_name, connect
from bss_cli.terminal import MISUSED, AsJson, fail, say, say_json, tell
from bss_service.policies import artefact as artefact_file
from bss_service.protocol.artefacts import PolicyManifest
from trainer_client.client import SchedulerClient


class When(StrEnum):
    """From when on a new policy draws."""

    NOW = "now"
    NEXT = "next"


def swap(
    job: Job,
    policy: Annotated[
        str | None, typer.Argument(metavar="POLICY", help="Name of the new policy.", show_default=False)
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="KEY=VALUE", help="A parameter of the policy: JSON, or else text. Repeatable."),
    ] = None,
    at: Annotated[When, typer.Option(help="From the next undrawn step on, or from the next interval on.")] = When.NEXT,
    artefact: Annotated[
        str | None,
        typer.Option(metavar="ARTEFACT", help="Instead of POLICY, an uploaded one: name, or start of its SHA-256."),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Let it watch: what it would do is logged, and it draws nothing.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Give a running job another policy; its trainer does not notice."""
    parameters = dict(_parameter(text) for text in param or ())
    when: Literal["now", "next_interval"] = "now" if at is When.NOW else "next_interval"
    if (policy is None) == (artefact is None):
        fail("either POLICY or --artefact must be given", MISUSED)
    with connect(url) as client:
        if artefact is not None:
            policy, parameters = "artefact", {**parameters, "sha256": _artefact(client, artefact).sha256}
        answer = client.swap(checked_name(job), policy or "", parameters, when, shadow=shadow)
    say_json(answer) if as_json else say(swap_sentence(job, answer))


def end_shadow(job: Job, url: Url = None) -> None:
    """Let no policy watch the job any more."""
    with connect(url) as client:
        client.end_shadow(checked_name(job))
    say(f"{job}: no shadow watches any more")


def policies(url: Url = None, as_json: AsJson = False) -> None:
    """List the policies that a job can have: installed ones and uploaded artefacts."""
    with connect(url) as client:
        answer = client.policies()
    tell(answer, as_json, lambda: policies_view(answer))


def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An artefact.", show_default=False)],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Upload a trained policy, for `bss swap JOB --artefact`, or a judge, for the parameter `judge` of `evidence`."""
    try:
        data = file.read_bytes()
    except OSError as error:
        fail(f"FILE {str(file)!r} can't be read: {error.strerror}", MISUSED)
    with connect(url) as client:
        manifest = client.upload_judge(data) if _is_judge(data) else client.upload_policy(data)
    say_json(manifest) if as_json else say(artefact_sentence(manifest))


def _is_judge(data: bytes) -> bool:
    """Whether it is a judge as far as can be told here; what is wrong with an artefact is for the service to say."""
    try:
        return isinstance(artefact_file.read_any(data), artefact_file.JudgeArtefact)
    except artefact_file.ArtefactError:
        return False


def _artefact(client: SchedulerClient, wanted: str) -> PolicyManifest:
    """The one artefact of that name, or whose hash begins so."""
    known = client.policies().artefacts
    matching = [a for a in known if wanted and (a.name == wanted or a.sha256.startswith(wanted))]
    if len(matching) != 1:
        among = ", ".join(f"{a.name} {a.sha256[:HASH_SHOWN]}" for a in matching or known)
        fail(f"--artefact must name one of {among or 'those that were uploaded, none yet'}, got {wanted!r}")
    return matching[0]


def _parameter(text: str) -> tuple[str, Any]:
    """`key=value`, the value as JSON if it is that."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        fail(f"--param must be KEY=VALUE, got {text!r}", MISUSED)
    try:
        parsed = json.loads(value)
        json.dumps(parsed, allow_nan=False)
    except ValueError:
        return key, value
    return key, parsed
