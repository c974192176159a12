"""Weights & Biases: a run of a project, named and identified by the job."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bss_cli.following.points import Point, library, rows

EXTRA: Final = "wandb"
WRITTEN: Final = "bss_written"  # of the summary: the latest step of each curve, as JSON


class WandbTracker:
    """Logs to the run whose id is the job's name. What is there already stands in its summary, which a resumed run has.

    An offline run can't be resumed, so there a file beside the runs says it too.
    """

    def __init__(self, project: str, job: str) -> None:
        wandb = library("wandb", EXTRA)
        self._run = wandb.init(project=project, id=job, name=job, resume="allow")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._file = Path(self._run.settings.wandb_dir) / f"bss-{job}.json" if self._run.offline else None
        self._written: dict[str, int] = json.loads(self._remembered())

    def latest(self) -> Mapping[str, int]:
        """The step of the last point of each curve that is there."""
        return dict(self._written)

    def write(self, points: Sequence[Point]) -> None:
        """Add points, in order of step."""
        for step, row in rows(points):
            self._run.log({"step": step} | row)
        self._written |= {point.curve: point.step for point in points}
        self._run.summary[WRITTEN] = json.dumps(self._written)
        if self._file is not None:
            self._file.write_text(json.dumps(self._written), encoding="utf-8")

    def close(self) -> None:
        """Have all that was written stored."""
        self._run.finish()

    def _remembered(self) -> str:
        if self._file is not None and self._file.exists():
            return self._file.read_text(encoding="utf-8")
        return str(self._run.summary.get(WRITTEN) or "{}")
