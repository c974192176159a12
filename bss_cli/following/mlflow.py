"""MLflow: a run of the experiment `bss`, on a tracking server or in a local store."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bss_cli.following.points import Point, library

EXTRA: Final = "mlflow"
EXPERIMENT: Final = "bss"
PART: Final = 1000  # metrics that one call may have


class MlflowTracker:
    """Writes to the job's run, which it finds by its tag `bss.job`. What is there already is asked of the store."""

    def __init__(self, uri: str, job: str) -> None:
        mlflow = library("mlflow", EXTRA)
        self._entities = library("mlflow.entities", EXTRA)
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        known = self._client.search_runs([number], filter_string=f"tags.`bss.job` = '{job}'")
        self._run: str = (known[0] if known else self._create(number, job)).info.run_id

    def latest(self) -> Mapping[str, int]:
        """The step of the last point of each curve that is there."""
        curves = self._client.get_run(self._run).data.metrics
        return {curve: max(m.step for m in self._client.get_metric_history(self._run, curve)) for curve in curves}

    def write(self, points: Sequence[Point]) -> None:
        """Add points, in order of step."""
        now = round(time.time() * 1000)
        metrics = [self._entities.Metric(point.curve, point.value, now, point.step) for point in points]
        for start in range(0, len(metrics), PART):
            self._client.log_batch(self._run, metrics=metrics[start : start + PART])
        for point in points:
            if point.text is not None:
                self._client.set_tag(self._run, f"bss.{point.curve}.{point.step}", point.text)

    def close(self) -> None:
        """Have all that was written stored, as it is by then."""

    def _create(self, experiment: str, job: str) -> Any:
        return self._client.create_run(experiment, tags={"bss.job": job}, run_name=job)
