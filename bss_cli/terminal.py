"""What all commands of `bss` share: the settings, the screen, and how a command fails."""

import sys
from collections.abc import Callable
from typing import Annotated, Final, NoReturn

import pydantic
import typer
from rich.console import Console, RenderableType
from rich.text import Text

from bss_service.protocol.message import Message
from bss_service.settings import Settings

FAILED: Final = 1  # exit codes
MISUSED: Final = 2

Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="VALUE", help=f"As of bss serve. Default: {Settings.model_fields['store'].default}"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def settings(**flags: str | None) -> Settings:
    """The settings, with those flags that were given on top; ends the program where one is wrong."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        fail(first_mistake(error), MISUSED)
    except (OSError, ValueError) as error:
        fail(f"bss.toml can't be read: {error}", MISUSED)


def first_mistake(error: pydantic.ValidationError) -> str:
    """A sentence that names what was wrong and its value."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"{name} in bss.toml is not a setting"
    message = first["msg"].removeprefix("Value error, ")
    if name in ("", "token"):  # a rule over several settings tells their values itself; a token is told to nobody
        return f"{name}: {message}".removeprefix(": ")
    return f"{name}: {message}, got {first['input']!r}"


def screen(*, stderr: bool = False) -> Console:
    """A console that takes what it is given for text: names come from others and may look like markup."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def tell(answer: Message, as_json: bool, view: Callable[[], RenderableType]) -> None:
    """Print an answer: for programs, or for people."""
    if as_json:
        typer.echo(answer.model_dump_json())
    else:
        screen().print(view())


def confirm(consequence: str, yes: bool) -> None:
    """Go on only if someone agrees: beforehand by --yes, or now, on a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{consequence}: only --yes does that where nobody can be asked", MISUSED)
    typer.confirm(f"{consequence}. Go on?", abort=True, err=True)


def fail(sentence: str, code: int = FAILED) -> NoReturn:
    """End the program with one line on standard error."""
    one_line = " ".join(sentence.split())
    screen(stderr=True).print(Text.assemble(("error: ", "bold red"), one_line), soft_wrap=True)
    raise typer.Exit(code)
