"""python -m tests.mutants: plant every fault of the TOML files beside this, and name those that no test notices."""

import argparse
import queue
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.planting import SECONDS, Copy, EntryError, Mutant, mutants


def run(entries: list[Mutant], jobs: int) -> list[Mutant]:
    """The faults that are not noticed, of some that are planted in `jobs` copies at once."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        copies: queue.Queue[Copy] = queue.Queue()
        for k in range(jobs):
            copies.put(Copy(Path(folder) / str(k)))
        sound = sorted({test for entry in entries for test in entry.tests})
        first = copies.get()
        if not first.passes(sound, seconds=len(sound) * SECONDS):
            raise EntryError("the named tests must pass while nothing is planted")
        copies.put(first)

        def is_noticed(entry: Mutant) -> bool:
            copy = copies.get()
            try:
                return copy.is_noticed(entry)
            finally:
                copies.put(copy)

        noticed = list(pool.map(is_noticed, entries))
    return [entry for entry, was in zip(entries, noticed, strict=True) if not was]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="copies of the tree in which faults are planted at once")
    parser.add_argument("--only", default="", help="part of the names of the faults to plant")
    options = parser.parse_args()
    entries = [entry for entry in mutants() if options.only in entry.name]
    started = time.monotonic()
    survivors = run(entries, options.jobs)
    for entry in survivors:
        sys.stdout.write(f"not noticed: {entry.name} in {entry.file}, by {', '.join(entry.tests)}\n")
    noticed = len(entries) - len(survivors)
    sys.stdout.write(f"{len(entries)} planted, {noticed} noticed, {time.monotonic() - started:.0f} s\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
