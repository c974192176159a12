"""The drills of docs/deployment.md, by the commands that stand there: back-up and restore."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.postgres import Postgres, programs
from tests.support.services import Service
from tests.support.simulated import order, spec, take, train
from trainer_client import OtherJobError

PAGE = (Path(__file__).parents[3] / "docs/deployment.md").read_text()
DUMPED, AHEAD = range(9), range(9, 14)


def commands(heading: str) -> list[str]:
    """The blocks of commands below a heading of the page."""
    [section] = re.findall(rf"^### {heading}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def test_a_dump_is_restored_and_who_was_ahead_of_it_gets_nothing_once_jobs_are_made_anew(
    postgres: Postgres, tmp_path: Path
) -> None:
    back_up, restore, serve, anew = commands("A database in PostgreSQL")
    found = programs()
    assert found is not None
    own = tmp_path / "bin"
    own.mkdir()
    (own / "bss").write_text(f'#!/bin/sh\nexec {sys.executable} -m bss_cli "$@"\n')
    (own / "bss").chmod(0o700)
    database = postgres.database("drilled")
    server = database.replace("+psycopg", "").removesuffix("/drilled")

    def run(block: str, **environment: str) -> None:
        script = re.sub(r"^export SERVER=.*$", f"export SERVER={server}", block, flags=re.MULTILINE)
        script = script.replace("$SERVER/scheduler", "$SERVER/drilled")
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=tmp_path,
            env={"PATH": f"{own}:{found}:/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    job = spec("run-1", patience=1.0)
    with Service(folder_in(tmp_path, "before"), store=database) as service, service.client() as client:
        client.create_job(job)
        before = train(client, job, DUMPED)
        run(back_up)
        trained_by = client.job(job.name).incarnation
        train(client, job, AHEAD)
    run(restore)
    assert serve == 'bss serve --store "$SERVER/restored"\n'
    restored = Service(folder_in(tmp_path, "after"), store=f"{server}/restored")
    with restored as service, service.client() as client, service.client(retries=0) as ahead:
        assert client.job(job.name).next_step == len(DUMPED)
        assert client.job(job.name).incarnation == trained_by  # the dump knows nothing of those
        run(anew, BSS_URL=service.url)
        assert client.job(job.name).incarnation != trained_by
        ahead.bind(trained_by)
        with pytest.raises(OtherJobError):
            train(ahead, job, AHEAD)
        np.testing.assert_array_equal(order(take(client, job.name, DUMPED)), order(before))
        train(client, job, AHEAD)


def folder_in(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made
