"""`bss track`: every point of a job comes to its tracker once, whoever is stopped in between.

TensorBoard is the real one. Of the others there are stand-ins, and beside them the real ones where they are installed.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bss_cli.following.points import Point, of_decisions
from bss_cli.following.tracking import News, follow
from bss_service.core.observation import FIELDS, Observation
from bss_service.protocol.training import StepsRequest
from tests.bss_cli.conftest import Run, begin, train
from tests.bss_cli.following.stand_ins import Mlflow, Trackio, Wandb
from trainer_client.client import SchedulerClient

Written = list[
    tuple[str, int, float]
]  # curve, step and value of each point that a tracker has, twice what is there twice
REAL = [name for name in ("mlflow", "trackio", "wandb") if find_spec(name)]


@dataclass
class Place:
    """Where points go, and how to see what has come there."""

    to: str
    read: Callable[[str], Written]


def tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    def read(job: str) -> Written:
        events = EventAccumulator(str(tmp_path / job), size_guidance={"scalars": 0})
        events.Reload()
        return [(tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]

    return Place(f"tensorboard:{tmp_path}", read)


def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    library = Mlflow()
    install(library.modules(), monkeypatch)

    def read(job: str) -> Written:
        [run] = [run for run in library.runs.values() if run.tags["bss.job"] == job]
        return [(m.key, m.step, m.value) for m in run.logged]

    return Place("mlflow:http://nowhere", read)


def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, offline: bool = False) -> Place:
    library = Wandb(tmp_path, offline=offline)
    install(library.modules(), monkeypatch)
    return Place("wandb:project", lambda job: [point for row in library.rows for point in of_row(row)])


def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return wandb(tmp_path, monkeypatch, offline=True)


def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    library = Trackio()
    install(library.modules(), monkeypatch)
    return Place("trackio:project", lambda job: [p for row in library.get_logs("project", job) for p in of_row(row)])


def real_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    def read(job: str) -> Written:
        client = MlflowClient(tracking_uri=f"file:{tmp_path}")
        [run] = client.search_runs([client.get_experiment_by_name("bss").experiment_id], f"tags.`bss.job` = '{job}'")
        curves = run.data.metrics
        return [(m.key, m.step, m.value) for key in curves for m in client.get_metric_history(run.info.run_id, key)]

    return Place(f"mlflow:file:{tmp_path}", read)


def real_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    from trackio.sqlite_storage import SQLiteStorage

    project = tmp_path.name  # its database is in a folder that the library chose when it was imported
    return Place(f"trackio:{project}", lambda job: [p for r in SQLiteStorage.get_logs(project, job) for p in of_row(r)])


def real_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")

    def rows(job: str) -> Iterator[dict[str, Any]]:
        for file in sorted(tmp_path.glob(f"wandb/offline-run-*/run-{job}.wandb")):
            for data in leveldb_records(file.read_bytes()):
                items = Record.FromString(data).history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    return Place("wandb:project", lambda job: [point for row in rows(job) for point in of_row(row)])


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format behind the seven bytes with which one of wandb begins."""
    at, record = 7, b""
    while at + 7 <= len(log):
        if (left := 32768 - at % 32768) < 7:
            at += left  # the end of a block
            continue
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        record += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def install(modules: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def of_row(row: Mapping[str, Any]) -> Written:
    return [(k, int(row["step"]), v) for k, v in row.items() if "/" in k and not isinstance(v, str)]


PLACES = [tensorboard, mlflow, wandb, wandb_offline, trackio]
PLACES += [{"mlflow": real_mlflow, "trackio": real_trackio, "wandb": real_wandb}[name] for name in REAL]


@pytest.fixture(params=PLACES, ids=lambda place: place.__name__)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return request.param(tmp_path, monkeypatch)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("default")  # of those libraries
def test_every_point_comes_once_also_when_tracking_was_stopped_and_goes_on(
    bss: Run, client: SchedulerClient, place: Place
) -> None:
    job = begin(client, "fixed", kappa_loss=2)
    train(client, job, intervals=2)
    assert "points written to" in bss("track", job, "--to", place.to, "--once").stdout
    client.swap(job, "uniform", at="now")
    train(client, job, intervals=4)
    for _ in range(2):  # the second finds nothing new
        last = bss("track", job, "--to", place.to, "--once").stdout
    assert f"{job}: 0 points written to {place.to}\n" in last  # some libraries say more
    written = place.read(job)
    assert max(Counter((curve, step) for curve, step, _ in written).values()) == 1
    steps = {curve: [s for c, s, _ in written if c == curve] for curve, _, _ in written}
    assert steps["validation/accuracy"] == steps["heads/text/probability"] == [8, 16, 24, 32]
    assert steps["policy/version"] == steps["action/kappa_loss"] == [0, 8, 16, 24]
    assert steps["reward/gain"] == [16, 24, 32]  # nothing was validated before the first interval
    values = {(curve, step): value for curve, step, value in written}
    assert [values["action/kappa_loss", step] for step in (8, 16)] == [2, 0]
    assert values["reward/gain", 16] == pytest.approx(1 / 9 - 1 / 17)


def test_a_last_record_that_a_crash_cut_off_comes_again(
    bss: Run, client: SchedulerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, job = tensorboard(tmp_path, monkeypatch), begin(client, "uniform")
    train(client, job, intervals=2)
    bss("track", job, "--to", place.to, "--once")
    whole = place.read(job)
    [events] = (tmp_path / job).iterdir()
    events.write_bytes(events.read_bytes()[:-5])
    assert len(place.read(job)) == len(whole) - 1
    bss("track", job, "--to", place.to, "--once")
    assert sorted(place.read(job)) == sorted(whole)


def test_swaps_are_told_in_words(client: SchedulerClient) -> None:
    job = begin(client, "fixed", kappa_loss=2)
    train(client, job, intervals=1)
    client.swap(job, "uniform", at="now")
    train(client, job, intervals=3)
    told = [(p.step, p.text) for p in News(client, job, {}).look() if p.text is not None]
    assert told == [
        (0, "fixed is policy version 1: prefers easy samples (+2), with replacement"),
        (8, "uniform is policy version 2: plain shuffling"),
    ]


def test_shares_of_wrong_labels_and_pairs_are_curves(client: SchedulerClient) -> None:
    job = begin(client, "uniform")
    train(client, job, intervals=1)
    seen = {p.curve for p in News(client, job, {}).look()}
    assert "evidence/wrong_labels" not in seen  # its signals don't tell
    [decision] = client.decisions(job).decisions
    vector = decision.observation.vector.copy()
    for field, value in (("has_evidence", 1.0), ("right_labels", 0.75), ("right_pairs", 0.5)):
        vector[FIELDS.index(field)] = value
    judged = decision.model_copy(update={"observation": Observation(vector, 0, 0)})
    points = {p.curve: p.value for p in of_decisions([judged], 1, 1)}
    assert (points["evidence/wrong_labels"], points["evidence/wrong_pairs"]) == (0.25, 0.5)


class Memory:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def latest(self) -> Mapping[str, int]:
        return {}

    def write(self, points: Sequence[Point]) -> None:
        self.points += points

    def close(self) -> None:
        pass


def test_a_plan_that_may_yet_be_replaced_is_not_told(client: SchedulerClient) -> None:
    name = begin(client, "uniform")
    news = News(client, name, {})
    assert {p.step for p in news.look()} == {0}
    train(client, name, intervals=1)
    client.swap(name, "balance", at="now")
    client.steps(name, StepsRequest(start=8))
    assert [p.value for p in news.look() if p.curve == "policy/version"] == [2]


def test_what_is_new_is_written_as_the_job_goes_on(client: SchedulerClient) -> None:
    name, tracker = begin(client, "uniform"), Memory()
    written = follow(client, name, tracker, patient=True)
    for intervals in (1, 2, 2):
        train(client, name, intervals=intervals)
        next(written)
    assert [p.step for p in tracker.points if p.curve == "validation/loss"] == [8, 16]
    assert [p.step for p in tracker.points if p.curve == "reward/gain"] == [16]
    assert [p.step for p in tracker.points if p.curve == "policy/version"] == [0, 8]


@pytest.mark.parametrize("to", ["tensorboard", "tensorboard:", "excel:place"])
def test_a_place_that_is_none_is_refused(bss: Run, job: str, to: str) -> None:
    result = bss("track", job, "--to", to, "--once")
    assert (result.exit_code, f"got '{to}'" in result.stderr) == (2, True)


@pytest.mark.parametrize("extra", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_library_that_is_missing_is_named_with_its_extra(
    bss: Run, job: str, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == extra]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, extra, None)
    result = bss("track", job, "--to", f"{extra}:place", "--once")
    assert result.exit_code == 1
    assert f"{extra}" in result.stderr
    assert f"pip install 'bss-scheduler[{extra}]'" in " ".join(result.stderr.split())


def test_a_job_that_is_not_there_leaves_nothing_behind(bss: Run, tmp_path: Path) -> None:
    result = bss("track", "nobody", "--to", f"tensorboard:{tmp_path}", "--once")
    assert (result.exit_code, result.stderr) == (1, "error: job 'nobody' is not known\n")
    assert list(tmp_path.iterdir()) == []
