"""`bss watch`."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Final

import typer
from rich.live import Live

from bss_cli.rendering import WatchView, look_view
from bss_cli.service import Job, Url, checked_name, connect, latest_decisions
from bss_cli.terminal import AsJson, say_json, screen
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError

DECISIONS_SHOWN: Final = 5


def watch(
    job: Job,
    interval: Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds between two looks.")] = 1.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Watch a job until Ctrl-C. With --json, one object a line for each look.

    While the service is out of reach, it says so and goes on trying.
    """
    with suppress(KeyboardInterrupt), connect(url) as client:
        looks = _looks(client, checked_name(job), interval)
        if as_json:
            for look in looks:
                say_json(look)
        else:
            _show_live(looks, interval)


def _looks(client: SchedulerClient, job: str, interval: float) -> Iterator[WatchView]:
    """Look at a job for ever, each time when the one before has been shown and `interval` seconds have passed."""
    look = _look(client, job)
    seen_at = time.monotonic()
    while True:
        yield look
        time.sleep(interval)
        try:
            new, now = _look(client, job), time.monotonic()
        except OutageError as outage:  # a restart, perhaps: what was seen last stays
            look = look.model_copy(update={"steps_per_second": None, "outage": str(outage)})
        else:
            rate = (new.state.next_step - look.state.next_step) / (now - seen_at)
            look, seen_at = new.model_copy(update={"steps_per_second": rate}), now


def _look(client: SchedulerClient, job: str) -> WatchView:
    state = client.job(job)
    return WatchView(state=state, decisions=latest_decisions(client, job, DECISIONS_SHOWN), steps_per_second=None)


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
