"""`bss serve`, the service itself, and `bss backup` of its store."""

import gc
import signal
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from bss_cli.terminal import MISUSED, StoreUrl, fail, say, settings
from bss_service.errors import BssError, StoreError, UnguardedError, UnsupportedSystemError
from bss_service.settings import Settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _alone() -> None:
    """`bss serve`, and no other command."""


def _setting(name: str, meaning: str) -> Any:
    """The flag of a setting. It arrives as text or None: Settings alone judges the value."""
    flag = f"--{name.replace('_', '-')}"
    return typer.Option(flag, metavar="VALUE", help=f"{meaning} Default: {Settings.model_fields[name].default}")


@app.command()
def serve(
    host: Annotated[str | None, _setting("host", "Address; other than loopback it needs a token.")] = None,
    port: Annotated[str | None, _setting("port", "Port; 0 takes a free one, told in the log.")] = None,
    store: Annotated[str | None, _setting("store", "SQLite file, or URL of a PostgreSQL database.")] = None,
    log_format: Annotated[str | None, _setting("log_format", "Console or json.")] = None,
    hosts: Annotated[str | None, _setting("hosts", "Names that it is reached by, through a proxy perhaps.")] = None,
    max_body_bytes: Annotated[str | None, _setting("max_body_bytes", "Largest request, in bytes.")] = None,
    max_samples: Annotated[str | None, _setting("max_samples", "Largest job, in samples.")] = None,
    max_memory: Annotated[str | None, _setting("max_memory", "Bytes of all jobs in memory; none: half of it.")] = None,
    max_stored_bytes: Annotated[str | None, _setting("max_stored_bytes", "Bytes that a job may store.")] = None,
    advertise: Annotated[str | None, _setting("advertise", "URL of it for others that share its store.")] = None,
    term: Annotated[str | None, _setting("term", "Seconds after which others take over from it.")] = None,
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
        hosts=hosts,
        max_body_bytes=max_body_bytes,
        max_samples=max_samples,
        max_memory=max_memory,
        max_stored_bytes=max_stored_bytes,
        advertise=advertise,
        term=term,
        rate_limit=rate_limit,
    )
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _end_well)  # uvicorn drains, and then raises the signal again for whoever had it before
    gc.disable()  # all of it stays: to look through it meanwhile takes a fifth of the time
    from bss_service.http.server import serve as run  # most of a second, which other commands need not wait for

    gc.enable()

    try:
        run(chosen)
    except (UnguardedError, UnsupportedSystemError) as error:
        fail(str(error), MISUSED)
    except StoreError as error:
        fail(str(error))
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        fail(f"can't listen on {chosen.host} port {chosen.port}: {reason}")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy.", show_default=False)],
    store: StoreUrl = None,
    force: Annotated[bool, typer.Option("--force", help="Let the copy take the place of a file.")] = False,
) -> None:
    """Copy the store into a file, also while a service runs on it.

    Copying bss.sqlite by other means leaves out what lies in bss.sqlite-wal.
    """
    from bss_service.journal.backup import back_up

    chosen = settings(store=store)
    try:
        back_up(chosen.store, file, force=force)
    except BssError as error:
        fail(str(error))
    say(f"{file}: copy of {chosen.store}")


def _end_well(*_: object) -> NoReturn:
    raise SystemExit(0)
