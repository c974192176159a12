"""Runs random programs against the service: `python -m tests.faults` (make faults).

Prints what was done, and fails at a violation, or where fewer programs ran, or processes were killed, than asked for.
"""
# ruff: noqa: T201

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.faults.explore import Found, explore, repeat
from tests.faults.programs import Program
from tests.faults.service import Service
from tests.faults.shared import SharedServices
from tests.support.postgres import Postgres, programs


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--programs", type=int, default=2000, help="how many must run")
    parser.add_argument("--kills", type=int, default=200, help="how many processes must be killed")
    parser.add_argument("--processes", type=int, default=2, help="services at a time, each with its share of programs")
    parser.add_argument("--seed", type=int, default=0, help="of the random programs")
    parser.add_argument("--no-shrink", action="store_true", help="stop at the first violation")
    parser.add_argument("--shared", action="store_true", help="several services over one PostgreSQL database")
    parser.add_argument("--program", help="run this one, as a violation told it, instead")
    parser.add_argument("--times", type=int, default=20, help="how often; moments of death are never quite the same")
    parser.add_argument("--json", action="store_true", help="print counts as JSON")
    asked = parser.parse_args()
    started = time.monotonic()
    done, violations = _apart(asked) if asked.processes > 1 and not asked.program else _here(asked)
    seconds = time.monotonic() - started
    if asked.json:
        print(json.dumps({"done": done, "violations": violations}))
        return 1 if violations else 0
    for name, count in sorted(done.items()):
        print(f"{count:8d} {name}")
    print(f"{seconds:8.0f} seconds, seed {asked.seed}")
    for line in violations:
        print(line)
    if asked.program:
        return 1 if violations else 0
    short = done["programs"] < asked.programs or done["kills"] < asked.kills
    print("violations!" if violations else "fewer programs or kills than asked for" if short else "no violation")
    return 1 if violations or short else 0


def _here(asked: argparse.Namespace) -> tuple["Counter[str]", list[str]]:
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        service = _shared(Path(folder), stack) if asked.shared else Service(Path(folder))
        try:
            if asked.program:
                repeat(service, pool, done, Program.from_json(asked.program), asked.times)
            else:
                explore(service, pool, done, asked.programs, seed=asked.seed, shrink=not asked.no_shrink)
        except Found as violation:
            return done, [str(violation)]
        finally:
            service.close()
    return done, []


def _shared(folder: Path, stack: ExitStack) -> Service:
    found = programs()
    if found is None:
        raise SystemExit("--shared needs PostgreSQL's programs, as Debian's package postgresql has them")
    server = Postgres(found)
    stack.callback(server.close)
    return SharedServices(folder, server.database("faults"))


def _apart(asked: argparse.Namespace) -> tuple["Counter[str]", list[str]]:
    """The same in several processes with a seed each."""
    shares = [len(range(k, asked.programs, asked.processes)) for k in range(asked.processes)]
    command = [sys.executable, "-m", "tests.faults", "--processes", "1", "--json"]
    command += ["--no-shrink"] if asked.no_shrink else []
    command += ["--shared"] if asked.shared else []
    running = [
        subprocess.Popen(
            [*command, "--programs", str(share), "--seed", str(asked.seed * asked.processes + k)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for k, share in enumerate(shares)
    ]
    done: Counter[str] = Counter()
    violations: list[str] = []
    for process in running:
        output, _ = process.communicate()
        if not output:
            return done, [f"a process failed with status {process.returncode}"]
        answer = json.loads(output.splitlines()[-1])
        done.update(answer["done"])
        violations += answer["violations"]
    return done, violations


if __name__ == "__main__":
    sys.exit(main())
