"""A short run of `make faults`: the same programs each time, though never quite the same moments of death."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.explore import explore
from tests.faults.service import Service

PROGRAMS = 15


def test_random_programs_break_no_promise(tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    with ThreadPoolExecutor(4) as pool:
        service = Service(tmp_path)
        try:
            explore(service, pool, done, PROGRAMS, seed=None)
        finally:
            service.close()
    assert done["programs"] == PROGRAMS
    assert done["kills"] >= PROGRAMS
    assert done["kills with requests in flight"] > 0
