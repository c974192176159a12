"""The commands of `bss token`. They work on the store itself, also while a service runs on it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from bss_cli.terminal import MISUSED, StoreUrl, Yes, confirm, fail, screen, settings
from bss_service.errors import BssError

if TYPE_CHECKING:  # SQL takes a while to import, which no other command need wait for
    from bss_service.http.tokens import Token, Tokens

UNITS: Final = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}  # seconds

app = typer.Typer(no_args_is_help=True, help="Makes, lists and revokes the tokens that a service asks for.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token.", show_default=False)]


@app.command()
def create(
    name: Name,
    scope: Annotated[str, typer.Option(metavar="SCOPE", help="read, train or admin.", show_default=False)],
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="From now on, as 12h, 30d or 4w.")] = None,
    store: StoreUrl = None,
) -> None:
    """Make a token and print it, this once: the store keeps but its hash."""
    from bss_service.http.tokens import Scope

    if scope not in list(Scope):
        fail(f"--scope must be one of {', '.join(Scope)}, got {scope!r}", MISUSED)
    seconds = None if expires is None else _seconds(expires)
    with _tokens(store) as tokens:
        typer.echo(tokens.create(name, Scope(scope), seconds))


@app.command("list")
def show(store: StoreUrl = None) -> None:
    """List all tokens; what they are is not known any more."""
    with _tokens(store) as tokens:
        known = tokens.all()
    if known:
        screen().print(_view(known, datetime.now(UTC).timestamp()))
    else:
        typer.echo("no tokens yet")


@app.command()
def revoke(name: Name, store: StoreUrl = None, yes: Yes = False) -> None:
    """Let a token open nothing any more; a running service knows within a second.

    Before the last one goes it asks: without any token the service lets
    nobody in, on loopback neither, since it once had one.
    """
    with _tokens(store) as tokens:
        if _valid(tokens) == [name]:
            confirm(
                f"{name} is the last valid token: without it the service answers nobody but who has its BSS_TOKEN, on "
                "loopback neither, until `bss token create` makes another",
                yes,
            )
        tokens.revoke(name)
    typer.echo(f"{name}: revoked")


@contextmanager
def _tokens(store: str | None) -> "Iterator[Tokens]":
    from bss_service.http.tokens import Tokens

    chosen = settings(store=store)
    mask = os.umask(0o077)
    try:
        tokens = Tokens(chosen.store)
        yield tokens
        tokens.close()
    except BssError as error:
        fail(str(error))
    finally:
        os.umask(mask)


def _valid(tokens: "Tokens") -> list[str]:
    now = datetime.now(UTC).timestamp()
    return [token.name for token in tokens.all() if token.valid(now)]


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9]\d{0,5})([mhdw])", text)
    if match is None:
        fail(f"--expires must be like 12h, 30d or 4w, got {text!r}", MISUSED)
    return int(match[1]) * UNITS[match[2]]


def _view(tokens: "list[Token]", now: float) -> Table:
    table = Table("token", "scope", "made", "state")
    for token in tokens:
        table.add_row(token.name, token.scope.value, _time(token.created), _state(token, now))
    return table


def _state(token: "Token", now: float) -> str:
    if token.revoked is not None:
        return f"revoked {_time(token.revoked)}"
    if token.expires is None:
        return "valid"
    return f"{'valid until' if token.valid(now) else 'expired'} {_time(token.expires)}"


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
