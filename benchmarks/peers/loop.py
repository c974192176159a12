"""The client loop that all rivals run: so many calls one after the other when the parent asks for a round."""

import json
import random
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

WARM: int = 30  # calls before the first round


def answer(call: Callable[[], object]) -> None:
    """Do rounds until standard input ends: a line is a number of calls, the answer a line of their seconds as JSON."""
    for _ in range(WARM):
        call()
    print("BSS-READY", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        print("BSS-ROUND " + json.dumps(seconds), flush=True)


def free_port() -> int:
    """A port at which nobody listens, and that no connection gets: who tries to connect there meets himself else."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_for(port: int, seconds: float = 60.0) -> None:
    """Until somebody listens."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"nobody listens at port {port}")
