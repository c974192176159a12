"""What the terminal shows while the demo runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from demo.crew import EpochEnded, Finished, Started
from demo.plan import Run


class Board:
    """A bar for all epochs of all runs, one for each run at work, and a line for each that is done."""

    def __init__(self, progress: Progress, runs: list[Run]) -> None:
        self._progress = progress
        self._total = len(runs)
        self._done = 0
        self._began = time.monotonic()
        self._whole = progress.add_task("[bold]all epochs[/]", total=sum(r.epochs for r in runs), note="")
        self._lines: dict[str, TaskID] = {}

    def show(self, event: Started | EpochEnded | Finished) -> None:
        """Take in what happened."""
        if isinstance(event, Started):
            self._lines[event.run.job] = self._progress.add_task(title(event.run), total=event.run.epochs, note="")
        elif isinstance(event, EpochEnded):
            self._move(event.run, event.epochs, f"validation {100 * event.accuracy:.1f} %")
        else:
            self._finish(event)
        self._progress.update(self._whole, note=f"{self._done} of {self._total} runs, {self._elapsed()}")

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def say(self, text: str) -> None:
        """A line of its own, above the bars."""
        self._progress.console.print(text, highlight=False)

    def _move(self, run: Run, epochs: int, note: str) -> None:
        line = self._lines[run.job]
        task = next(t for t in self._progress.tasks if t.id == line)
        self._progress.advance(self._whole, epochs - task.completed)
        self._progress.update(line, completed=epochs, note=note)

    def _finish(self, event: Finished) -> None:
        result = event.result
        self._move(result.run, result.run.epochs, "")
        self._progress.remove_task(self._lines.pop(result.run.job))
        self._done += 1
        self.say(
            f"[dim]{self._done:2d}/{self._total}[/]  {title(result.run):36s}  {result.seconds:4.1f} s  "
            f"test {100 * result.test:.1f} %"
        )


@contextmanager
def board(console: Console, runs: list[Run]) -> Iterator[Board]:
    """The board, shown until the block ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Board(progress, runs)


def title(run: Run) -> str:
    """A run in a few words."""
    if run.purpose == "swap":
        return "swapped while it trains"
    return f"{run.condition.key.replace('-', ' · ')} · {run.policy} · seed {run.seed}"
