"""`bss track`: what happens to a job goes to a tracker, each point once, also after a stop of either."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Annotated, Final

import typer

from bss_cli.following.mlflow import MlflowTracker
from bss_cli.following.points import MissingExtraError, Point, Tracker, of_decisions, of_reports
from bss_cli.following.tensorboard import TensorBoardTracker
from bss_cli.following.trackio import TrackioTracker
from bss_cli.following.wandb import WandbTracker
from bss_cli.service import Job, Url, all_reports, checked_name, connect
from bss_cli.terminal import MISUSED, fail, say, screen
from bss_service.protocol.decisions import Decision
from trainer_client.client import SchedulerClient
from trainer_client.errors import OutageError

TRACKERS: Final[dict[str, Callable[[str, str], Tracker]]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}
PART: Final = 1000  # decisions in one answer


def track(
    job: Job,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TRACKER:PLACE",
            help="tensorboard:DIR, wandb:PROJECT, mlflow:URI or trackio:PROJECT.",
            show_default=False,
        ),
    ],
    interval: Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds between two looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Write what is there, and end.")] = False,
    url: Url = None,
) -> None:
    """Write a job's curves, actions and swaps to a tracker until Ctrl-C.

    Started again, it goes on where the tracker ends. While the service is out
    of reach, it goes on trying.
    """
    kind, _, place = to.partition(":")
    if kind not in TRACKERS or not place:
        fail(f"--to must be {':…, '.join(TRACKERS)}:…, got {to!r}", MISUSED)
    checked_name(job)
    with suppress(KeyboardInterrupt), connect(url) as client:
        client.job(job)  # before anything is written: is it there?
        try:
            tracker = TRACKERS[kind](place, job)
        except MissingExtraError as missing:
            fail(str(missing))
        with closing(tracker):
            for points in follow(client, job, tracker, patient=not once):
                if once:
                    say(f"{job}: {points:,} points written to {to}")
                    break
                time.sleep(interval)


def follow(client: SchedulerClient, job: str, tracker: Tracker, *, patient: bool) -> Iterator[int]:
    """Write what is new, again and again; how many points that were. patient: an outage is waited for."""
    news = News(client, job, dict(tracker.latest()))
    while True:
        try:
            points = news.look()
        except OutageError as outage:
            if not patient:
                raise
            screen(stderr=True).print(f"{job}: {outage}; asked again")
            yield 0
            continue
        if points:
            tracker.write(points)
        yield len(points)


class News:
    """Knows which points of a job were written, by the latest step of each curve, and looks for others."""

    def __init__(self, client: SchedulerClient, job: str, written: dict[str, int]) -> None:
        self._client = client
        self._job = job
        self._written = written
        self._next_report = 0  # step
        self._unrewarded = 0  # number of the first decision that may get its reward yet
        self._undrawn = 0  # … of the first of which no step was handed out
        self._version: int | None = None  # of the decision before that one

    def look(self) -> list[Point]:
        """The points that are new since the look before, in order of step."""
        handed_out = self._client.job(self._job).next_step  # first: what is decided later may be replaced
        reports = all_reports(self._client, self._job, self._next_report)
        start = min(self._unrewarded, self._undrawn) if reports else self._undrawn
        decisions = self._decisions(start)
        drawn = decisions[self._undrawn - start :]
        settled = decisions[: self._undrawn - start]
        points = [*of_reports(reports), *of_decisions(settled, 0, None)]
        points += of_decisions(drawn, handed_out, self._version)
        self._go_on(start, decisions, handed_out)
        if reports:
            self._next_report = reports[-1].step + 1
        return self._news(points)

    def _decisions(self, start: int) -> list[Decision]:
        decisions: list[Decision] = []
        while part := self._client.decisions(self._job, start + len(decisions), PART).decisions:
            decisions += part
        return decisions

    def _go_on(self, start: int, decisions: list[Decision], handed_out: int) -> None:
        numbered = list(enumerate(decisions, start))
        ahead = [number for number, decision in numbered if decision.first_step >= handed_out]
        open_ones = [number for number, decision in numbered if decision.rewarded_at is None]
        end = start + len(decisions)
        self._undrawn = min(ahead, default=end)
        if start <= self._unrewarded:
            self._unrewarded = min(open_ones, default=end)
        if self._undrawn > start:
            self._version = decisions[self._undrawn - start - 1].policy_version

    def _news(self, points: list[Point]) -> list[Point]:
        """Those that were not written yet; of several of a curve at a step the last."""
        new = {(p.step, p.curve): p for p in points if p.step > self._written.get(p.curve, -1)}
        ordered = [new[key] for key in sorted(new)]
        self._written |= {point.curve: point.step for point in ordered}
        return ordered
