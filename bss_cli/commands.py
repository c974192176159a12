"""The commands of `bss`."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import typer
from rich.console import RenderableType
from rich.live import Live

from bss_cli import tokens as token_commands
from bss_cli.rendering import (
    HASH_SHOWN,
    WatchView,
    artefact_sentence,
    job_view,
    jobs_view,
    look_view,
    policies_view,
    swap_sentence,
)
from bss_cli.service import Url, checked_name, connect
from bss_cli.terminal import MISUSED, fail, screen, settings
from bss_service.errors import StoreError, UnguardedError
from bss_service.protocol.artefacts import PolicyManifest
from bss_service.protocol.decisions import Decision
from bss_service.protocol.message import Message
from bss_service.settings import Settings
from trainer_client.client import SchedulerClient

DECISIONS_SHOWN: Final = 5

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serves samples to multi-modal training jobs, shows the jobs, and swaps their policies.",
    epilog="A service with a token is asked with BSS_TOKEN in the environment.",
)


class When(StrEnum):
    """From when on a new policy draws."""

    NOW = "now"
    NEXT = "next"


def _setting(name: str, meaning: str) -> Any:
    """The flag of a setting. It arrives as text or None: Settings alone judges the value."""
    flag = f"--{name.replace('_', '-')}"
    return typer.Option(flag, metavar="VALUE", help=f"{meaning} Default: {Settings.model_fields[name].default}")


Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


# Commands.


@app.command()
def serve(
    host: Annotated[str | None, _setting("host", "Address; other than loopback it needs a token.")] = None,
    port: Annotated[str | None, _setting("port", "Port; 0 takes a free one, told in the log.")] = None,
    store: Annotated[str | None, _setting("store", "SQLAlchemy URL of the database.")] = None,
    log_format: Annotated[str | None, _setting("log_format", "Console or json.")] = None,
    max_body_bytes: Annotated[str | None, _setting("max_body_bytes", "Largest request, in bytes.")] = None,
    max_samples: Annotated[str | None, _setting("max_samples", "Largest job, in samples.")] = None,
    rate_limit: Annotated[str | None, _setting("rate_limit", "Requests a second of one client.")] = None,
) -> None:
    """Run the service until Ctrl-C or SIGTERM.

    A setting comes from its flag, else from the environment (BSS_PORT for
    --port), else from bss.toml in the working directory.

    Tokens are made with bss token create. One more, of scope admin, can be set
    as BSS_TOKEN, or token in bss.toml; it has no flag, since others can read
    command lines.
    """
    chosen = settings(
        host=host,
        port=port,
        store=store,
        log_format=log_format,
        max_body_bytes=max_body_bytes,
        max_samples=max_samples,
        rate_limit=rate_limit,
    )
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _end_well)  # uvicorn drains, and then raises the signal again for whoever had it before
    from bss_service.http.server import serve as run  # most of a second, which other commands need not wait for

    try:
        run(chosen)
    except UnguardedError as error:
        fail(str(error), MISUSED)
    except StoreError as error:
        fail(str(error))
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        fail(f"can't listen on {chosen.host} port {chosen.port}: {reason}")


@app.command()
def jobs(url: Url = None, as_json: AsJson = False) -> None:
    """List all jobs."""
    with connect(url) as client:
        answer = client.jobs()
    _tell(answer, as_json, lambda: jobs_view(answer.jobs))


@app.command()
def show(job: Job, url: Url = None, as_json: AsJson = False) -> None:
    """Show what a job is and where it is."""
    with connect(url) as client:
        state = client.job(checked_name(job))
    _tell(state, as_json, lambda: job_view(state))


@app.command()
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
    typer.echo(answer.model_dump_json() if as_json else swap_sentence(job, answer))


@app.command()
def end_shadow(job: Job, url: Url = None) -> None:
    """Let no policy watch the job any more."""
    with connect(url) as client:
        client.end_shadow(checked_name(job))
    typer.echo(f"{job}: no shadow watches any more")


@app.command()
def policies(url: Url = None, as_json: AsJson = False) -> None:
    """List the policies that a job can have: installed ones and uploaded artefacts."""
    with connect(url) as client:
        answer = client.policies()
    _tell(answer, as_json, lambda: policies_view(answer))


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An artefact.", show_default=False)],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Upload a trained policy, for `bss swap JOB --artefact`."""
    try:
        data = file.read_bytes()
    except OSError as error:
        fail(f"FILE {str(file)!r} can't be read: {error.strerror}", MISUSED)
    with connect(url) as client:
        manifest = client.upload_policy(data)
    typer.echo(manifest.model_dump_json() if as_json else artefact_sentence(manifest))


@app.command()
def watch(
    job: Job,
    interval: Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds between two looks.")] = 1.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Watch a job until Ctrl-C. With --json, one object a line for each look."""
    with suppress(KeyboardInterrupt), connect(url) as client:
        looks = _looks(client, checked_name(job), interval)
        if as_json:
            for look in looks:
                typer.echo(look.model_dump_json())
        else:
            _show_live(looks, interval)


def _end_well(*_: object) -> NoReturn:
    raise SystemExit(0)


# Talking to the service.


def _looks(client: SchedulerClient, job: str, interval: float) -> Iterator[WatchView]:
    """Look at a job for ever, each time when the one before has been shown and `interval` seconds have passed."""
    seen, seen_at = 0, 0.0
    rate = None
    while True:
        state, now = client.job(job), time.monotonic()
        if seen_at:
            rate = (state.next_step - seen) / (now - seen_at)
        seen, seen_at = state.next_step, now
        yield WatchView(state=state, decisions=_latest_decisions(client, job), steps_per_second=rate)
        time.sleep(interval)


def _latest_decisions(client: SchedulerClient, job: str) -> list[Decision]:
    total = client.decisions(job, count=1).total
    return client.decisions(job, max(0, total - DECISIONS_SHOWN), DECISIONS_SHOWN).decisions


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


# Printing.


def _tell(answer: Message, as_json: bool, view: Callable[[], RenderableType]) -> None:
    if as_json:
        typer.echo(answer.model_dump_json())
    else:
        screen().print(view())


def _show_live(looks: Iterator[WatchView], interval: float) -> None:
    """One table that changes in place; where that can't be, as in a file, one after another."""
    terminal = screen()
    views = (look_view(look, interval) for look in looks)
    if terminal.is_terminal:
        with Live(next(views), console=terminal, auto_refresh=False) as live:
            for view in views:
                live.update(view, refresh=True)
    for view in views:
        terminal.print(view)


def _lacking(group: str, package: str | None) -> Callable[[], None]:
    """In place of a group of commands whose packages are not installed: it says so."""

    def tell() -> None:
        """Needs packages that are not installed: pip install 'bss-scheduler[service,trainer,research]'."""
        extras = "pip install 'bss-scheduler[service,trainer,research]'"
        fail(f"{package} is not installed; what bss {group} needs comes with {extras}")

    return tell


app.add_typer(token_commands.app, name="token")

try:
    from bss_cli.research import app as research

    app.add_typer(research, name="research")
except ModuleNotFoundError as _error:
    _any = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("research", context_settings=_any)(_lacking("research", _error.name))
