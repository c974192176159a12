"""Stand-ins for the libraries of trackers that are too heavy for every test run: what ours call of them, and no more.

Each holds to what the library of its name did when it was tried: wandb 0.31, mlflow-skinny 3.17, trackio 0.43.
"""

from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(members)
    return made


class Mlflow:
    """Experiments and runs in memory; as in a store, a metric that is logged twice is there twice."""

    def __init__(self) -> None:
        self.runs: dict[str, SimpleNamespace] = {}
        self.experiments: list[str] = []

    def modules(self) -> dict[str, ModuleType]:
        def metric(key: str, value: float, timestamp: int, step: int) -> SimpleNamespace:
            return SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

        entities = module("mlflow.entities", Metric=metric)
        return {"mlflow": module("mlflow", MlflowClient=lambda tracking_uri: self), "mlflow.entities": entities}

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=f"id of {name}") if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments.append(name)
        return f"id of {name}"

    def search_runs(self, experiment_ids: list[str], filter_string: str) -> list[SimpleNamespace]:
        assert filter_string.startswith("tags.`bss.job` = '")
        job = filter_string.split("'")[1]
        return [SimpleNamespace(info=run.info) for run in self.runs.values() if run.tags["bss.job"] == job]

    def create_run(self, experiment_id: str, tags: dict[str, str], run_name: str) -> SimpleNamespace:
        run = SimpleNamespace(info=SimpleNamespace(run_id=f"run {len(self.runs)}"), tags=dict(tags), logged=[])
        self.runs[run.info.run_id] = run
        return run

    def get_run(self, run_id: str) -> SimpleNamespace:
        return SimpleNamespace(data=SimpleNamespace(metrics={m.key: m.value for m in self.runs[run_id].logged}))

    def get_metric_history(self, run_id: str, key: str) -> list[SimpleNamespace]:
        return [m for m in self.runs[run_id].logged if m.key == key]

    def log_batch(self, run_id: str, metrics: list[SimpleNamespace]) -> None:
        assert len(metrics) <= 1000
        self.runs[run_id].logged += metrics

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.runs[run_id].tags[key] = value


class Wandb:
    """Runs of a project; offline, a run of the same id begins anew and its summary is empty."""

    def __init__(self, folder: Path, *, offline: bool) -> None:
        self._folder = folder
        self._offline = offline
        self._summaries: dict[str, dict[str, Any]] = defaultdict(dict)
        self.rows: list[dict[str, Any]] = []

    def modules(self) -> dict[str, ModuleType]:
        return {"wandb": module("wandb", init=self.init)}

    def init(self, project: str, id: str, name: str, resume: str) -> SimpleNamespace:  # noqa: A002
        assert resume == "allow"
        if self._offline:
            self._summaries[id] = {}
        return SimpleNamespace(
            define_metric=lambda name, step_metric=None: None,
            settings=SimpleNamespace(wandb_dir=str(self._folder)),
            offline=self._offline,
            summary=self._summaries[id],
            log=lambda row: self.rows.append(dict(row)),
            finish=lambda: None,
        )


class Trackio:
    """Runs of projects, and the storage that they are read back from."""

    def __init__(self) -> None:
        self.logs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)

    def modules(self) -> dict[str, ModuleType]:
        storage = module("trackio.sqlite_storage", SQLiteStorage=SimpleNamespace(get_logs=self.get_logs))
        return {"trackio": module("trackio", init=self.init), "trackio.sqlite_storage": storage}

    def get_logs(self, project: str, run: str) -> list[dict[str, Any]]:
        return [dict(row) for row in self.logs[project, run]]

    def init(self, project: str, name: str, resume: str, embed: bool) -> SimpleNamespace:
        assert (resume, embed) == ("allow", False)
        rows = self.logs[project, name]
        return SimpleNamespace(
            log=lambda row, step: rows.append({**row, "step": step, "timestamp": "2026-01-01"}), finish=lambda: None
        )
