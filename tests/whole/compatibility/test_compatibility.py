"""What the version of commit 5f27092 stored and answered: this one opens it, goes on with it, and draws the same.

The archive was made by make.py, beside this file, in a tree of that commit.
"""

import json
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Service
from tests.whole.compatibility.program import FROM_SCRATCH, JOBS, Driver, Json, begin, go_on

ARCHIVE = Path(__file__).with_name("5f27092.zip")
StartService = Callable[..., Service]


def kept(name: str) -> bytes:
    """A file of the archive."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return archive.read(name)


def as_now(sample: Json) -> Json:
    """What was answered about a sample, its signals where they stand today."""
    names = {"similarity": "similarity", "loss": "loss", "probability": "probabilities"}
    rest = {name: value for name, value in sample.items() if name not in names.values()}
    return {**rest, "signals": {now: sample[then] for now, then in names.items()}}


ANSWERS: dict[str, dict[str, Json]] = {
    job: {moment: {**record, "samples": [as_now(s) for s in record["samples"]]} for moment, record in records.items()}
    for job, records in json.loads(kept("answers.json")).items()
}


def assert_holds(answer: Any, expected: Any, where: str = "") -> None:
    """All that was told then is told now; an answer may tell more.

    Real numbers to nine digits: the exponentials in the program's reports end in other digits on other processors. What
    is drawn of them, and everything else, is the very same.
    """
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert name in answer, f"{where}.{name}"
            assert_holds(answer[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(answer) == len(expected), where
        for k, value in enumerate(expected):
            assert_holds(answer[k], value, f"{where}.{k}")
    elif isinstance(expected, float) and ".batches." not in where:
        assert answer == pytest.approx(expected, rel=1e-9, abs=1e-9), where
    else:
        assert answer == expected, where


def without_job(record: Json) -> Json:
    """The record of a job that was copied under another name; batches of long ago stayed where they were drawn."""
    state = {name: value for name, value in record["state"].items() if name != "spec"}
    return {"state": state, "decisions": record["decisions"]}


@pytest.mark.parametrize("job", FROM_SCRATCH)
def test_the_same_calls_and_seeds_give_the_same_batches_and_decisions(service: Service, job: str) -> None:
    with Driver(service.url) as driver:
        begin(driver, job, kept("policy.safetensors"))
        assert_holds(driver.record(job), ANSWERS[job]["begun"])
        go_on(driver, job)
        assert_holds(driver.record(job), ANSWERS[job]["continued"])


@pytest.mark.parametrize("snapshots", ["with its snapshots", "by its journal alone"])
def test_a_store_opens_and_its_jobs_go_on(start_service: StartService, tmp_path: Path, snapshots: str) -> None:
    store = tmp_path / "bss.sqlite"
    store.write_bytes(kept("store.sqlite"))
    if snapshots == "by its journal alone":
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute("DELETE FROM snapshots WHERE seq > 0")
    with Driver(start_service().url) as driver:
        for job in JOBS:
            assert_holds(driver.record(job), ANSWERS[job]["begun"], job)
            go_on(driver, job)
            assert_holds(driver.record(job), ANSWERS[job]["continued"], job)


@pytest.mark.parametrize("job", JOBS)
def test_a_snapshot_becomes_a_job_that_goes_on(service: Service, job: str) -> None:
    copied = f"{job}-copied"
    continued = ANSWERS[job]["continued"]
    with Driver(service.url) as driver:
        driver.put_snapshot(copied, kept(f"{job}.snapshot"))
        start = driver.call("GET", f"/jobs/{copied}")["next_step"]
        assert_holds(driver.record(copied, start - 1), without_job(ANSWERS[job]["begun"]))
        go_on(driver, job, copied)
        now = driver.record(copied, start)
    assert_holds(now, without_job(continued))
    for name in ("indices", "probabilities", "policy_version", "epoch", "scored_until"):
        assert now["batches"][name] == continued["batches"][name][start:], name
