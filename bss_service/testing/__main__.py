"""`python -m bss_service.testing …` is `bss …` that ends with its standard input: with whoever has the pipe to it."""

import os
import runpy
import signal
import threading


def main() -> None:
    """Run the command."""
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    runpy.run_module("bss_cli", run_name="__main__", alter_sys=True)


def _end_with_standard_input() -> None:
    while os.read(0, 1):  # sys.stdin would hold a lock that the interpreter needs to end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
