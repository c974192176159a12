"""The program `bss`: its commands are in commands.py, and need the service extra."""

import sys


def main() -> None:
    """Run a command; where a package is missing, say how to get those of the extra."""
    try:
        from bss_cli.commands import app

        app(prog_name="bss")
    except ModuleNotFoundError as missing:
        sys.exit(
            f"error: {missing.name} is not installed; what bss needs comes with pip install 'bss-scheduler[service]'"
        )


if __name__ == "__main__":
    main()
