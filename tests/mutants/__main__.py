"""python -m tests.mutants: plant every fault of the TOML files beside this, and name those that no test notices."""

import argparse
import queue
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.planting import SECONDS, Copy, EntryError, Mutant, Outcome, mutants


def run(entries: list[Mutant], jobs: int) -> list[Outcome]:
    """Of the tests of each fault, of some that are planted in `jobs` copies at once."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        copies: queue.Queue[Copy] = queue.Queue()
        for k in range(jobs):
            copies.put(Copy(Path(folder) / str(k)))
        sound = sorted({test for entry in entries for test in entry.tests})
        first = copies.get()
        if first.run(sound, seconds=len(sound) * SECONDS) is not Outcome.PASSED:
            raise EntryError("the named tests must pass while nothing is planted")
        copies.put(first)

        def outcome(entry: Mutant) -> Outcome:
            copy = copies.get()
            try:
                return copy.outcome(entry)
            finally:
                copies.put(copy)

        return list(pool.map(outcome, entries))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="copies of the tree in which faults are planted at once")
    parser.add_argument("--only", default="", help="part of the names of the faults to plant")
    options = parser.parse_args()
    entries = [entry for entry in mutants() if options.only in entry.name]
    started = time.monotonic()
    outcomes = run(entries, options.jobs)
    for entry, outcome in zip(entries, outcomes, strict=True):
        if outcome is not Outcome.FAILED:
            said = "not noticed" if outcome is Outcome.PASSED else f"no end in {SECONDS:.0f} s"
            sys.stdout.write(f"{said}: {entry.name} in {entry.file}, by {', '.join(entry.tests)}\n")
    counts = [outcomes.count(outcome) for outcome in (Outcome.FAILED, Outcome.LATE)]
    sys.stdout.write(
        f"{len(entries)} planted, {sum(counts)} noticed, {counts[1]} of them because their tests came to no end, "
        f"{time.monotonic() - started:.0f} s\n"
    )
    return 1 if Outcome.PASSED in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
