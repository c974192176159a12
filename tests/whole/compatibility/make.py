"""Run the program against the version whose tree is the working directory, and keep what it stores and answers.

python make.py FOLDER ARTEFACT     (made for commit 5f27092, whose services write the first format)
"""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import program

SERVE = "import bss_service.live as live; live.SNAPSHOT_ENTRIES = {entries}; from bss_service.cli import main; main()"


class Service:
    def __init__(self, store: Path, entries: int) -> None:
        command = [
            sys.executable,
            "-c",
            SERVE.format(entries=entries),
            "serve",
            "--port",
            "0",
            "--store",
            f"sqlite:///{store}",
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stderr if "listening" in line)
        self.driver = program.Driver(re.search(r"http://[\d.:]+", line)[0], program.first_version)

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate()


def main() -> None:
    folder, artefact = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.safetensors").write_bytes(artefact)
    store = folder / "store.sqlite"
    service = Service(store, entries=50)
    for job in program.JOBS:
        program.begin(service.driver, job, artefact)
    service.stop()
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("DELETE FROM snapshots WHERE job = 'recovered'")
        connection.execute("UPDATE journal SET body = x'00' WHERE job = 'recovered' AND seq = 12")
    service = Service(store, entries=10**6)
    service.driver.train("recovered", range(17, 21), epoch=5)
    begun = {job: service.driver.record(job) for job in program.JOBS}
    for job in program.JOBS:
        (folder / f"{job}.snapshot").write_bytes(service.driver.snapshot(job))
    service.stop()
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")
    copy = folder / "copy.sqlite"
    shutil.copy(store, copy)
    service = Service(copy, entries=10**6)
    for job in program.JOBS:
        program.go_on(service.driver, job)
    continued = {job: service.driver.record(job) for job in program.JOBS}
    service.stop()
    for path in folder.glob("*.sqlite*"):
        if path != store:
            path.unlink()
    answers = {job: {"begun": begun[job], "continued": continued[job]} for job in program.JOBS}
    (folder / "answers.json").write_text(json.dumps(answers, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
