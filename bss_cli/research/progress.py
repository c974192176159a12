"""How far a long command is: on standard error, which leaves standard output to what comes of it."""

import sys

import typer


class Progress:
    """One line that changes on a terminal; elsewhere a line each time."""

    def __init__(self) -> None:
        self._in_place = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Say how far it is."""
        if self._in_place:
            typer.echo(f"\r\x1b[K{text}", nl=False, err=True)
        else:
            typer.echo(text, err=True)

    def clear(self) -> None:
        """Make room for a line on standard output."""
        if self._in_place:
            typer.echo("\r\x1b[K", nl=False, err=True)
