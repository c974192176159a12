"""`bss watch`."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Final

import typer
from rich.live import Live

from bss_cli.rendering import WatchView, look_view
from bss_cli.service import Job, Url, checked_name, connect
from bss_cli.terminal import AsJson, screen
from bss_service.protocol.decisions import Decision
from trainer_client.client import SchedulerClient

DECISIONS_SHOWN: Final = 5


def watch(
    job: Job,
    interval: Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds between two looks.")] = 1.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Watch a job until Ctrl-C. With --json, one object a line for each look."""
    with suppress(KeyboardInterrupt), connect(url) as client:
        looks = _looks(client, checked_name(job), interval)
        if as_json:
            for look in looks:
                typer.echo(look.model_dump_json())
        else:
            _show_live(looks, interval)


def _looks(client: SchedulerClient, job: str, interval: float) -> Iterator[WatchView]:
    """Look at a job for ever, each time when the one before has been shown and `interval` seconds have passed."""
    seen, seen_at = 0, 0.0
    rate = None
    while True:
        state, now = client.job(job), time.monotonic()
        if seen_at:
            rate = (state.next_step - seen) / (now - seen_at)
        seen, seen_at = state.next_step, now
        yield WatchView(state=state, decisions=_latest_decisions(client, job), steps_per_second=rate)
        time.sleep(interval)


def _latest_decisions(client: SchedulerClient, job: str) -> list[Decision]:
    total = client.decisions(job, count=1).total
    return client.decisions(job, max(0, total - DECISIONS_SHOWN), DECISIONS_SHOWN).decisions


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
