"""What all commands of `bss` share: the settings, the screen, and how a command fails."""

import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Final, NoReturn

import pydantic
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from bss_service.protocol.message import Message
from bss_service.protocol.text import printable, printable_json
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


class Screen(Console):
    """A console on which no text of others moves the cursor or changes its direction: it shows as escapes instead."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Its pieces, each printable."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(printable(piece.text, keep="\n"), piece.style)


def screen(*, stderr: bool = False) -> Console:
    """A console that takes what it is given for text: names come from others and may look like markup."""
    return Screen(stderr=stderr, markup=False, highlight=False, emoji=False)


def say(sentence: str) -> None:
    """Print a sentence on standard output."""
    typer.echo(printable(sentence))


def say_json(answer: Message) -> None:
    """Print an answer as a line of JSON."""
    typer.echo(printable_json(answer.model_dump_json()))


def tell(answer: Message, as_json: bool, view: Callable[[], RenderableType]) -> None:
    """Print an answer: for programs, or for people."""
    if as_json:
        say_json(answer)
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
