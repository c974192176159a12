"""The program `bss`: its commands are in commands.py, and need the service extra."""

import sys
from collections.abc import Callable


def _program(arguments: list[str]) -> Callable[..., object]:
    """What runs the command of some arguments. A service starts without what the other commands import."""
    if arguments[:1] == ["serve"]:
        from bss_cli.serving import app
    else:
        from bss_cli.commands import app
    return app


def main() -> None:
    """Run a command; where a package is missing, say how to get those of the extra."""
    try:
        _program(sys.argv[1:])(prog_name="bss")
    except ModuleNotFoundError as missing:
        sys.exit(
            f"error: {missing.name} is not installed; what bss needs comes with pip install 'bss-scheduler[service]'"
        )


if __name__ == "__main__":
    main()
