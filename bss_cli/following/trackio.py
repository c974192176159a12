"""Trackio: a run of a local project, named as the job."""

from collections.abc import Mapping, Sequence
from typing import Final

from bss_cli.following.points import Point, library, rows

EXTRA: Final = "trackio"


class TrackioTracker:
    """Logs to the run named as the job. What is there already is read from the project's database."""

    def __init__(self, project: str, job: str) -> None:
        trackio = library("trackio", EXTRA)
        storage = library("trackio.sqlite_storage", EXTRA).SQLiteStorage
        self._written = _latest(storage.get_logs(project, job))
        self._run = trackio.init(project=project, name=job, resume="allow", embed=False)

    def latest(self) -> Mapping[str, int]:
        """The step of the last point of each curve that was there at the beginning."""
        return self._written

    def write(self, points: Sequence[Point]) -> None:
        """Add points, in order of step."""
        for step, row in rows(points):
            self._run.log(row, step=step)

    def close(self) -> None:
        """Have all that was written stored."""
        self._run.finish()


def _latest(logged: Sequence[Mapping[str, object]]) -> dict[str, int]:
    written: dict[str, int] = {}
    for row in logged:
        step = int(str(row["step"]))
        written |= {curve: max(step, written.get(curve, -1)) for curve in row if "/" in curve}
    return written
